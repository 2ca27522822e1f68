//! Who calls, what they may call, and what is written down of it.
//!
//! A connection's [`Caller`] is found out by the certificate that its client has shown (`client_ca`
//! of a TLS listener), by the token that it has presented, or not at all. The rules of a server say
//! by `allow` what callers may call; see [`RouteRule`](crate::route::RouteRule) and
//! [`RunningServer::set_rules`](crate::RunningServer::set_rules). The guide is `docs/identity.md`.
//!
//! ```
//! use postroad::extract::Identity;
//! use postroad::route::RouteRule;
//! use postroad::{Client, Router, Server, ServerConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rule = RouteRule::of("who/*");
//! rule.allow = Some(vec!["anonymous".to_owned()]);
//! let mut config = ServerConfig::default();
//! config.rules.push(rule);
//! let router = Router::new()
//!     .route("who/am-i", async |Identity(caller): Identity| caller.to_string())
//!     .route("secret", async || "gold");
//! let server = Server::new(router).config(config).listen("mem://who".parse()?).start().await?;
//! let client = Client::connect("mem://who").await?;
//! assert_eq!(client.request("who/am-i").call_raw("").await?, "anonymous");
//! let refused = client.request("secret").call_raw("").await.unwrap_err();
//! assert_eq!(refused.code().as_str(), "AUT-E-401");
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod judgement;
#[cfg(feature = "jwt")]
mod jwt;
#[cfg(not(feature = "jwt"))]
#[path = "jwt_absent.rs"]
mod jwt;
mod source;
#[cfg(feature = "jwt")]
mod strikes;

pub use crate::caller::{Caller, PeerCertificate, SubjectName, Token};
pub use config::{AuditConfig, AuditFormat, AuditWhich, IdentityConfig, JwtConfig};
pub use source::TokenSource;

pub(crate) use judgement::Rejection;
pub(crate) use jwt::Verifier;

/// The route by which a client presents a token on a connection that is open.
pub(crate) const IDENTIFY: &str = "postroad/identify";
