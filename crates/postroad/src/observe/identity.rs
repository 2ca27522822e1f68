//! Who calls: keys, tokens, certificates. The target of their log lines is `postroad::identity`.

use super::counters::Counters;
use super::log_rate::LogKind;
use crate::error::Error;
use crate::transport::PeerInfo;

/// The route by which a token is presented, also where it came with the opening.
const IDENTIFY: &str = "postroad/identify";

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
pub(crate) fn rejected(counters: &Counters, peer: &PeerInfo, error: &Error) {
    if let Some(audit) = counters.audit.get() {
        audit.refused(peer, &peer.caller(), IDENTIFY, error);
    }
    if counters.logs.allow(LogKind::Rejected) {
        tracing::warn!(
            target: "postroad::identity", %peer, connection = peer.connection().number(),
            %error, "token rejected"
        );
    }
}

/// The files of a listener were exchanged, and new connections are opened with the new ones.
pub(crate) fn certificates(endpoint: &impl std::fmt::Display) {
    tracing::info!(target: "postroad::identity", %endpoint, "other certificates");
}

/// The files of a listener were exchanged, and the new ones cannot be used.
pub(crate) fn no_certificates(endpoint: &impl std::fmt::Display, why: &std::io::Error) {
    tracing::warn!(
        target: "postroad::identity", %endpoint, %why,
        "the new certificates cannot be used; the old ones stay"
    );
}
