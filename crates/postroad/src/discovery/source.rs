//! What a source of instances and a registry can do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::DiscoveryError;
use super::instance::Instance;
use super::updates::Updates;
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

/// A place where servers tell that they are there.
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// Registers an instance. It is called again with the same one when it may have been lost, so
    /// it replaces what the instance registered before.
    fn register<'a>(
        &'a self,
        instance: &'a Instance,
    ) -> BoxFuture<'a, Result<Box<dyn Registered>, DiscoveryError>>;
}

/// An instance that was registered, and goes away unless it says now and then that it is there.
pub trait Registered: Send + 'static {
    /// How long after registering, and after each beat, the next beat is due.
    fn every(&self) -> Duration;

    /// Says that it is still there.
    ///
    /// # Errors
    /// If the registry cannot be asked or knows nothing of it; it is then registered again.
    fn beat(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>>;

    /// Takes it out of the registry.
    ///
    /// # Errors
    /// If the registry does not confirm it. It goes away by itself then, after two beats or so.
    fn leave(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>>;
}

/// What stands behind a target that is no fixed list.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) discovery: Arc<dyn Discovery>,
    pub(super) registry: Option<Arc<dyn Registry>>,
}

impl Source {
    /// A source at which nobody can register.
    pub(super) fn of(discovery: impl Discovery) -> Self {
        Self {
            discovery: Arc::new(discovery),
            registry: None,
        }
    }

    /// A source that is a registry too.
    #[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
    pub(super) fn both<T: Discovery + Registry + Clone>(registry: T) -> Self {
        Self {
            discovery: Arc::new(registry.clone()),
            registry: Some(Arc::new(registry)),
        }
    }
}
