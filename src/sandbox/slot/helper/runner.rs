//! A runner: process 1 of a pid namespace of its own, inside the slot. It runs one call at a time, and when the call's
//! process has ended it kills and reaps everything that the call left behind, however it was started, before it
//! answers. Other runners of the slot are beyond the reach of its calls, and of its own `kill(-1)`.
//!
//! Where there are no namespaces, a Landlock domain does the same, see [`super::scope`], and the loop is the same one.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::process::ExitStatusExt,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::OFlags,
    mount::MountFlags,
    process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
    pty::OpenptFlags,
    thread::UnshareFlags,
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        sys,
        wire::{
            self, Ended, LimitHit, MAX_START, Nothing, Proc, Reply, ReplyKind, Request, RequestKind, RunnerSpec, Start,
        },
    },
    Socket,
    call::{self, Place},
    confine::confine,
    domain,
    keeper::mount_proc,
    limits::Watch,
    mounts, scope,
};

pub(super) fn main(agent: &Socket) -> Result<(), SlotError> {
    // It is root's once this process cannot be looked into.
    let oom_score = open_oom_score();
    // Calls have the same user: they must not trace this process or look into it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::PrepareHelper)?;
    // A signal that one call sends to its process group must not reach another runner's calls.
    rustix::process::setsid().at(Step::PrepareHelper)?;
    let (spec, _) = agent.expect::<RunnerSpec>().at(Step::Talk)?;
    match &spec.shown {
        None => {
            sys::unshare(UnshareFlags::NEWNS).at(Step::PrivateProc)?;
            show_proc(spec.proc()).at(Step::PrivateProc)?;
            prove_isolation(&spec).at(Step::ProveIsolation)?;
            confine(&spec)?;
            let watch = Watch::new(&spec);
            serve(Runner { agent, oom_score, warden: None, place: Place::in_namespaces(), watch })
        }
        Some(shown) => {
            scope::enter()?;
            let served = confine(&spec).and_then(|()| {
                let warden = parent().at(Step::PrepareHelper)?;
                let place = Place::in_domain(shown, domain::build(shown)?);
                serve(Runner { agent, oom_score, warden: Some(warden), place, watch: Watch::new(&spec) })
            });
            // No pid namespace does it.
            scope::end_all();
            served
        }
    }
}

/// Until the agent, or the warden, is gone.
fn serve(mut runner: Runner<'_>) -> Result<(), SlotError> {
    let agent = runner.agent;
    agent.send(&Reply::from(ReplyKind::Ready(Nothing {})), &[]).at(Step::Talk)?;
    while let Some((request, descriptors)) = runner.next().at(Step::Talk)? {
        let start = match request.kind {
            Some(RequestKind::Start(start)) => Ok((start, descriptors)),
            Some(RequestKind::StartInMemory(_)) => from_memory(descriptors),
            // It came too late for the call that it was meant for.
            Some(RequestKind::Cancel(_)) | None => continue,
        };
        let start = start.and_then(|(start, mut stdio)| {
            if start.terminal {
                runner.open_terminal(&mut stdio)?;
            }
            Ok((start, stdio))
        });
        let answer = match start.map(|(start, descriptors)| runner.start(&start, descriptors)) {
            Ok(Ok((child, started))) => match runner.watch(&child, started).at(Step::EndProcesses)? {
                Some(ended) => ReplyKind::Ended(ended),
                None => break,
            },
            Ok(Err(refusal)) => ReplyKind::NotStarted(refusal),
            Err(error) => ReplyKind::NotStarted(call::refusal(&error, "the request")),
        };
        agent.send(&Reply::from(answer), &[]).at(Step::Talk)?;
    }
    Ok(())
}

fn show_proc(proc: Proc) -> io::Result<()> {
    match proc {
        Proc::Own => private_proc(),
        Proc::Agents => read_only_proc(),
        Proc::OwnIfPossible => private_proc().or_else(|_| read_only_proc()),
    }
}

/// The warden, as something that becomes readable with its end.
fn parent() -> io::Result<OwnedFd> {
    let parent = rustix::process::getppid().ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(parent, PidfdFlags::empty())?)
}

/// The /proc of this pid namespace over the slot's; read-only, or calls could take themselves out of the way of whoever
/// looks for memory, and put their runner there.
fn private_proc() -> io::Result<()> {
    Ok(mount_proc("/proc", MountFlags::RDONLY)?)
}

/// The slot's /proc, which is the agent's, over itself: where calls have the agent's user, some files of its processes
/// are theirs to write to.
fn read_only_proc() -> io::Result<()> {
    mounts::attach(mounts::open_read_only("/proc".as_ref())?.as_fd(), "/proc")
}

fn open_oom_score() -> Option<File> {
    fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj").ok()
}

/// `kill(-1)` from anywhere but a slot would end the machine's processes. So this must be process 1, the child of
/// nobody in its pid namespace, and in a user namespace that has but one user, or about to be an ordinary user.
fn prove_isolation(spec: &RunnerSpec) -> io::Result<()> {
    let first = rustix::process::getpid() == Pid::INIT && rustix::process::getppid().is_none();
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let mut words = map.split_ascii_whitespace();
    let one_user = (words.next(), words.nth(1), words.next()) == (Some("0"), Some("1"), None);
    if first && (one_user || spec.user.is_some_and(|user| user != 0)) {
        Ok(())
    } else {
        Err(io::Error::other("this process is not in a slot"))
    }
}

/// A request that is too large for a datagram.
fn from_memory(mut descriptors: Vec<OwnedFd>) -> io::Result<(Start, Vec<OwnedFd>)> {
    let memory = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
    let mut memory = File::from(memory);
    if memory.metadata()?.len() > MAX_START {
        return Err(rustix::io::Errno::TOOBIG.into());
    }
    let mut message = Vec::new();
    memory.read_to_end(&mut message)?;
    Ok((wire::decode(&message)?, descriptors))
}

struct Runner<'a> {
    agent: &'a Socket,
    /// Of this process; `None` where it cannot be set.
    oom_score: Option<File>,
    /// Its end must be this process's.
    warden: Option<OwnedFd>,
    place: Place,
    watch: Watch,
}

impl Runner<'_> {
    /// The agent's next word; `None` once nobody is there to work for.
    fn next(&self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        if let Some(warden) = &self.warden {
            let mut ready = [PollFd::from_borrowed_fd(self.agent.0, PollFlags::IN), PollFd::new(warden, PollFlags::IN)];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, None))?;
            if !ready[1].revents().is_empty() {
                return Ok(None);
            }
        }
        self.agent.receive()
    }

    /// Makes a terminal, tells the agent, and puts it in the place of stderr. It becomes this process's controlling
    /// terminal, and so that of all it starts.
    fn open_terminal(&self, stdio: &mut [OwnedFd]) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        // Another one, since whether it blocks is not a descriptor's own.
        let never_blocks = flags | OpenptFlags::from_bits_retain(OFlags::NONBLOCK.bits());
        let agents = rustix::pty::ioctl_tiocgptpeer(&master, never_blocks)?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        self.agent.send(&Reply::from(ReplyKind::Terminal(Nothing {})), &[master.as_fd(), agents.as_fd()])?;
        *stdio.get_mut(1).ok_or(io::ErrorKind::InvalidData)? = slave;
        Ok(())
    }

    /// Starts the call's process. When memory runs out, calls go first and helpers stay.
    fn start(&mut self, start: &Start, stdio: Vec<OwnedFd>) -> Result<(Child, Instant), wire::NotStarted> {
        // Our copies of the call's stdio go with the command: then the call is the last to write to it.
        let started = call::prepare(start, stdio, &self.place).and_then(|prepared| {
            self.set_oom_score("1000");
            let started = Instant::now();
            let child = prepared.spawn();
            self.set_oom_score("0");
            let child = child.map_err(|error| call::refusal(&error, call::name(start)))?;
            Ok((child, started))
        });
        // The call's directory may be removed and its file system is no business of this process.
        let _ = rustix::process::chdir("/");
        started
    }

    fn set_oom_score(&mut self, score: &str) {
        if let Some(file) = &mut self.oom_score {
            let _ = file.write_all(score.as_bytes());
        }
    }

    /// Waits for the end of the call's process, or for the agent's word to end it; then kills and reaps whatever is
    /// left. `None` if the agent is gone: then this process must end, and the kernel kills what is left.
    fn watch(&self, child: &Child, started: Instant) -> io::Result<Option<Ended>> {
        let pid = Pid::from_child(child);
        // The child is not reaped before this, so the number is still its own.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let mut tally = Tally { child: pid.as_raw_nonzero().get(), ended: Ended::default() };
        self.watch.begin(pid);
        loop {
            let mut ready =
                vec![PollFd::new(&pidfd, PollFlags::IN), PollFd::from_borrowed_fd(self.agent.0, PollFlags::IN)];
            ready.extend(self.warden.as_ref().map(|warden| PollFd::new(warden, PollFlags::IN)));
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, Some(self.watch.interval())))?;
            let (ended, word) = (!ready[0].revents().is_empty(), ready[1].revents());
            if ended {
                break;
            }
            if ready.get(2).is_some_and(|warden| !warden.revents().is_empty()) {
                return Ok(None);
            }
            // Only a cancel can come while a call runs.
            if word.contains(PollFlags::IN) && self.agent.receive::<Request>()?.is_some() {
                kill_all();
            } else if word.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                return Ok(None);
            }
            while tally.add(sys::reap(false)) {}
            if tally.ended.limit() == LimitHit::None {
                tally.ended.set_limit(self.watch.exceeded(tally.cpu_time()));
                if tally.ended.limit() != LimitHit::None {
                    kill_all();
                }
            }
        }
        let execution = started.elapsed();
        // Before it is reaped: it counts until then.
        if tally.ended.limit() == LimitHit::None && has_failed(&pidfd) && self.watch.is_full() {
            tally.ended.set_limit(LimitHit::Processes);
        }
        while tally.add(sys::reap(false)) {}
        // Whatever the process has left behind is a child of this one by now. The kill looks at every process of the
        // machine, so it is spared where nobody is left, as after most calls.
        if has_children() {
            kill_all();
            while tally.add(sys::reap(true)) {}
        }
        tally.ended.execution_us = execution.as_micros() as u64;
        if tally.ended.limit() == LimitHit::None {
            tally.ended.set_limit(self.seen_at_the_end(&tally));
        }
        Ok(Some(tally.ended))
    }

    /// The kernel ends a process with these signals at its limits, and few others do.
    fn seen_at_the_end(&self, tally: &Tally) -> LimitHit {
        if self.watch.exceeded_in_all(tally.cpu_time()) {
            return LimitHit::CpuTime;
        }
        match ExitStatus::from_raw(tally.ended.status).signal() {
            Some(signal) if signal == Signal::XFSZ.as_raw() => LimitHit::FileSize,
            _ => LimitHit::None,
        }
    }
}

/// All of this pid namespace, or of this process's domain, but this process. Atomic against fork: nobody is missed.
pub(super) fn kill_all() {
    // An error means that nobody is left.
    let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
}

/// Of a child that has ended and is not reaped.
fn has_failed(child: &OwnedFd) -> bool {
    let status = rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    status.is_ok_and(|status| status.is_some_and(|status| status.exit_status() != Some(0)))
}

/// Whether there is any child, ended or not. Whoever cannot ask takes it that there is one.
fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::All, options), Err(rustix::io::Errno::CHILD))
}

/// What the call's processes used.
struct Tally {
    child: i32,
    ended: Ended,
}

impl Tally {
    fn cpu_time(&self) -> Duration {
        Duration::from_micros(self.ended.user_cpu_us + self.ended.system_cpu_us)
    }

    /// Whether there was somebody to add.
    fn add(&mut self, reaped: Option<sys::Reaped>) -> bool {
        let Some(reaped) = reaped else { return false };
        if reaped.pid == self.child {
            self.ended.status = reaped.status;
        }
        self.ended.user_cpu_us += reaped.user_cpu.as_micros() as u64;
        self.ended.system_cpu_us += reaped.system_cpu.as_micros() as u64;
        self.ended.written_bytes += reaped.written_bytes;
        self.ended.max_rss_bytes = self.ended.max_rss_bytes.max(reaped.max_rss_bytes);
        true
    }
}
