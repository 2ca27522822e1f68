//! How a client finds its servers, and how a server tells that it is there.
//!
//! A [`Target`] says where messages go: one endpoint, a list, or a *source* that knows the
//! instances and tells of every change. A source that is down, slow or wrong takes no server away:
//! the last good list stays until there is a better one. A [`Document`] is a text that a registry
//! keeps, such as a node's configuration.
//!
//! ```text
//! registration -> target -> file, dns, etcd, consul, nacos -> source -> updates
//!                      \-> follow -> copy, found     \-> http
//! ```
//!
//! The guide is `docs/discovery.md`. A source of one's own:
//!
//! ```
//! use postroad::discovery::{Discovery, DiscoveryError, Instance, Target, Updates};
//! use postroad::transport::BoxFuture;
//!
//! /// Instances by the name of a host, as some scheduler gives them.
//! #[derive(Debug)]
//! struct Numbered(tokio::sync::watch::Receiver<u16>);
//!
//! impl Discovery for Numbered {
//!     fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
//!         Box::pin(async move {
//!             let mut many = self.0.clone();
//!             loop {
//!                 let nodes = 0..*many.borrow_and_update();
//!                 let urls = nodes.map(|n| format!("tcp://node{n}:7400"));
//!                 let endpoints = urls.filter_map(|url| url.parse().ok());
//!                 updates.set(endpoints.map(Instance::new).collect());
//!                 if many.changed().await.is_err() {
//!                     return DiscoveryError::unreachable("the scheduler has ended");
//!                 }
//!             }
//!         })
//!     }
//! }
//!
//! let (many, watched) = tokio::sync::watch::channel(3);
//! let target = Target::of(Numbered(watched));
//! # drop((many, target));
//! ```

#[cfg(feature = "consul")]
mod consul;
#[cfg(not(feature = "consul"))]
#[path = "absent.rs"]
mod consul;
#[cfg(feature = "dns")]
mod dns;
#[cfg(not(feature = "dns"))]
#[path = "absent.rs"]
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(not(feature = "etcd"))]
#[path = "absent.rs"]
mod etcd;
#[cfg(feature = "nacos")]
mod nacos;
#[cfg(not(feature = "nacos"))]
#[path = "absent.rs"]
mod nacos;

mod bounds;
mod copy;
mod document;
mod error;
mod file;
mod follow;
mod found;
#[cfg(any(
    feature = "etcd",
    feature = "consul",
    feature = "nacos",
    feature = "jwt"
))]
mod http;
mod instance;
mod keyed;
mod pauses;
mod registration;
mod source;
mod target;
mod updates;
mod url;

pub use document::{Document, Reading};
pub use error::DiscoveryError;
pub use found::{Found, Gone, Trouble};
#[cfg(feature = "jwt")]
pub(crate) use http::get;
pub use instance::Instance;
pub use registration::Registration;
pub use source::{Discovery, Registered, Registry};
pub use target::Target;
pub use updates::Updates;
