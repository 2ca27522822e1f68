//! Without the feature `jwt` no token is believed.

use super::config::JwtConfig;
use super::judgement::Rejection;
use crate::caller::Token;
use crate::transport::PeerInfo;

/// There is none: a configuration that asks for one is refused by its check.
#[derive(Debug)]
pub(crate) struct Verifier(());

impl Verifier {
    /// Looks at nothing.
    pub(crate) async fn start(_config: &JwtConfig) -> Result<Self, String> {
        Err("this build has no tokens: the feature `jwt` is off".to_owned())
    }

    /// Believes nothing.
    pub(crate) async fn verify(&self, _bytes: &[u8], _peer: &PeerInfo) -> Result<Token, Rejection> {
        let Self(()) = self;
        Err(Rejection::wrong("this server takes no tokens"))
    }
}
