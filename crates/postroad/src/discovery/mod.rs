//! How a client finds its servers, and how a server tells that it is there.
//!
//! A [`Target`] says where messages go: one endpoint, a list, or a *source* that knows the
//! instances and tells of every change. A source that is down, slow or wrong takes no server away:
//! the last good list stays until there is a better one.
//!
//! ```text
//! target -> registry, file, dns, etcd, consul, nacos -> follow -> updates, found, copy
//!                             \-> http                     all -> instance, error, bounds
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

mod bounds;
mod copy;
mod error;
mod file;
mod follow;
mod found;
mod instance;
mod target;
mod updates;
mod url;

use std::fmt;

pub use error::DiscoveryError;
pub use found::{Found, Gone, Trouble};
pub use instance::Instance;
pub use target::Target;
pub use updates::Updates;

use crate::transport::BoxFuture;

/// A source of instances: something that knows the servers of one service.
pub trait Discovery: fmt::Debug + Send + Sync + 'static {
    /// Follows the source: hands the whole list to `updates` at first and at every change, and
    /// returns why it cannot go on. It is called again after a wait, which grows from failure to
    /// failure up to 15 s, with jitter, and is short again after a list.
    ///
    /// The future is dropped when nobody wants to know any more.
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError>;
}
