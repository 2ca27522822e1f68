//! The copy of a list, or of a document, on disk, for a start while its source is down.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bounds::FILE_MAX;
use super::instance::{Instance, Record};

/// The copy as it is written.
#[derive(Deserialize, Serialize)]
struct Copy {
    /// Whose list it is, so that no client takes the list of another service for its own.
    target: String,
    instances: Vec<Record>,
}

/// The instances of a copy; `None` if there is none yet.
pub(super) fn read(path: &Path, target: &str) -> io::Result<Option<Vec<Instance>>> {
    let Some((text, _)) = open(path)? else {
        return Ok(None);
    };
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let copy: Copy = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if copy.target != target {
        return Err(wrong(format!("it is the copy of {}", copy.target)));
    }
    let instances = copy.instances.into_iter().map(Record::read);
    instances.collect::<Result<_, _>>().map(Some).map_err(wrong)
}

/// Replaces the copy: whoever reads it sees the old or the new one, never a part. Only its owner
/// can read it, since addresses of a network are nobody else's business.
pub(super) fn write(path: &Path, target: &str, instances: &[Instance]) -> io::Result<()> {
    let copy = Copy {
        target: target.to_owned(),
        instances: instances.iter().map(Record::from).collect(),
    };
    replace(path, &serde_json::to_vec(&copy)?)
}

/// The copy of a document as it is written.
#[derive(Deserialize, Serialize)]
struct Text {
    document: String,
    text: String,
}

/// The text of a document's copy, and how old it is; `None` if there is none yet.
pub(super) fn read_text(path: &Path, document: &str) -> io::Result<Option<(String, Duration)>> {
    let Some((written, file)) = open(path)? else {
        return Ok(None);
    };
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let copy: Text = serde_json::from_str(&written).map_err(|error| wrong(error.to_string()))?;
    if copy.document != document {
        return Err(wrong(format!("it is the copy of {}", copy.document)));
    }
    // A clock that was set back makes it new, not wrong.
    let age = file.modified()?.elapsed().unwrap_or_default();
    Ok(Some((copy.text, age)))
}

/// Replaces the copy of a document.
pub(super) fn write_text(path: &Path, document: &str, text: &str) -> io::Result<()> {
    let (document, text) = (document.to_owned(), text.to_owned());
    replace(path, &serde_json::to_vec(&Text { document, text })?)
}

/// What a copy holds; `None` if there is none yet.
fn open(path: &Path) -> io::Result<Option<(String, fs::Metadata)>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(Some((text, metadata)))
}

/// Puts a new file in the place of another.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    // Left by a process that was killed; a new file is made, so no link is followed.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// A name in the same folder, for a rename does not cross file systems.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_written_by_its_own_target_and_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.json");
        assert!(read(&path, "etcd://h:1/orders").unwrap().is_none());
        let list = [Instance::new("tcp://a:1".parse().unwrap())];
        write(&path, "etcd://h:1/orders", &list).unwrap();
        write(&path, "etcd://h:1/orders", &list).unwrap();
        let again = read(&path, "etcd://h:1/orders").unwrap().unwrap();
        assert_eq!(again, list);
        let other = read(&path, "etcd://h:1/stock").unwrap_err().to_string();
        assert!(other.contains("copy of etcd://h:1/orders"), "{other}");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&path).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
        fs::write(&path, "{\"target\":").unwrap();
        read(&path, "etcd://h:1/orders").unwrap_err();
    }
}
