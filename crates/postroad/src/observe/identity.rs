//! Who calls: keys, tokens, certificates. The target of their log lines is `postroad::identity`.

use super::counters::Counters;
use super::log_rate::LogKind;
use crate::identity::Rejection;
use crate::transport::PeerInfo;

/// The keys of an issuer have changed.
#[cfg(feature = "jwt")]
pub(crate) fn keys(url: &str, keys: usize) {
    tracing::info!(target: "postroad::identity", url, keys, "other keys for tokens");
}

/// The keys of an issuer cannot be read. Those that were known stay.
#[cfg(feature = "jwt")]
pub(crate) fn no_keys(url: &str, why: &str) {
    tracing::warn!(
        target: "postroad::identity", url, why,
        "the keys for tokens cannot be read; those that are known stay"
    );
}

/// A client has no token to present, or its new one was not taken.
pub(crate) fn no_token(endpoint: &impl std::fmt::Display, why: &impl std::fmt::Display) {
    tracing::warn!(target: "postroad::identity", %endpoint, %why, "no token");
}

/// A client has presented a token that is not believed.
pub(crate) fn rejected(counters: &Counters, peer: &PeerInfo, rejection: &Rejection) {
    if counters.logs.allow(LogKind::Rejected) {
        tracing::warn!(
            target: "postroad::identity", %peer, connection = peer.connection().number(),
            code = %rejection.code, why = rejection.text, "token rejected"
        );
    }
}
