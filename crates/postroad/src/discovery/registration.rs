//! Keeping a server registered.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::bounds::LEAVE_MAX;
use super::error::DiscoveryError;
use super::follow::Pauses;
use super::found::Trouble;
use super::instance::Instance;
use super::source::{Registered, Registry};
use super::target::Target;
use crate::error::TransportError;
use crate::observe::discovery::{self as observe, Source};

/// Keeps an instance registered: beats, and registers again when the registry was down or has lost
/// it. When this is dropped, the beats end and the registry forgets the instance within 20 s;
/// [`Self::leave`] takes it out at once.
#[derive(Debug)]
pub struct Registration {
    task: JoinHandle<Result<(), DiscoveryError>>,
    leave: Arc<Notify>,
    trouble: watch::Receiver<Option<Trouble>>,
}

impl Registration {
    /// Registers an instance at a registry, by a task of the present runtime.
    ///
    /// # Errors
    /// If one cannot register at this target, or there is no runtime. A registry that is down is no
    /// error: the instance is registered when it is back.
    pub fn start(target: &Target, instance: Instance) -> Result<Self, TransportError> {
        let wrong = |detail: String| TransportError::Endpoint {
            url: target.to_string(),
            detail,
        };
        let registry = target
            .registry()
            .ok_or_else(|| wrong("it is no registry; etcd, consul and nacos are".to_owned()))?;
        if let Some(flaw) = instance.flaw() {
            return Err(wrong(format!("{instance} cannot be registered: {flaw}")));
        }
        let runtime = Handle::try_current().map_err(|error| wrong(error.to_string()))?;
        let registry = Arc::clone(registry);
        let not_yet = Trouble::new("it has not answered yet", Instant::now());
        let (sender, trouble) = watch::channel(Some(not_yet));
        let leave = Arc::new(Notify::new());
        let keeping = Keeping {
            source: Source::new(target.to_string()),
            registry,
            instance,
            trouble: sender,
            leave: Arc::clone(&leave),
        };
        let task = runtime.spawn(keeping.run());
        Ok(Self {
            task,
            leave,
            trouble,
        })
    }

    /// Since when and why the instance is not registered; `None` while it is.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.borrow().clone()
    }

    /// Waits until the instance is registered. Cancellation safe.
    pub async fn registered(&self) {
        let mut trouble = self.trouble.clone();
        // It fails when the task has ended, which only leaving does.
        let _ = trouble.wait_for(Option::is_none).await;
    }

    /// Takes the instance out of the registry, within 5 s.
    ///
    /// # Errors
    /// If the registry does not confirm it; it then forgets the instance within 20 s.
    pub async fn leave(mut self) -> Result<(), DiscoveryError> {
        self.leave.notify_one();
        (&mut self.task)
            .await
            .unwrap_or_else(|_| Err(DiscoveryError::unreachable("its runtime has ended")))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task behind a registration.
struct Keeping {
    source: Source,
    registry: Arc<dyn Registry>,
    instance: Instance,
    trouble: watch::Sender<Option<Trouble>>,
    leave: Arc<Notify>,
}

impl Keeping {
    async fn run(self) -> Result<(), DiscoveryError> {
        let mut pauses = Pauses::new();
        loop {
            let registered = tokio::select! {
                registered = self.registry.register(&self.instance) => registered,
                () = self.leave.notified() => return Ok(()),
            };
            let error = match registered {
                Err(error) => error,
                Ok(mut registered) => {
                    pauses.reset();
                    self.trouble.send_replace(None);
                    observe::registered(&self.source, &self.instance);
                    match self.beats(&mut *registered).await {
                        Some(error) => error,
                        None => return leave(&mut *registered).await,
                    }
                }
            };
            observe::not_registered(&self.source, &self.instance, &error);
            let since = self.trouble.borrow().as_ref().map(Trouble::since);
            let since = since.unwrap_or_else(Instant::now);
            let said = error.to_string();
            self.trouble.send_replace(Some(Trouble::new(said, since)));
            tokio::select! {
                () = sleep(pauses.next()) => {}
                () = self.leave.notified() => return Ok(()),
            }
        }
    }

    /// Beats until one fails, or until it is to leave: then nothing.
    async fn beats(&self, registered: &mut dyn Registered) -> Option<DiscoveryError> {
        loop {
            tokio::select! {
                () = sleep(registered.every()) => {}
                () = self.leave.notified() => return None,
            }
            if let Err(error) = registered.beat().await {
                return Some(error);
            }
        }
    }
}

async fn leave(registered: &mut dyn Registered) -> Result<(), DiscoveryError> {
    timeout(LEAVE_MAX, registered.leave())
        .await
        .unwrap_or_else(|_| {
            let error = format!("the registry did not confirm within {LEAVE_MAX:?}");
            Err(DiscoveryError::unreachable(error))
        })
}
