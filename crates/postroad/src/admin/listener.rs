//! The listener for health and metrics, on a thread of its own: it answers also when every thread
//! of the server is stuck.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::address::{AdminAddress, AdminError};
use super::http;
use super::metrics::MetricSource;
use super::process::ProcessMetrics;
use super::told::Shared;
use crate::observe::admin as observe;
use crate::server::RunningServer;

/// How often the reactors are asked whether they turn.
const TICK: Duration = Duration::from_secs(1);

/// Health and metrics over HTTP, before they are told.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use postroad::admin::Admin;
/// use postroad::{Router, Server};
///
/// // From here on `/startupz` answers that the server is being started.
/// let admin = Admin::listen("http://127.0.0.1:0")?.start()?;
/// let server = Server::new(Router::new()).listen("tcp://127.0.0.1:0".parse()?).start().await?;
/// admin.watch(&server);
/// println!("curl http://{}/readyz", admin.address());
/// # Ok(())
/// # }
/// ```
#[must_use = "it does nothing until it is started"]
pub struct Admin {
    address: AdminAddress,
    sources: Vec<Arc<dyn MetricSource>>,
    stuck_after: Duration,
}

impl Admin {
    /// Of this address: `http://127.0.0.1:PORT`, `http://[::1]:PORT` or `unix:///PATH`.
    ///
    /// # Errors
    /// If it is none, or could be reached from other machines.
    pub fn listen(url: &str) -> Result<Self, AdminError> {
        Self::at(url.parse()?)
    }

    /// The same of an address that was read before.
    ///
    /// # Errors
    /// If it could be reached from other machines.
    pub fn at(address: AdminAddress) -> Result<Self, AdminError> {
        address.check_listen()?;
        Ok(Self {
            address,
            sources: vec![Arc::new(ProcessMetrics)],
            stuck_after: Duration::from_secs(10),
        })
    }

    /// Shows the numbers of a source of your own too.
    pub fn metrics(mut self, source: impl MetricSource + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Sets for how long a thread that drives connections may not answer before `/livez` fails.
    /// Default 10 s. A handler that computes or blocks keeps its thread from answering.
    pub fn stuck_after(mut self, time: Duration) -> Self {
        self.stuck_after = time;
        self
    }

    /// Binds the address, and answers from then on, on a thread of its own.
    ///
    /// # Errors
    /// If the address cannot be bound ([`AdminError::is_taken`] tells the usual reason), or the
    /// thread cannot be started.
    pub fn start(self) -> Result<RunningAdmin, AdminError> {
        let failed = |source| AdminError::Listen {
            url: self.address.to_string(),
            source,
        };
        let (bound, address) = http::bind(&self.address).map_err(failed)?;
        observe::listening(&self.address, &address);
        let shared = Arc::new(Shared::new(self.sources, self.stuck_after));
        let (stop, stopped) = oneshot::channel::<()>();
        let answers = Arc::clone(&shared);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(AdminError::Thread)?;
        let spare = http::Spare::new();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    // Also when the other end is dropped.
                    _ = stopped => {}
                    () = ask_reactors(&answers) => {}
                    () = http::serve(bound, spare, &answers) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("postroad-admin".to_owned());
        thread.spawn(run).map_err(AdminError::Thread)?;
        Ok(RunningAdmin {
            shared,
            address,
            _stop: stop,
        })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("address", &self.address)
            .field("stuck_after", &self.stuck_after)
            .finish_non_exhaustive()
    }
}

/// Asks them every [`TICK`], so that `/livez` knows the answer at once.
async fn ask_reactors(shared: &Shared) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(watched) = shared.watched() {
            watched.ask_reactors();
        }
    }
}

/// Health and metrics that are being told. Dropping it ends that.
pub struct RunningAdmin {
    shared: Arc<Shared>,
    address: String,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl RunningAdmin {
    /// The address as it was bound: `127.0.0.1:7490`, or the socket's path.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Tells from now on how this server does. It is not kept alive; when it has ended, that is
    /// told.
    pub fn watch(&self, server: &RunningServer) {
        let watched = server.watched();
        watched.ask_reactors();
        self.shared.watch(watched);
    }
}

impl fmt::Debug for RunningAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningAdmin")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
