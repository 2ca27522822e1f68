//! Processes that end with this one, whatever ends it.

use std::io::{self, BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use serde::de::DeserializeOwned;

use crate::Result;

/// How long a server may take to accept connections, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that is killed when this is dropped, and by the kernel when this program dies.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Running {
    pub(crate) fn start(program: &Path, arguments: &[String], pinned: bool) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if pinned {
            command.args(["taskset", "-c", "0"]);
        }
        command.arg(program).args(arguments);
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until somebody accepts connections at this address.
    pub(crate) fn accepts_at(&mut self, at: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let connected = if at.starts_with('/') {
                UnixStream::connect(at).map(drop)
            } else {
                TcpStream::connect(at).map(drop)
            };
            if connected.is_ok() {
                return Ok(());
            }
            self.must_run()?;
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("{} does not accept connections at {at}", self.name).into())
    }

    /// The line of JSON that a measuring process ends with. The others must outlive it: what they
    /// did not do was not measured.
    pub(crate) fn result<T: DeserializeOwned>(
        &mut self,
        others: &mut [Self],
        limit: Duration,
    ) -> Result<T> {
        let output = self.child.stdout.take().ok_or("a result is read once")?;
        let (sender, line) = sync_channel(1);
        thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(io::Result::ok);
            let line = lines.find(|line| line.starts_with('{'));
            // Nobody listens any more if it took too long.
            let _ = sender.send(line);
        });
        let deadline = Instant::now() + limit;
        loop {
            let line = line.recv_timeout(Duration::from_millis(100));
            for other in &mut *others {
                other.must_run()?;
            }
            match line {
                Ok(Some(line)) => return Ok(serde_json::from_str(&line)?),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} gave no result in {limit:?}", self.name).into());
                }
                _ => return Err(format!("{} ended without a result", self.name).into()),
            }
        }
    }

    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} has ended by itself: {status}", self.name).into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback address that nobody listens on now.
pub(crate) fn free_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// The file that the shell would run, or one of those that a package keeps in `/usr/sbin`.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A folder for sockets and data of servers, removed at the end.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn make() -> io::Result<Self> {
        let folder = env::temp_dir().join(format!("rivals-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
