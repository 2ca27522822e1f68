//! A node that runs, and what becomes of another configuration.

use postroad::RunningServer;
use postroad::config::Change;
use postroad::discovery::Registration;

use crate::config::{Flags, NodeConfig, Problems, Watch};

/// A node that runs.
pub(super) struct Node {
    pub(super) server: RunningServer,
    pub(super) registration: Option<Registration>,
    /// What it listens on, and where it is registered.
    pub(super) running: NodeConfig,
    pub(super) flags: Flags,
}

impl Node {
    /// Reads the configuration again, because somebody asks for it.
    pub(super) async fn reload(&mut self, watch: &mut Watch) {
        let name = watch.name();
        match watch.now().await {
            Ok(Some(text)) => self.take(watch, &text),
            Ok(None) => tracing::warn!(
                target: "postroad::config",
                "nothing is read again: the node was started without a configuration; --config FILE"
            ),
            Err(error) => {
                error.log();
                stays(&name);
            }
        }
    }

    /// Takes all of another configuration, or nothing, and says what has changed.
    pub(super) fn take(&mut self, watch: &Watch, text: &str) {
        let name = watch.name();
        let next = match self.flags.read(&name, text) {
            Ok(next) => next,
            Err(error) => {
                error.log();
                return stays(&name);
            }
        };
        let changes = match self.apply(&next) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(target: "postroad::config", "{name}: {error}");
                return stays(&name);
            }
        };
        watch.keep(text);
        for warning in next.warnings.iter().flat_map(Problems::lines) {
            tracing::warn!(target: "postroad::config", "{warning}");
        }
        for change in &changes {
            tracing::info!(target: "postroad::config", "{change}");
        }
        let many = changes.len();
        tracing::info!(target: "postroad::config", "{name} was read again: {many} changed");
    }

    /// What can fail comes first, so that a failure leaves everything as it was. What listeners
    /// read from files of their own, such as certificates, is read again here.
    fn apply(&mut self, next: &NodeConfig) -> Result<Vec<Change>, String> {
        let others = self.running.changes_of_node(next);
        let weighed = self.running.weighed_as(next);
        if let (Some(registration), Some(register)) = (&self.registration, &weighed) {
            let (first, address) = (&self.running.listen[0], &self.server.addresses()[0]);
            let instance = register.instance(first, address);
            let instance = instance.map_err(|(key, what)| format!("register.{key}: {what}"))?;
            let updated = registration.update(instance);
            updated.map_err(|error| format!("register: {error}"))?;
        }
        let read_again = self.server.reload_certificates();
        read_again.map_err(|error| format!("certificates: {error}"))?;
        self.server.reopen_audit();
        let changes = self.server.reconfigure(next.server.clone());
        let mut changes = changes.map_err(|error| error.to_string())?;
        changes.extend(others);
        self.running.register = weighed;
        Ok(changes)
    }

    /// Ends the node; what was accepted is finished.
    pub(super) async fn drain(self) {
        // Clients hear of it while the node still answers everything.
        self.server.routes().set_ready(false);
        if let Some(registration) = self.registration
            && let Err(error) = registration.leave().await
        {
            tracing::warn!(%error, "the registry was not left: it forgets this node within 20 s");
        }
        self.server.shutdown().await;
    }
}

fn stays(name: &str) {
    tracing::error!(
        target: "postroad::config",
        "{name}: nothing was changed; the configuration before stays"
    );
}
