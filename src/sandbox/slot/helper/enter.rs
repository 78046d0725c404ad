//! The last step before a call without namespaces: this program once more, in its runner's domain, enters the call's own
//! and becomes the call. It is one process more to execute, and the price of not forking.
//!
//! Its arguments are the numbers of two descriptors, the domain's and the report's; how many variables follow, and these,
//! as NAME=VALUE; the program, with its name and arguments. If it cannot become that, it reports the error's number; the
//! report's end without a word is success.

use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    process::{Command, ExitCode},
};

use super::super::sys;

pub(super) fn run() -> ExitCode {
    let mut arguments = env::args_os().skip(2);
    let (Some(domain), Some(report)) = (descriptor(arguments.next()), descriptor(arguments.next())) else {
        return ExitCode::FAILURE;
    };
    let Err(error) = enter(&domain, arguments);
    let _ = File::from(report).write_all(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
    ExitCode::FAILURE
}

fn enter(domain: &OwnedFd, mut arguments: impl Iterator<Item = OsString>) -> io::Result<Infallible> {
    let count = arguments.next().and_then(|count| count.to_str()?.parse().ok()).unwrap_or(0);
    let variables: Vec<OsString> = arguments.by_ref().take(count).collect();
    let (Some(program), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    sys::close_inherited_on_exec()?;
    sys::enter_landlock_domain(domain)?;
    let environment = variables.iter().filter_map(|variable| split(variable));
    Err(Command::new(program).arg0(name).args(arguments).env_clear().envs(environment).exec())
}

fn split(variable: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = variable.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=')?;
    Some((OsStr::from_bytes(&bytes[..end]), OsStr::from_bytes(&bytes[end + 1..])))
}

fn descriptor(number: Option<OsString>) -> Option<OwnedFd> {
    sys::inherited(number?.to_str()?.parse().ok()?).ok()
}
