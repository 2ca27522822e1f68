//! Tokens that clients present: in the opening of a connection, and while it is open.

use std::sync::Arc;
use std::time::SystemTime;

use postroad_proto::session::Credentials;
use serde::Serialize;

use super::routes::Dispatch;
use crate::caller::{Caller, Token};
use crate::codec::Json;
use crate::driver::Connection;
use crate::error::Error;
use crate::extract::Request;
use crate::identity::Rejection;
use crate::observe::identity as observe;
use crate::transport::PeerInfo;

/// What `postroad/identify` answers.
#[derive(Serialize)]
pub(super) struct Identified {
    /// The name of the caller, or `anonymous`.
    caller: String,
    roles: Vec<String>,
    spiffe: Vec<String>,
    /// Seconds until it has to bring another token.
    expires_in: Option<u64>,
}

impl Identified {
    fn of(caller: &Caller) -> Self {
        let left = |expires: SystemTime| expires.duration_since(SystemTime::now());
        Self {
            caller: caller.to_string(),
            roles: caller.roles().to_vec(),
            spiffe: caller.spiffe_ids().map(str::to_owned).collect(),
            expires_in: caller
                .expires()
                .map(|at| left(at).map_or(0, |left| left.as_secs())),
        }
    }
}

async fn verify(dispatch: &Dispatch, bytes: &[u8], peer: &PeerInfo) -> Result<Token, Rejection> {
    match dispatch.verifier.get() {
        Some(verifier) => verifier.verify(bytes, peer).await,
        None => Err(Rejection::wrong("this server takes no tokens")),
    }
}

/// Judges the credentials of a connection that is being opened.
pub(super) fn judge(dispatch: &Arc<Dispatch>, on: &Arc<Connection>, credentials: Credentials) {
    let (dispatch, connection) = (Arc::clone(dispatch), Arc::clone(on));
    tokio::spawn(async move {
        let peer = &connection.peer;
        match verify(&dispatch, &credentials.0, peer).await {
            Ok(token) => {
                peer.identify(token);
                connection.admit();
            }
            Err(rejection) => {
                observe::rejected(&dispatch.counters, peer, &rejection.error());
                connection.deny(rejection.denial());
            }
        }
    });
}

/// Takes another token on a connection that is open, and answers who the caller is; without a token
/// it only answers.
///
/// # Errors
/// Why the token is not believed. The caller stays who it was.
pub(super) async fn identify(
    dispatch: Option<Arc<Dispatch>>,
    request: Request,
) -> Result<Json<Identified>, Error> {
    let peer = request.peer();
    let dispatch = dispatch.ok_or_else(|| Error::internal("the server has ended"))?;
    let presented = presented(&request.payload);
    if presented.is_empty() {
        return Ok(Json(Identified::of(&peer.caller())));
    }
    let rejected = |rejection: Rejection| {
        let error = rejection.error();
        observe::rejected(&dispatch.counters, peer, &error);
        error
    };
    let token = verify(&dispatch, presented, peer).await.map_err(rejected)?;
    let caller = peer.caller();
    // Requests that are on their way are those of whom the connection was opened for.
    if let Some(before) = caller.token()
        && before.subject != token.subject
    {
        let text = "the token is of another subject than the one before: open a connection for it";
        return Err(rejected(Rejection::wrong(text)));
    }
    peer.identify(token);
    Ok(Json(Identified::of(&peer.caller())))
}

/// The token within a payload: as it is, or as text of JSON. `null` is none.
fn presented(payload: &[u8]) -> &[u8] {
    let text = payload.trim_ascii();
    let quoted = text
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    match text {
        b"null" => b"",
        text => quoted.unwrap_or(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_presented_as_it_is_or_as_text_of_json() {
        assert_eq!(presented(b" a.b.c\n"), b"a.b.c");
        assert_eq!(presented(b"\"a.b.c\""), b"a.b.c");
        assert_eq!(presented(b"null"), b"");
        assert_eq!(presented(b"\"\""), b"");
        assert_eq!(presented(b"\""), b"\"");
    }
}
