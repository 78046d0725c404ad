//! The program that attacks, compiled when it is needed: what attackers do are system calls, which they choose freely.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const SOURCES: [(&str, &str); 8] = [
    ("attack.h", include_str!("program/attack.h")),
    ("main.c", include_str!("program/main.c")),
    ("files.c", include_str!("program/files.c")),
    ("processes.c", include_str!("program/processes.c")),
    ("kernel.c", include_str!("program/kernel.c")),
    ("ipc.c", include_str!("program/ipc.c")),
    ("network.c", include_str!("program/network.c")),
    ("helpers.c", include_str!("program/helpers.c")),
];

/// Where it is, for those who are run again.
const PROGRAM: &str = "TOOL_EXECUTOR_TEST_ATTACK";

pub(super) struct Attack {
    pub(super) program: PathBuf,
    /// Runs as root, whoever runs it.
    pub(super) root_program: PathBuf,
    /// Can read everything, whoever runs it.
    pub(super) capable_program: PathBuf,
    _directory: Option<TempDir>,
}

impl Attack {
    fn at(directory: &Path) -> Self {
        let place = |name| directory.join(name);
        let (program, root_program) = (place("attack"), place("attack-as-root"));
        Self { program, root_program, capable_program: place("attack-with-capability"), _directory: None }
    }

    /// With a C compiler, which some of this package's own dependencies need, too.
    pub(super) fn compiled() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, source) in SOURCES {
            fs::write(directory.path().join(name), source).unwrap();
        }
        let sources = SOURCES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c"));
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-o", "attack"]).args(sources).current_dir(directory.path());
        let compiled = compiler.output().expect("there is a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let this = Self::at(directory.path());
        if rustix::process::geteuid().is_root() {
            this.give_privileges();
        }
        Self { _directory: Some(directory), ..this }
    }

    fn give_privileges(&self) {
        fs::copy(&self.program, &self.root_program).unwrap();
        fs::copy(&self.program, &self.capable_program).unwrap();
        fs::set_permissions(&self.root_program, fs::Permissions::from_mode(0o4755)).unwrap();
        self.give_capability(&self.capable_program);
    }

    fn give_capability(&self, program: &Path) {
        let given = Command::new(&self.program).arg("give-capability").arg(program).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&given.stdout), "succeeded: done\n");
    }

    /// Copies one of the programs that are privileged, with its privileges.
    pub(super) fn copy_privileges(&self, from: &Path, to: &Path) {
        fs::copy(from, to).unwrap();
        chown(to, Some(0), Some(0)).unwrap();
        fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
        if from == self.capable_program {
            self.give_capability(to);
        }
    }

    /// The one that another process has compiled.
    pub(super) fn known() -> Self {
        Self::at(Path::new(&std::env::var_os(PROGRAM).expect("somebody has compiled it")))
    }

    /// Lets a process know it.
    pub(super) fn tell(&self, command: &mut Command) {
        command.env(PROGRAM, self.program.parent().unwrap());
    }
}

/// A directory that everybody may do everything in.
pub(super) fn made_for_everybody(directory: &Path) {
    fs::create_dir(directory).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
}
