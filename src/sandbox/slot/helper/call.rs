//! One call's process, as its runner starts it: program, arguments, environment and working directory.

use std::{
    ffi::{OsStr, OsString},
    io::{self, PipeReader, PipeWriter, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    io::FdFlags,
};

use super::{
    super::{
        config::WORKSPACE,
        wire::{NotStarted, Shown, Start, StartFault, cut},
    },
    ENTER, THIS_PROGRAM,
    view::as_path,
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const SHELL: &str = "/bin/sh";

/// What the runner gives to every call.
pub(super) struct Place {
    /// The workspace, as calls see it.
    home: PathBuf,
    /// The whole environment, before a call's own additions.
    environment: Vec<(&'static str, OsString)>,
    /// What a call enters before it begins, where it does not begin in it.
    domain: Option<OwnedFd>,
}

impl Place {
    /// Calls begin in the slot's namespaces.
    pub(super) fn in_namespaces() -> Self {
        Self::new(WORKSPACE.into(), None)
    }

    /// Calls enter this domain, and see the machine's paths.
    pub(super) fn in_domain(shown: &Shown, domain: OwnedFd) -> Self {
        let mut place = Self::new(as_path(&shown.workspace).to_owned(), Some(domain));
        // /tmp is everybody's.
        place.environment.push(("TMPDIR", as_path(&shown.tmp).into()));
        place
    }

    fn new(home: PathBuf, domain: Option<OwnedFd>) -> Self {
        let environment = vec![
            ("PATH", PATH.into()),
            ("HOME", home.clone().into()),
            ("LANG", "C.UTF-8".into()),
            // A slot's user can give files to nobody else, and tar would try to, for every archive of somebody else's.
            ("TAR_OPTIONS", "--no-same-owner".into()),
        ];
        Self { home, environment, domain }
    }

    /// A path that begins with /workspace means the workspace, wherever that is.
    fn path(&self, directory: &Path) -> PathBuf {
        self.home.join(directory.strip_prefix(WORKSPACE).unwrap_or(directory))
    }
}

/// A call's command, ready to be started.
pub(super) struct Prepared {
    command: Command,
    /// Whether the child has become the call.
    report: Option<(PipeReader, PipeWriter)>,
}

impl Prepared {
    /// Starts it. An error means that nothing runs.
    pub(super) fn spawn(self) -> io::Result<Child> {
        let Self { mut command, report } = self;
        let mut child = command.spawn()?;
        // The child's is the last copy then.
        drop(command);
        let Some((mut reader, writer)) = report else { return Ok(child) };
        drop(writer);
        let mut errno = [0; 4];
        match reader.read_exact(&mut errno) {
            Ok(()) => {
                child.wait()?;
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
            }
            Err(_) => Ok(child),
        }
    }
}

/// Makes the command and enters its working directory, which the child inherits: a directory that cannot be entered
/// is then told from a program that cannot be executed, and no path is looked up twice.
pub(super) fn prepare(start: &Start, stdio: Vec<OwnedFd>, place: &Place) -> Result<Prepared, NotStarted> {
    enter(&start.working_directory, place)?;
    check_environment(start)?;
    let (program, arguments) = match &start.script {
        Some(script) => shell(script),
        None => program(start)?,
    };
    let own = start.environment.iter().map(|variable| (variable.name.as_str(), OsStr::new(&variable.value)));
    let environment = place.environment.iter().map(|(name, value)| (*name, value.as_os_str())).chain(own);
    let (mut command, report) = match &place.domain {
        None => {
            let mut command = Command::new(program);
            command.arg0(arguments[0]).args(&arguments[1..]).env_clear().envs(environment);
            (command, None)
        }
        Some(domain) => {
            let through = through(domain, environment).map_err(|error| refusal(&error, "the call's domain"))?;
            let (mut command, report) = through;
            command.arg(program).args(arguments);
            (command, Some(report))
        }
    };

    let mut stdio = stdio.into_iter();
    let mut next = || stdio.next().map_or_else(Stdio::null, Stdio::from);
    command.stdout(next()).stderr(next()).stdin(if start.stdin { next() } else { Stdio::null() });
    Ok(Prepared { command, report })
}

/// This program, which enters the domain and becomes what is named in further arguments. The call's environment is among
/// them, since it must have no influence before the domain is entered (LD_PRELOAD would).
fn through<'a>(
    domain: &OwnedFd,
    environment: impl Iterator<Item = (&'a str, &'a OsStr)>,
) -> io::Result<(Command, (PipeReader, PipeWriter))> {
    let (reader, writer) = io::pipe()?;
    rustix::io::fcntl_setfd(domain, FdFlags::empty())?;
    rustix::io::fcntl_setfd(&writer, FdFlags::empty())?;
    let variables: Vec<OsString> = environment
        .map(|(name, value)| {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(value);
            variable
        })
        .collect();
    let numbers = [domain.as_raw_fd().to_string(), writer.as_raw_fd().to_string(), variables.len().to_string()];
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("slot").arg(ENTER).args(numbers).args(variables).env_clear();
    Ok((command, (reader, writer)))
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

fn enter(directory: &str, place: &Place) -> Result<(), NotStarted> {
    let named = Path::new(WORKSPACE).join(directory);
    let subject = || named.display().to_string();
    if directory.contains('\0') {
        return Err(refused(StartFault::Refused, "the working directory has a NUL byte in it"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(place.path(&named), flags, Mode::empty())
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

/// The program, and its name and arguments.
fn shell(script: &str) -> (PathBuf, Vec<&str>) {
    // Else the shell would take such a script for an option.
    let arguments =
        if script.starts_with(['-', '+']) { vec![SHELL, "-c", "--", script] } else { vec![SHELL, "-c", script] };
    (SHELL.into(), arguments)
}

fn program(start: &Start) -> Result<(PathBuf, Vec<&str>), NotStarted> {
    let Some(name) = start.arguments.first() else {
        return Err(refused(StartFault::Refused, "no program is named"));
    };
    Ok((find(name, search_path(start))?, start.arguments.iter().map(String::as_str).collect()))
}

fn search_path(start: &Start) -> &str {
    let own = start.environment.iter().rev().find(|variable| variable.name == "PATH");
    own.map_or(PATH, |variable| &variable.value)
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
