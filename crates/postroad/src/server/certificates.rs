//! Certificates that are exchanged while a listener is open.
//!
//! The files are looked at every second. A change counts when it looks the same twice, so that a
//! pair which is being written is not read half. What is new but wrong changes nothing, and is told
//! once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::endpoint::Endpoint;
use crate::observe::identity as observe;
use crate::transport::Reload;
use crate::watched_file::Stamp;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows the files of a listener until it is aborted.
pub(super) fn follow(endpoint: Endpoint, reload: Arc<dyn Reload>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let look = || {
            let reload = Arc::clone(&reload);
            spawn_blocking(move || {
                let files = reload.files();
                let stamps = files.iter().map(|path| Stamp::at(path).ok());
                stamps.collect::<Vec<_>>()
            })
        };
        let Ok(mut seen) = look().await else { return };
        let mut read = seen.clone();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // An error here says that the runtime ends.
            let Ok(stamps) = look().await else { return };
            let has_settled = stamps == seen;
            seen = stamps;
            if !has_settled || seen == read {
                continue;
            }
            read.clone_from(&seen);
            let reload = Arc::clone(&reload);
            match spawn_blocking(move || reload.reload()).await {
                Ok(Ok(())) => observe::certificates(&endpoint),
                Ok(Err(why)) => observe::no_certificates(&endpoint, &why),
                Err(_) => return,
            }
        }
    })
}
