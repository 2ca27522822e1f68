//! A session stops decoding where its sink is full, and goes on where it stopped: nothing is lost,
//! nothing is taken for a stall, and never is more handed over than there is room for.

use std::time::Duration;

use crate::harness::{End, Pair, opened};
use postroad_proto::Time;
use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
use postroad_proto::session::{Arrivals, Config, DialectConfig, Mapping, Request, Session};

const SECOND: Duration = Duration::from_secs(1);

fn dialect_pair(dialect: Dialect) -> Pair {
    let now = Time(1_000_000_000);
    let dialect = DialectConfig {
        codec: DialectCodec::new(dialect, Reader::Client),
        mapping: Mapping::default().into(),
    };
    let client = Session::dialect_client(Config::default(), dialect.clone(), now);
    let server = Session::dialect_server(Config::default(), dialect, now);
    Pair::of(client, server, now, 1)
}

#[test]
fn a_session_stops_where_its_sink_is_full_and_goes_on_where_it_stopped() {
    for dialect in [None, Some(Dialect::Sequence), Some(Dialect::Compact)] {
        let mut pair = match dialect {
            None => opened(),
            Some(dialect) => dialect_pair(dialect),
        };
        pair.server.arrivals = Arrivals::new(3);
        pair.client.arrivals = Arrivals::new(2);
        let calls: Vec<_> = (0..100)
            .map(|_| {
                pair.call(b"one of many", 100 * SECOND)
                    .expect("there is room")
            })
            .collect();
        let mut wire = Vec::new();
        while pair.client.session.poll_transmit(&mut wire) {}
        pair.server.buf.extend_from_slice(&wire);
        let End {
            session,
            buf,
            arrivals,
            requests,
            ..
        } = &mut pair.server;
        let mut left = buf.len();
        for _ in 0..33 {
            session.handle_bytes(pair.now, buf, arrivals);
            assert_eq!(arrivals.requests.len(), 3, "as many as there was room for");
            assert!(buf.len() < left, "what found no room is still there");
            left = buf.len();
            session.handle_bytes(pair.now, buf, arrivals);
            assert_eq!((arrivals.requests.len(), buf.len()), (3, left));
            requests.extend(arrivals.requests.drain(..));
        }
        // What waits here for room is not a frame that the peer fails to finish.
        arrivals.requests.push_back(Request::default());
        arrivals.requests.extend(vec![Request::default(); 2]);
        session.handle_bytes(pair.now, buf, arrivals);
        session.handle_timeout(pair.now + 35 * SECOND);
        assert!(!session.is_closed(), "{dialect:?}");
        arrivals.requests.clear();
        session.handle_bytes(pair.now, buf, arrivals);
        assert!(buf.is_empty(), "nothing is left");
        pair.run_for(Duration::from_millis(10));
        assert_eq!(pair.server.requests.len(), 100, "{dialect:?}");
        assert_eq!(pair.echo_all(), 100);
        pair.run_for(Duration::from_millis(10));
        assert!(pair.client.stops > 40, "the client's sink takes two");
        for id in calls {
            assert!(pair.finished(id).is_some_and(|end| end.is_ok()));
        }
    }
}
