//! One call's process, as its runner starts it: program, arguments, environment and working directory.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{Mode, OFlags};

use super::super::{
    config::WORKSPACE,
    wire::{NotStarted, Start, StartFault, cut},
};

/// The whole environment of a call, before its own additions.
pub(super) const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", WORKSPACE),
    ("LANG", "C.UTF-8"),
    // A slot's user 0 can give files to nobody else, and tar would try to, for every archive of somebody else's.
    ("TAR_OPTIONS", "--no-same-owner"),
];

const SHELL: &str = "/bin/sh";

/// Makes the command and enters its working directory, which the child inherits: a directory that cannot be entered
/// is then told from a program that cannot be executed, and no path is looked up twice.
pub(super) fn command(start: &Start, stdio: Vec<OwnedFd>) -> Result<Command, NotStarted> {
    enter(&start.working_directory)?;
    check_environment(start)?;
    let mut command = match &start.script {
        Some(script) => shell(script),
        None => program(start)?,
    };
    command.env_clear().envs(ENVIRONMENT).envs(start.environment.iter().map(|v| (&v.name, &v.value)));

    let mut stdio = stdio.into_iter();
    let mut next = || stdio.next().map_or_else(Stdio::null, Stdio::from);
    command.stdout(next()).stderr(next()).stdin(if start.stdin { next() } else { Stdio::null() });
    Ok(command)
}

/// What the call is known by in messages.
pub(super) fn name(start: &Start) -> &str {
    match &start.script {
        Some(_) => SHELL,
        None => start.arguments.first().map_or("", String::as_str),
    }
}

/// Why nothing was started, by the operating system's error.
pub(super) fn refusal(error: &io::Error, subject: &str) -> NotStarted {
    let fault = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => StartFault::NotFound,
        Some(rustix::io::Errno::TOOBIG) => StartFault::TooLarge,
        _ => StartFault::Refused,
    };
    refused(fault, &format!("{subject}: {}", os_words(error)))
}

fn refused(fault: StartFault, message: &str) -> NotStarted {
    NotStarted { fault: fault as i32, message: cut(message) }
}

/// The error without Rust's "(os error 2)".
fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn enter(directory: &str) -> Result<(), NotStarted> {
    let path = Path::new(WORKSPACE).join(directory);
    let subject = || path.display().to_string();
    if directory.contains('\0') {
        return Err(refused(StartFault::Refused, "the working directory has a NUL byte in it"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty())
        .and_then(rustix::process::fchdir)
        .map_err(|error| refusal(&error.into(), &subject()))
}

fn check_environment(start: &Start) -> Result<(), NotStarted> {
    let unusable =
        |v: &&super::super::wire::Variable| v.name.is_empty() || v.name.contains(['=', '\0']) || v.value.contains('\0');
    match start.environment.iter().find(unusable) {
        Some(bad) => Err(refused(StartFault::Refused, &format!("{:?} cannot be an environment variable", bad.name))),
        None => Ok(()),
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new(SHELL);
    command.arg("-c");
    if script.starts_with(['-', '+']) {
        // Else the shell would take the script for an option.
        command.arg("--");
    }
    command.arg(script);
    command
}

fn program(start: &Start) -> Result<Command, NotStarted> {
    let Some((name, arguments)) = start.arguments.split_first() else {
        return Err(refused(StartFault::Refused, "no program is named"));
    };
    let mut command = Command::new(find(name, search_path(start))?);
    command.arg0(name).args(arguments);
    Ok(command)
}

fn search_path(start: &Start) -> &str {
    let own = start.environment.iter().rev().find(|variable| variable.name == "PATH");
    own.map_or(ENVIRONMENT[0].1, |variable| &variable.value)
}

/// As execvp(3) looks for a program. Left to `Command`, a bare name beside a changed PATH would cost a fork.
fn find(name: &str, search_path: &str) -> Result<PathBuf, NotStarted> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut found_unusable = false;
    if !name.is_empty() {
        for directory in search_path.split(':') {
            // An empty element is the working directory.
            let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
            match candidate.metadata() {
                Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(candidate),
                Ok(_) => found_unusable = true,
                Err(_) => {}
            }
        }
    }
    match found_unusable {
        true => Err(refused(StartFault::Refused, &format!("{name}: Permission denied"))),
        false => Err(refused(StartFault::NotFound, &format!("{name}: not found"))),
    }
}
