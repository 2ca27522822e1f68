//! A day of one connection in simulated time: heartbeats, calls, silence, and calls again. What the
//! sessions hold at the end of each hour is what they held at the end of the first.

use std::time::Duration;

use crate::harness::{End, closed, opened};
use postroad_proto::session::Event;

const CALLS_AN_HOUR: usize = 3000;

/// Takes what was not looked at: round trips.
fn forget(end: &mut End) -> usize {
    let before = end.events.len();
    let is_round_trip = |event: &Event| matches!(event, Event::RoundTrip(_));
    end.events.retain(|event| !is_round_trip(event));
    before - end.events.len()
}

#[test]
fn a_day_of_calls_and_heartbeats_leaves_nothing_behind() {
    let mut pair = opened();
    let (mut round_trips, mut after_an_hour) = (0, None);
    for hour in 0..24 {
        for number in 0..CALLS_AN_HOUR {
            let id = pair
                .call(b"payload", Duration::from_secs(5))
                .expect("room for a call");
            pair.run_for(Duration::from_millis(10));
            // Some are given up before they are answered, some are never answered.
            match number % 50 {
                0 => pair.client.session.cancel(pair.now, id),
                1 => drop(pair.request()),
                _ => assert!(pair.echo_all() >= 1),
            }
            pair.run_for(Duration::from_millis(10));
            if number % 50 > 1 {
                assert!(
                    pair.finished(id).is_some_and(|end| end.is_ok()),
                    "call {number}"
                );
            }
        }
        // The rest of the hour is silence, in which those without an answer expire.
        pair.run_for(Duration::from_secs(3600) - Duration::from_millis(20) * CALLS_AN_HOUR as u32);
        pair.client.finished.clear();
        pair.server.requests.clear();
        pair.server
            .events
            .retain(|event| !matches!(event, Event::Cancelled(..)));
        round_trips += forget(&mut pair.client) + forget(&mut pair.server);
        assert_eq!(closed(&pair.client), None, "hour {hour}");
        assert_eq!(pair.client.session.calls_in_flight(), 0);
        assert_eq!(pair.server.session.requests_in_flight(), 0);
        let held = (pair.client.session.memory(), pair.server.session.memory());
        assert_eq!(*after_an_hour.get_or_insert(held), held, "hour {hour}");
    }
    assert!(round_trips > 24 * 60, "{round_trips} heartbeats in a day");
}
