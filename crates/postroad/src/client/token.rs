//! The token that a client presents: before each connection, and again before it expires.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::limits::CREDENTIALS_MAX;
use postroad_proto::session::{Call, Credentials, Failure};
use serde::Deserialize;

use super::keeper::Keeper;
use crate::codec::numbers;
use crate::driver::{Budget, Connection};
use crate::endpoint::{Endpoint, Protocol};
use crate::identity::{IDENTIFY, TokenSource};
use crate::observe::identity as observe;

/// How long the server may take to look at a token.
const TIMEOUT: Duration = Duration::from_secs(5);
/// When it is tried again after a new token was not to be had, or was not taken.
const AGAIN: Duration = Duration::from_secs(5);
/// The shortest and the longest time between two tokens.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// The token as a connection is opened with it.
///
/// # Errors
/// Why there is none.
pub(super) async fn credentials(source: &TokenSource) -> Result<Credentials, String> {
    let token = source.token().await;
    let token = token.map_err(|why| format!("no token to present: {why}"))?;
    if token.len() > CREDENTIALS_MAX {
        let len = token.len();
        let text = format!("the token has {len} bytes; an opening has room for {CREDENTIALS_MAX}");
        return Err(text);
    }
    Ok(Credentials(token.into()))
}

/// What the server says of who this is.
#[derive(Deserialize)]
struct Identified {
    expires_in: Option<u64>,
}

/// Presents new tokens on a connection that is open, until it ends or what is given back is
/// dropped. `None` if there will be none.
pub(super) fn keep_fresh(
    keeper: &Keeper,
    source: &TokenSource,
    connection: &Arc<Connection>,
) -> Option<Task> {
    let is_native = matches!(keeper.endpoint.protocol(), Protocol::Native);
    if source.is_fixed() || !is_native {
        return None;
    }
    let endpoint = keeper.endpoint.clone();
    let renewing = renew(endpoint, source.clone(), Arc::clone(connection));
    Some(Task(tokio::spawn(renewing).abort_handle()))
}

/// Presents a new token when four fifths of the last one's time are over, as the server sees it.
async fn renew(endpoint: Endpoint, source: TokenSource, connection: Arc<Connection>) {
    let mut answer = identify(&connection, Bytes::from_static(b"null")).await;
    while !connection.is_over() {
        let pause = match &answer {
            Ok(Identified {
                expires_in: Some(seconds),
            }) => (Duration::from_secs(*seconds) / 5 * 4).clamp(SHORTEST, LONGEST),
            // It does not expire, or the server has no tokens.
            Ok(_) => return,
            Err(Some(why)) => {
                observe::no_token(&endpoint, why);
                AGAIN
            }
            Err(None) => return,
        };
        tokio::time::sleep(pause).await;
        answer = match source.token().await {
            Ok(token) => identify(&connection, token.into()).await,
            Err(why) => Err(Some(why)),
        };
    }
}

/// Presents a token, or nothing to be told who this is. `Err(None)` if the server has no such
/// route, or the connection is over.
async fn identify(connection: &Connection, token: Bytes) -> Result<Identified, Option<String>> {
    let budget = Budget::within(TIMEOUT, Time::NEVER);
    let mut call = Call {
        route: IDENTIFY,
        payload: &token,
        codec: numbers::JSON,
        priority: 7,
        deadline: Time::NEVER,
        attempt: 0,
        no_retry: false,
        trace: None,
        metadata: &[],
    };
    let began = poll_fn(|cx| Poll::Ready(connection.call(&mut call, budget, cx.waker()))).await;
    let answer = match began {
        Ok(key) => poll_fn(|cx| connection.poll_answer(key, cx.waker())).await,
        Err(failure) => Err(Box::new(failure)),
    };
    match answer {
        Ok(reply) => serde_json::from_slice(&reply.payload)
            .map_err(|error| Some(format!("{IDENTIFY} answers with something else: {error}"))),
        Err(failure) => Err(match *failure {
            Failure::Remote(error) if error.code() == Code::NOT_FOUND => None,
            Failure::NotOpen | Failure::Lost { .. } => None,
            Failure::Remote(error) => Some(error.to_string()),
            other => Some(other.to_string()),
        }),
    }
}

/// A task that ends when this is dropped.
pub(super) struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
