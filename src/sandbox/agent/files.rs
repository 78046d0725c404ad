//! File jobs. They are small, bounded, and go to the page cache: done where they arrive, they cost less than handing
//! them to another thread would.

use std::time::Instant;

use bytes::Bytes;

use crate::{
    sandbox::slot::Workspace,
    tool::job::{End, Ending, Phases},
};

pub(super) fn read(workspace: &Workspace, path: &str, max_bytes: u64) -> Ending {
    timed(|| workspace.read(path, max_bytes).map_or_else(End::FileFailed, End::Read))
}

pub(super) fn write(workspace: &Workspace, path: &str, content: &Bytes) -> Ending {
    timed(|| workspace.write(path, content).map_or_else(End::FileFailed, End::Wrote))
}

fn timed(job: impl FnOnce() -> End) -> Ending {
    let start = Instant::now();
    let end = job();
    Ending { end, phases: Phases { execution: start.elapsed(), ..Phases::default() } }
}
