//! The warden: what the keeper is to a slot with namespaces. It is the slot's user, makes runners, and ends all of the
//! slot's processes before it ends itself: because the agent says so, or is gone, or because a runner was killed and
//! what that left behind can no longer be told from what the others run.

use std::os::fd::OwnedFd;

use rustix::{
    event::{PollFd, PollFlags},
    fs::Mode,
    process::{DumpableBehavior, Pid, PidfdFlags},
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        sys,
        wire::{Nothing, Reply, ReplyKind, WardenSpec},
    },
    Socket, THIS_PROGRAM, clean, command,
    confine::drop_privileges,
    keeper::answer,
    scope,
};

/// A runner.
struct Ward {
    pid: Pid,
    pidfd: OwnedFd,
}

pub(super) fn main(agent: &Socket) -> Result<(), SlotError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A terminal that the agent was started from must not be any call's /dev/tty.
    rustix::process::setsid().at(Step::PrepareHelper)?;
    let (spec, _) = agent.expect::<WardenSpec>().at(Step::Talk)?;
    scope::enter()?;
    drop_privileges(spec.user)?;
    // Calls have the same user: they must not trace this process or look into it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::PrepareHelper)?;
    clean::verify_plain(&spec)?;
    agent.send(&Reply::from(ReplyKind::Ready(Nothing {})), &[]).at(Step::Talk)?;
    let served = serve(agent);
    scope::end_all();
    served
}

/// Until the agent closes its end.
fn serve(agent: &Socket) -> Result<(), SlotError> {
    let mut wards: Vec<Ward> = Vec::new();
    loop {
        let mut ready = vec![PollFd::from_borrowed_fd(agent.0, PollFlags::IN)];
        ready.extend(wards.iter().map(|ward| PollFd::new(&ward.pidfd, PollFlags::IN)));
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, None)).at(Step::Talk)?;
        let (asked, ended) = (!ready[0].revents().is_empty(), ready[1..].iter().any(|ward| !ward.revents().is_empty()));
        if ended {
            while let Some(reaped) = sys::reap(false) {
                wards.retain(|ward| ward.pid.as_raw_pid() != reaped.pid);
                if !is_orderly(reaped.status) {
                    return Err(SlotError::Gone("runner"));
                }
            }
        }
        if asked {
            let Some((Nothing {}, sockets)) = agent.receive().at(Step::Talk)? else { return Ok(()) };
            for socket in sockets {
                answer(socket, |socket| start_runner(socket).map(|ward| wards.push(ward)));
            }
        }
    }
}

/// A runner leaves nothing behind whenever it ends by itself, failures included.
fn is_orderly(status: i32) -> bool {
    use std::os::unix::process::ExitStatusExt;
    matches!(std::process::ExitStatus::from_raw(status).code(), Some(0 | 1))
}

fn start_runner(socket: OwnedFd) -> Result<Ward, SlotError> {
    let runner = command(THIS_PROGRAM.as_ref(), "runner", socket).spawn().at(Step::StartRunner)?;
    let pid = Pid::from_child(&runner);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).at(Step::StartRunner)?;
    Ok(Ward { pid, pidfd })
}
