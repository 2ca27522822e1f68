//! Builds what the chosen rows need; a rival that does not build is left out, by name.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::installed;
use crate::rows::{Row, Server};

/// The `rivals` folder of the repository.
pub(crate) fn home() -> PathBuf {
    // At run time first, so that a moved checkout with an old build still finds itself.
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent()
        .map_or_else(|| here.clone(), Path::to_path_buf)
}

/// Why rows are not run, by row.
pub(crate) fn prepare(rows: &[&'static Row], built: &Path) -> BTreeMap<&'static str, String> {
    let mut peers: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let mut absent = BTreeMap::new();
    for row in rows {
        let packaged = match row.server {
            Server::Alone(package) | Server::Broker(package) => {
                package.installed().is_none().then(|| package.missing())
            }
            _ => None,
        };
        let problem = packaged.or_else(|| {
            let build = || build(row.peer, built).err();
            peers.entry(row.peer).or_insert_with(build).clone()
        });
        if let Some(problem) = problem {
            absent.insert(row.name, problem);
        }
    }
    absent
}

fn build(peer: &str, built: &Path) -> Result<(), String> {
    let (program, arguments, folder) = if peer == "go" {
        let go = installed("go").ok_or("go is not installed; apt install golang-go")?;
        let output = built.join("rival-go").to_string_lossy().into_owned();
        (
            go,
            vec![
                "build".to_owned(),
                // A checkout of another user's is built too.
                "-buildvcs=false".to_owned(),
                "-o".to_owned(),
                output,
            ],
            home().join("go"),
        )
    } else {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let package = format!("peer-{peer}");
        let arguments = [
            "build",
            "--release",
            "--quiet",
            "--locked",
            "--package",
            &package,
        ];
        (cargo.into(), arguments.map(str::to_owned).to_vec(), home())
    };
    eprintln!("building {peer}");
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{peer} was not built: {status}")),
        Err(error) => Err(format!("{peer} was not built: {error}")),
    }
}
