//! The node's process: started, killed, asked to end, started again on the same ports.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use postroad_proto::dialect::Dialect;
use rustix::process::{Pid, Signal, kill_process};

use crate::exit::{self, Failed};

/// The node of the demonstration; killed when it is dropped.
pub(super) struct Node {
    child: Child,
    urls: Vec<String>,
}

fn schemes() -> Vec<String> {
    let dialects = Dialect::ALL
        .iter()
        .map(|dialect| format!("tcp+{}", dialect.name()));
    std::iter::once("tcp+auto".to_owned())
        .chain(dialects)
        .collect()
}

impl Node {
    pub(super) async fn start() -> Result<Self, Failed> {
        Self::listening(&schemes()).await
    }

    /// With one listener, for native clients.
    pub(super) async fn start_native() -> Result<Self, Failed> {
        Self::listening(&["tcp+auto".to_owned()]).await
    }

    async fn listening(schemes: &[String]) -> Result<Self, Failed> {
        let urls = schemes.iter();
        let urls = urls.map(|scheme| format!("{scheme}://127.0.0.1:0"));
        let (child, urls) = spawn(urls.collect()).await?;
        Ok(Self { child, urls })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Where a client of this protocol connects.
    pub(super) fn url(&self, protocol: &str) -> String {
        if protocol == "native" {
            return self.urls[0].replace("tcp+auto", "tcp");
        }
        let scheme = format!("tcp+{protocol}://");
        self.urls
            .iter()
            .find(|url| url.starts_with(&scheme))
            .cloned()
            .unwrap_or_default()
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `kill -TERM`; the process ends when it has finished what it accepted.
    pub(super) async fn terminate(&mut self) -> Result<bool, Failed> {
        self.signal(Signal::TERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failed::new(exit::FAILED, "the node has no process id"))?;
        Ok(kill_process(pid, signal).map_err(std::io::Error::from)?)
    }

    /// Starts it again on the same ports.
    pub(super) async fn restart(&mut self) -> Result<(), Failed> {
        let (child, urls) = spawn(self.urls.clone()).await?;
        (self.child, self.urls) = (child, urls);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the process and waits until it says that it is ready; its endpoints with the ports that
/// it got.
async fn spawn(urls: Vec<String>) -> Result<(Child, Vec<String>), Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("demo-node");
    urls.iter()
        .for_each(|url| drop(command.args(["--listen", url]).get_args()));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let silent = || Failed::new(exit::FAILED, "the node did not start");
    let out = child.stdout.take().ok_or_else(silent)?;
    let read = tokio::task::spawn_blocking(move || {
        BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "ready")
            .collect()
    });
    let addresses: Vec<String> = read.await.map_err(|_| silent())?;
    if addresses.len() != urls.len() {
        return Err(silent());
    }
    let settled = |(url, address): (&String, &String)| {
        let scheme = url.split("://").next().unwrap_or_default();
        format!("{scheme}://{address}")
    };
    let urls = urls.iter().zip(&addresses).map(settled).collect();
    Ok((child, urls))
}
