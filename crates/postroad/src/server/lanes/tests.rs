//! What is served when.

use postroad_proto::policy::OrderConfig;

use super::*;
use crate::transport::PeerInfo;

type Tested = Lanes<char, u32>;

fn lanes() -> Tested {
    Lanes::new(Levels::new(OrderConfig::default()))
}

fn connection() -> ConnectionId {
    PeerInfo::named("tester").connection()
}

fn call(level: u8, deadline: u64) -> Ticket {
    Ticket {
        level,
        deadline: Time(deadline),
        ..Ticket::default()
    }
}

fn message() -> Ticket {
    Ticket {
        level: 3,
        deadline: Time::NEVER,
        is_message: true,
        ..Ticket::default()
    }
}

fn push_all(
    lanes: &mut Tested,
    whose: ConnectionId,
    name: char,
    items: std::ops::Range<u32>,
    ticket: Ticket,
) {
    for item in items {
        lanes.push(whose, || name, item, ticket);
    }
}

/// Serves one after the other, each for so long, and says whose they were.
fn run(lanes: &mut Tested, times: usize, nanos: u64) -> Vec<(char, u32)> {
    let mut served = Vec::new();
    for _ in 0..times {
        let Some(next) = lanes.take(Time(1)) else {
            break;
        };
        served.extend(next.taken.map(|taken| (next.owner, taken.item)));
        lanes.done(next.connection, nanos);
    }
    served
}

#[test]
fn the_most_important_is_first_then_the_most_urgent_then_the_oldest() {
    let mut lanes = lanes();
    let (a, b) = (connection(), connection());
    lanes.push(a, || 'a', 0, call(1, 10));
    lanes.push(a, || 'a', 1, call(6, 90));
    lanes.push(b, || 'b', 2, call(6, 80));
    lanes.push(a, || 'a', 3, call(6, 80));
    lanes.push(b, || 'b', 4, call(7, 500));
    assert_eq!(lanes.top(), Some(7));
    let order = run(&mut lanes, 9, 1);
    assert_eq!(order, [('b', 4), ('b', 2), ('a', 3), ('a', 1), ('a', 0)]);
    assert_eq!((lanes.top(), lanes.len(), lanes.work), (None, 0, [0; 8]));
    assert!(lanes.lanes.is_empty());
}

#[test]
fn who_has_used_up_a_round_waits_for_the_others_though_it_names_shorter_deadlines() {
    let mut lanes = lanes();
    let (greedy, modest) = (connection(), connection());
    push_all(&mut lanes, greedy, 'g', 0..10, call(3, 1));
    push_all(&mut lanes, modest, 'm', 0..2, call(3, 99));
    // Two of these are a round.
    let order: String = run(&mut lanes, 99, ROUND / 2)
        .iter()
        .map(|(whose, _)| *whose)
        .collect();
    assert_eq!(order, "ggmmgggggggg");
}

#[test]
fn messages_of_one_connection_keep_their_order_also_behind_one_that_is_being_served() {
    let mut lanes = lanes();
    let only = connection();
    lanes.push(only, || 'a', 0, message());
    let first = lanes.take(Time(1)).expect("it was pushed");
    lanes.push(only, || 'a', 1, message());
    // The driver sees that it must not start the next in place.
    assert!(lanes.top() == Some(3) && lanes.look(only) == LaneState::Waiting);
    lanes.done(first.connection, ROUND);
    push_all(&mut lanes, only, 'a', 2..50, message());
    let order: Vec<u32> = run(&mut lanes, 99, ROUND).iter().map(|(_, n)| *n).collect();
    assert_eq!(order, (1..50).collect::<Vec<_>>());
}

#[test]
fn a_parked_connection_keeps_its_order_and_its_turns_come_back() {
    let mut lanes = lanes();
    let (deaf, other) = (connection(), connection());
    push_all(&mut lanes, deaf, 'd', 0..2, message());
    let next = lanes.take(Time(1)).expect("it was pushed");
    lanes.park(deaf, next.taken.expect("it waits"));
    lanes.push(deaf, || 'd', 2, call(7, 1));
    lanes.push(other, || 'o', 9, message());
    assert_eq!(lanes.top(), Some(3), "what is parked holds nobody up");
    assert_eq!(run(&mut lanes, 10, 1), [('o', 9)]);
    assert_eq!((lanes.len(), lanes.look(deaf)), (0, LaneState::Parked));
    lanes.resume(deaf);
    lanes.resume(deaf);
    assert_eq!(run(&mut lanes, 10, 1), [('d', 2), ('d', 0), ('d', 1)]);
}

#[test]
fn requests_that_were_called_off_leave_and_the_driver_is_woken_though_none_is_left() {
    let mut lanes = lanes();
    let only = connection();
    push_all(&mut lanes, only, 'a', 0..256, message());
    assert_eq!(lanes.look(only), LaneState::Full);
    assert_eq!(lanes.retain(only, |n| *n != 5), [5]);
    assert_eq!(lanes.retain(only, |_| false).len(), 255);
    assert_eq!((lanes.len(), lanes.bytes(), lanes.top()), (0, 0, None));
    let next = lanes.take(Time(1)).expect("somebody waits to be woken");
    assert!(next.taken.is_none() && lanes.done(only, 0), "woken");
    assert!(lanes.lanes.is_empty() && lanes.take(Time(1)).is_none());
}

#[test]
fn a_lane_is_full_by_messages_or_by_bytes_and_the_driver_is_woken_once_at_half() {
    let mut lanes = lanes();
    let only = connection();
    let large = Ticket {
        bytes: BYTES_MAX,
        ..call(3, 5)
    };
    lanes.push(only, || 'a', 0, large);
    assert_eq!(lanes.look(only), LaneState::Full);
    run(&mut lanes, 1, 1);
    push_all(&mut lanes, only, 'a', 0..1000, call(3, 5));
    assert_eq!(lanes.look(only), LaneState::Waiting, "calls stop no driver");
    run(&mut lanes, 1000, 1);
    push_all(&mut lanes, only, 'a', 0..256, message());
    assert_eq!(lanes.look(only), LaneState::Full);
    let mut woken_at = Vec::new();
    while lanes.take(Time(1)).is_some() {
        if lanes.done(only, 1) {
            woken_at.push(lanes.len());
        }
    }
    assert_eq!(woken_at, [128]);
}

#[test]
fn the_least_important_makes_room_and_the_one_that_would_be_last_of_it() {
    let mut lanes = lanes();
    let (a, b) = (connection(), connection());
    lanes.push(a, || 'a', 0, call(2, 10));
    lanes.push(b, || 'b', 1, call(2, 20));
    lanes.push(b, || 'b', 2, call(2, 30));
    lanes.push(a, || 'a', 3, call(4, 99));
    assert!(!lanes.can_evict(2) && lanes.evict(2).is_none());
    assert_eq!(lanes.evict(5), Some(('b', 2)));
    assert_eq!(lanes.evict(5), Some(('b', 1)));
    assert_eq!(lanes.evict(4), Some(('a', 0)));
    assert_eq!(lanes.evict(4), None);
    assert_eq!(run(&mut lanes, 9, 1), [('a', 3)]);
}

#[test]
fn a_level_waits_for_what_is_as_important_but_no_longer_than_its_share_takes() {
    let mut lanes = lanes();
    let only = connection();
    let work = |level, cost| Ticket {
        cost,
        ..call(level, 5)
    };
    lanes.push(only, || 'a', 0, work(6, 4000));
    lanes.push(only, || 'a', 1, work(2, 10));
    assert_eq!((lanes.wait(7), lanes.wait(6), lanes.wait(3)), (0, 4000, 0));
    assert_eq!(lanes.wait(2), 10 * GUARANTEED);
    lanes.push(only, || 'a', 2, work(2, 1000));
    assert_eq!(lanes.wait(2), 5010);
}

#[test]
fn one_that_gives_up_is_found_by_its_place() {
    let mut lanes = lanes();
    let only = connection();
    let place = lanes.push(only, || 'a', 7, call(3, 5));
    let other = lanes.push(only, || 'a', 8, call(3, 4));
    assert_eq!(lanes.remove(place), Some(7));
    assert_eq!(run(&mut lanes, 9, 1), [('a', 8)]);
    assert_eq!(lanes.remove(other), None);
    assert!(lanes.lanes.is_empty() && lanes.top().is_none());
}

#[test]
fn who_always_has_one_request_does_not_keep_others_from_their_next_round() {
    let mut lanes = lanes();
    let (patient, eager) = (connection(), [connection(), connection(), connection()]);
    push_all(&mut lanes, patient, 'p', 0..100, call(3, 1_000_000));
    let mut served = 0;
    for turn in 0..1000 {
        for one in eager {
            if lanes.look(one) == LaneState::Empty {
                lanes.push(one, || 'e', turn, call(3, 5));
            }
        }
        let next = lanes.take(Time(1)).expect("something waits");
        served += usize::from(next.owner == 'p');
        lanes.done(next.connection, ROUND / 2);
    }
    // Each round of 20 turns has one of it, however soon the others are due.
    assert!((35..=100).contains(&served), "{served} of the patient one");
}

#[test]
fn what_is_parked_does_not_fill_the_queue_of_others() {
    let mut lanes = lanes();
    let deaf = connection();
    push_all(&mut lanes, deaf, 'd', 0..50, call(3, 5));
    let next = lanes.take(Time(1)).expect("it was pushed");
    lanes.park(deaf, next.taken.expect("it waits"));
    assert_eq!((lanes.len(), lanes.work), (0, [0; 8]));
    assert_eq!(lanes.retain(deaf, |n| n % 2 == 0).len(), 25);
    lanes.resume(deaf);
    assert_eq!(lanes.len(), 25);
    assert_eq!(run(&mut lanes, 99, 1).len(), 25);
    assert!(lanes.lanes.is_empty() && lanes.bytes() == 0);
}

#[test]
fn calls_that_are_called_off_are_found_without_a_search() {
    let mut lanes = lanes();
    let only = connection();
    let named = |call| Ticket {
        call: Some((call as u16, 0)),
        ..self::call(3, 5)
    };
    for call in 0..10_000 {
        lanes.push(only, || 'a', call, named(call));
    }
    for call in (1..10_000).rev() {
        assert_eq!(lanes.remove_call(only, (call as u16, 0)), Some(call));
    }
    assert_eq!(lanes.remove_call(only, (5, 0)), None);
    assert_eq!(run(&mut lanes, 9, 1), [('a', 0)]);
    assert_eq!(lanes.remove_call(only, (0, 0)), None, "it was served");
    assert!(lanes.lanes.is_empty());
}
