//! The state directory: one executor at a time, and what it needs to know of the one before.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::{FlockOperation, flock};

/// A state directory that is this process's own until it ends.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// The lock goes with the descriptor. It is close-on-exec: agents outlive it.
    _lock: fs::File,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateDirError {
    #[error("could not {step} {path}: {}", advice(source.kind()))]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another executor uses the state directory {0}: stop it, or choose another directory with --state-dir")]
    InUse(PathBuf),
    #[error(
        "the state directory {path} has format {found}, and this program knows formats up to {FORMAT}: start the \
         version that wrote it, or choose another directory with --state-dir"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("{path} should hold {what}, and holds something else: it was not written by this program")]
    Damaged { path: PathBuf, what: &'static str },
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "run as the user that it belongs to, or choose another directory with --state-dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room there, or choose a directory on another disk with --state-dir"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "it is no directory: choose one with --state-dir"
        }
        _ => "choose another directory with --state-dir",
    }
}

/// Of what lies in the directory; grows with each change that an older program could not read.
const FORMAT: u32 = 1;

impl StateDir {
    /// Makes the directory if need be and takes it. One that a newer program has written is left as it is.
    pub(super) fn take(path: &Path) -> Result<Self, StateDirError> {
        let step = |step, path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::Io { step, path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(step("create", path))?;
        let path = path.canonicalize().map_err(step("find", path))?;
        let lock_path = path.join("lock");
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(step("open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self { path, _lock: lock }.of_known_format(),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateDirError::InUse(path)),
            Err(error) => Err(step("lock", &lock_path)(error.into())),
        }
    }

    fn of_known_format(self) -> Result<Self, StateDirError> {
        let path = self.path.join("format");
        match self.read(&path)?.map(|text| text.trim().parse()) {
            Some(Ok(FORMAT)) => return Ok(self),
            Some(Ok(found)) if found > FORMAT => return Err(StateDirError::Newer { path: self.path, found }),
            Some(Err(_)) => return Err(StateDirError::Damaged { path, what: "a number" }),
            // New, or of a time before formats had numbers.
            Some(Ok(_)) | None => {}
        }
        self.write(&path, &FORMAT.to_string())?;
        Ok(self)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of this start: higher than that of any before it, so that agents know whom to obey. It begins with the
    /// clock, since an executor's name may come back with another state, on another machine; and grows without it.
    pub(super) fn next_epoch(&self) -> Result<u64, StateDirError> {
        let path = self.path.join("epoch");
        let last = match self.read(&path)? {
            Some(text) => {
                text.trim().parse().map_err(|_| StateDirError::Damaged { path: path.clone(), what: "a number" })?
            }
            None => 0_u64,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let epoch = u64::try_from(now).unwrap_or_default().max(last.saturating_add(1));
        self.write(&path, &epoch.to_string())?;
        Ok(epoch)
    }

    /// What agents are opened with is made from it: made once, and kept from everybody else.
    pub(super) fn secret(&self) -> Result<String, StateDirError> {
        let path = self.path.join("secret");
        if let Some(secret) = self.read(&path)?.filter(|secret| !secret.is_empty()) {
            return Ok(secret);
        }
        // 244 random bits from the system.
        let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        self.write(&path, &secret)?;
        Ok(secret)
    }

    fn read(&self, path: &Path) -> Result<Option<String>, StateDirError> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirError::Io { step: "read", path: path.to_owned(), source }),
        }
    }

    /// All of it or nothing, also if the machine dies meanwhile.
    fn write(&self, path: &Path, text: &str) -> Result<(), StateDirError> {
        let new = path.with_extension("new");
        let written = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, path));
        written.map_err(|source| StateDirError::Io { step: "write", path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_executor_whose_epoch_grows() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/state");
        let first = StateDir::take(&path).unwrap();
        assert!(matches!(StateDir::take(&path), Err(StateDirError::InUse(_))));
        let one = first.next_epoch().unwrap();
        assert!(one > 1_700_000_000_000_000 && first.next_epoch().unwrap() > one);
        drop(first);
        let second = StateDir::take(&path).unwrap();
        let far = u64::MAX - 2;
        fs::write(path.join("epoch"), far.to_string()).unwrap();
        assert_eq!(second.next_epoch().unwrap(), far + 1, "a clock that went back is no obstacle");
        let secret = second.secret().unwrap();
        assert!(secret.len() >= 64 && second.secret().unwrap() == secret);
        assert_eq!(fs::metadata(path.join("secret")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(path.join("epoch"), "nonsense").unwrap();
        assert!(matches!(second.next_epoch(), Err(StateDirError::Damaged { .. })));
        assert_eq!(fs::read_to_string(path.join("epoch")).unwrap(), "nonsense", "what is not understood is left alone");
    }

    #[test]
    fn what_cannot_be_a_directory_says_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let said = StateDir::take(&path).unwrap_err().to_string();
            assert!(said.contains("it is no directory: choose one with --state-dir"), "{said}");
        }
    }

    #[test]
    fn a_directory_of_another_format_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        drop(StateDir::take(path).unwrap());
        assert_eq!(fs::read_to_string(path.join("format")).unwrap(), FORMAT.to_string());
        drop(StateDir::take(path).unwrap());
        fs::write(path.join("format"), "7").unwrap();
        assert!(matches!(StateDir::take(path), Err(StateDirError::Newer { found: 7, .. })));
        fs::write(path.join("format"), "").unwrap();
        assert!(matches!(StateDir::take(path), Err(StateDirError::Damaged { .. })));
        assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "");
    }
}
