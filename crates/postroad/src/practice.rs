//! Routes to practise on: they sleep, burn processor time, fail, count and answer with many bytes,
//! as they are told. What httpbin is to HTTP, for guides, demonstrations and load tests.
//!
//! | route | request | what it does |
//! | --- | --- | --- |
//! | `practice/sleep` | `{"ms": 20}` | answers after so long; waits without a thread |
//! | `practice/spin` | `{"us": 200}` | burns so much processor time, then answers |
//! | `practice/fail` | `{"code": "PRC-E-001", "share": 0.1}` | fails this share of its calls |
//! | `practice/count` | `{"key": "a"}` | says how often it was executed with this key |
//! | `practice/size` | `{"bytes": 65536}` | answers with so many bytes |
//!
//! ```
//! use postroad::{Client, Server, practice};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::new(practice::routes());
//! let server = server.listen("mem://practice".parse()?).start().await?;
//! let client = Client::connect("mem://practice").await?;
//! let answer = client.request("practice/size").call_raw(r#"{"bytes": 3}"#).await?;
//! assert_eq!(answer.len(), 3);
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postroad_proto::code::Code;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::extract::{Payload, State};
use crate::route::RouteOptions;
use crate::router::Router;

/// Longest sleep, milliseconds: a minute shows every timeout there is.
const SLEEP_MAX: u64 = 60_000;
/// Most processor time, microseconds: a second blocks a reactor as long as anybody should see it.
const SPIN_MAX: u64 = 1_000_000;
/// Keys that are counted: more are refused, because whoever calls chooses them.
const KEYS_MAX: usize = 10_000;
/// Bytes of the longest key.
const KEY_BYTES_MAX: usize = 256;
/// Codes whose shares are kept apart, likewise.
const CODES_MAX: usize = 1_000;
/// Bytes of the largest answer: below what a client accepts by default.
const SIZE_MAX: usize = 8 << 20;

/// The practice routes, to be served or merged into a router of your own.
///
/// They are for trying things out. Who may call them can keep a processor busy, so leave them out
/// of a node that strangers reach.
#[must_use]
pub fn routes() -> Router {
    let router = Router::with_state(Practice::default())
        .route_with(
            "practice/sleep",
            options(
                "Answers after so many milliseconds",
                "{ms: u64}",
                "{ms: u64}",
            )
            .idempotent(),
            sleep,
        )
        .route_with(
            "practice/spin",
            options(
                "Burns so many microseconds of processor time, then answers",
                "{us: u64}",
                "{us: u64}",
            )
            .idempotent(),
            spin,
        )
        .route_with(
            "practice/fail",
            options(
                "Fails this share of its calls with this code",
                "{code: String, share: f64 = 1}",
                "{failed: bool}",
            )
            .idempotent(),
            fail,
        )
        .route_with(
            "practice/count",
            options(
                "Says how often it was executed with this key",
                "{key: String}",
                "{key: String, count: u64}",
            ),
            count,
        )
        .route_with(
            "practice/size",
            options("Answers with so many bytes", "{bytes: usize}", "Bytes").idempotent(),
            size,
        );
    Router::new().merge(router)
}

fn options(description: &str, request: &str, response: &str) -> RouteOptions {
    RouteOptions::new()
        .describe(description)
        .types(request, response)
}

/// What the routes remember.
#[derive(Clone, Default)]
struct Practice(Arc<Memory>);

#[derive(Default)]
struct Memory {
    counts: Mutex<HashMap<String, u64>>,
    /// Calls of each code that was asked for.
    failures: Mutex<HashMap<Code, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A counter is right also after a panic beside it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails if a field is over its bound.
fn check<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    max: T,
    unit: &str,
) -> Result<(), Error> {
    if value <= max {
        return Ok(());
    }
    let text = format!("{field} = {value} is out of bounds: at most {max} {unit}");
    Err(Error::bad_request(text))
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sleep {
    ms: u64,
}

async fn sleep(asked: Payload<Sleep>) -> Result<Payload<Sleep>, Error> {
    let ms = asked.value.ms;
    check("ms", ms, SLEEP_MAX, "milliseconds")?;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(asked)
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Spin {
    us: u64,
}

async fn spin(asked: Payload<Spin>) -> Result<Payload<Spin>, Error> {
    let us = asked.value.us;
    check("us", us, SPIN_MAX, "microseconds")?;
    // The real clock, also where a test has paused the runtime's: that one stands still while a
    // handler burns time.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(us) {
        std::hint::spin_loop();
    }
    Ok(asked)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    code: String,
    #[serde(default = "always")]
    share: f64,
}

fn always() -> f64 {
    1.0
}

#[derive(Serialize)]
struct Spared {
    failed: bool,
}

/// Whether the n-th call, counted from 0, is one of the share that fails. Spread evenly and the
/// same each time, so that a test can rely on it: of n calls always n times the share fail, rounded
/// down.
fn is_to_fail(n: u64, share: f64) -> bool {
    let failed_until = |n: u64| (n as f64 * share).floor();
    failed_until(n + 1) > failed_until(n)
}

async fn fail(
    State(practice): State<Practice>,
    asked: Payload<Fail>,
) -> Result<Payload<Spared>, Error> {
    let Fail { code, share } = &asked.value;
    let code = Code::parse(code).map_err(|error| Error::bad_request(format!("code: {error}")))?;
    if !(0.0..=1.0).contains(share) {
        let text = format!("share = {share} is out of bounds: 0 to 1");
        return Err(Error::bad_request(text));
    }
    let n = next(&practice.0.failures, code, CODES_MAX, "codes")?;
    if is_to_fail(n - 1, *share) {
        let text = format!("a practice failure, as asked for: share {share}");
        return Err(Error::new(code.as_str(), text));
    }
    Ok(asked.reply(Spared { failed: false }))
}

/// How often this was called with that key, this call included.
fn next<K: std::hash::Hash + Eq>(
    counts: &Mutex<HashMap<K, u64>>,
    key: K,
    max: usize,
    what: &str,
) -> Result<u64, Error> {
    let mut counts = lock(counts);
    if counts.len() >= max && !counts.contains_key(&key) {
        let text = format!("{max} {what} are counted already, and none is forgotten");
        return Err(Error::bad_request(text));
    }
    let count = counts.entry(key).or_default();
    *count += 1;
    Ok(*count)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    key: String,
}

#[derive(Serialize)]
struct Counted {
    key: String,
    count: u64,
}

async fn count(
    State(practice): State<Practice>,
    asked: Payload<Count>,
) -> Result<Payload<Counted>, Error> {
    let key = asked.value.key.clone();
    check("key", key.len(), KEY_BYTES_MAX, "bytes")?;
    let count = next(&practice.0.counts, key.clone(), KEYS_MAX, "keys")?;
    Ok(asked.reply(Counted { key, count }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    bytes: usize,
}

async fn size(asked: Payload<Size>) -> Result<Bytes, Error> {
    let bytes = asked.value.bytes;
    check("bytes", bytes, SIZE_MAX, "bytes")?;
    Ok(Bytes::from(vec![b'x'; bytes]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_calls_fails_evenly() {
        let failed = |share: f64, calls: u64| (0..calls).filter(|n| is_to_fail(*n, share)).count();
        assert_eq!(failed(0.0, 1000), 0);
        assert_eq!(failed(1.0, 1000), 1000);
        assert_eq!(failed(0.5, 1001), 500);
        assert_eq!(failed(0.25, 1000), 250);
        // Never two neighbours where one in three fails.
        assert!((0..1000).all(|n| !(is_to_fail(n, 0.3) && is_to_fail(n + 1, 0.3))));
    }

    #[test]
    fn no_more_than_so_many_keys_are_counted() {
        let counts = Mutex::default();
        for key in 0..3 {
            assert_eq!(next(&counts, key, 3, "keys").ok(), Some(1));
        }
        assert_eq!(next(&counts, 1, 3, "keys").ok(), Some(2));
        let refused = next(&counts, 3, 3, "keys").expect_err("a fourth key");
        assert_eq!(refused.code(), Code::BAD_REQUEST);
    }
}
