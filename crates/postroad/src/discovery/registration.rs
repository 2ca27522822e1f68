//! Keeping a server registered.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::bounds::LEAVE_MAX;
use super::error::DiscoveryError;
use super::found::Trouble;
use super::instance::Instance;
use super::pauses::Pauses;
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
    instance: watch::Sender<Instance>,
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
        let (instance, wanted) = watch::channel(instance);
        let keeping = Keeping {
            source: Source::new(target.to_string()),
            registry,
            instance: wanted,
            trouble: sender,
            leave: Arc::clone(&leave),
        };
        let task = runtime.spawn(keeping.run());
        Ok(Self {
            task,
            leave,
            instance,
            trouble,
        })
    }

    /// Registers the instance with another weight, tag or zone; it is there all the while.
    ///
    /// # Errors
    /// If nobody could use the instance, or it has another endpoint than the one that is
    /// registered: that one would not be taken out. Then the instance stays as it was.
    pub fn update(&self, instance: Instance) -> Result<(), TransportError> {
        let wrong = |detail: String| TransportError::Endpoint {
            url: instance.endpoint.to_string(),
            detail,
        };
        if let Some(flaw) = instance.flaw() {
            return Err(wrong(format!("it cannot be registered: {flaw}")));
        }
        let registered = self.instance.borrow().endpoint.to_string();
        if registered != instance.endpoint.to_string() {
            return Err(wrong(format!("{registered} is registered, and stays")));
        }
        self.instance.send_if_modified(|present| {
            let is_other = *present != instance;
            *present = instance;
            is_other
        });
        Ok(())
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
    instance: watch::Receiver<Instance>,
    trouble: watch::Sender<Option<Trouble>>,
    leave: Arc<Notify>,
}

impl Keeping {
    async fn run(mut self) -> Result<(), DiscoveryError> {
        let mut pauses = Pauses::new();
        loop {
            let instance = self.instance.borrow_and_update().clone();
            let registered = tokio::select! {
                registered = self.registry.register(&instance) => registered,
                () = self.leave.notified() => return Ok(()),
            };
            let error = match registered {
                Err(error) => error,
                Ok(mut registered) => {
                    pauses.reset();
                    self.trouble.send_replace(None);
                    observe::registered(&self.source, &instance);
                    match self.beats(&mut *registered).await {
                        Ended::Failed(error) => error,
                        // What is registered next replaces this.
                        Ended::Changed => continue,
                        Ended::Leaving => return leave(&mut *registered).await,
                    }
                }
            };
            observe::not_registered(&self.source, &instance, &error);
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

    /// Beats until there is a reason to stop.
    async fn beats(&mut self, registered: &mut dyn Registered) -> Ended {
        loop {
            tokio::select! {
                () = sleep(registered.every()) => {}
                () = self.leave.notified() => return Ended::Leaving,
                Ok(()) = self.instance.changed() => return Ended::Changed,
            }
            if let Err(error) = registered.beat().await {
                return Ended::Failed(error);
            }
        }
    }
}

/// Why the beats of an instance have ended.
enum Ended {
    /// One has failed.
    Failed(DiscoveryError),
    /// The instance is to be registered otherwise.
    Changed,
    /// It is to be taken out.
    Leaving,
}

async fn leave(registered: &mut dyn Registered) -> Result<(), DiscoveryError> {
    timeout(LEAVE_MAX, registered.leave())
        .await
        .unwrap_or_else(|_| {
            let error = format!("the registry did not confirm within {LEAVE_MAX:?}");
            Err(DiscoveryError::unreachable(error))
        })
}
