//! What goes wrong on cue: the requests that fail, the answers that are lost, the tasks that do not start.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use serde_json::{Value, json};

use super::{LostAnswer, Nomad, TaskFailure, process, process::signal};

#[derive(Default)]
pub(super) struct Cues {
    pub(super) failing: Vec<Failing>,
    pub(super) no_leader: bool,
    pub(super) hang: bool,
    pub(super) silent: bool,
    /// How often the streams were cut.
    pub(super) cuts: u64,
    pub(super) lost_answers: VecDeque<LostAnswer>,
    pub(super) double_dispatches: u32,
    pub(super) task_failures: Vec<(TaskFailure, Option<u32>)>,
    pub(super) no_room: bool,
    pub(super) denied: BTreeSet<String>,
}

pub(super) struct Failing {
    prefix: String,
    status: u16,
    text: String,
    times: Option<u32>,
}

impl Cues {
    pub(super) fn failure_of(&mut self, path: &str) -> Option<(u16, String)> {
        let at = self.failing.iter().position(|failing| path.starts_with(&failing.prefix))?;
        let found = &mut self.failing[at];
        let answer = (found.status, found.text.clone());
        if let Some(times) = &mut found.times {
            *times -= 1;
            if *times == 0 {
                self.failing.remove(at);
            }
        }
        Some(answer)
    }

    pub(super) fn next_failure(&mut self) -> Option<TaskFailure> {
        let (failure, times) = self.task_failures.first_mut()?;
        let failure = failure.clone();
        if let Some(times) = times {
            *times -= 1;
            if *times == 0 {
                self.task_failures.remove(0);
            }
        }
        Some(failure)
    }
}

impl TaskFailure {
    /// Type, details, the field that says the same, and the text of each event.
    pub(super) fn events(&self, image: &str) -> Vec<(&'static str, Value, &'static str, String)> {
        let driver = |text: String| ("Driver Failure", json!({ "driver_error": text }), "DriverError", text);
        match self {
            Self::DriverFailure(text) => vec![driver(text.clone())],
            Self::BadUser(user) => {
                let cause = format!("failed to identify user {user:?}: user: unknown user {user}");
                vec![driver(format!("failed driver config validation: {cause}"))]
            }
            Self::ImagePull(text) => {
                let text = if text.starts_with("Failed to pull") {
                    text.clone()
                } else {
                    format!("Failed to pull `{image}`: Error response from daemon: {text}")
                };
                let pulling = ("Driver", json!({ "image": image }), "DriverMessage", "Downloading image".to_owned());
                vec![pulling, driver(text)]
            }
            Self::ArtifactDownload(text) => {
                vec![("Failed Artifact Download", json!({ "download_error": text }), "DownloadError", text.clone())]
            }
            Self::Validation => {
                let text = "3 errors occurred:\n\t* failed to parse config: \n\t* Missing required argument: The \
                            argument \"command\" is required, but no definition was found.\n\t* Invalid label: No \
                            argument or block type is named \"nope\".\n\n";
                let details = json!({ "validation_error": text });
                vec![("Failed Validation", details, "ValidationError", text.to_owned())]
            }
        }
    }
}

/// Each takes effect at once, and most can be lifted.
impl Nomad {
    fn cue(&self, change: impl FnOnce(&mut Cues)) {
        let mut world = self.shared.world();
        change(&mut world.cues);
        world.wake();
    }

    /// Requests to such a path are answered so, as often as that, or until [`Nomad::heal_requests`].
    pub(crate) fn fail_requests(&self, path_prefix: &str, status: u16, text: &str, times: Option<u32>) {
        let failing = Failing { prefix: path_prefix.to_owned(), status, text: text.to_owned(), times };
        self.cue(|cues| cues.failing.push(failing));
    }

    pub(crate) fn heal_requests(&self) {
        self.cue(|cues| cues.failing.clear());
    }

    pub(crate) fn no_leader(&self, on: bool) {
        self.cue(|cues| cues.no_leader = on);
    }

    /// Requests are read and never answered; those of that time stay so. Streams fall silent.
    pub(crate) fn hang(&self, on: bool) {
        self.cue(|cues| cues.hang = on);
    }

    /// Streams give nothing; lifted, they go on with what they have missed.
    pub(crate) fn silent_streams(&self, on: bool) {
        self.cue(|cues| cues.silent = on);
    }

    pub(crate) fn cut_streams(&self) {
        self.cue(|cues| cues.cuts += 1);
    }

    /// Whether there is nobody listening; connections that there are stay.
    pub(crate) fn refuse_connections(&self, on: bool) {
        self.shared.door.set_open(!on);
    }

    /// Lists answer from what there was at this moment.
    pub(crate) fn stale_lists(&self, on: bool) {
        let mut world = self.shared.world();
        world.frozen = on.then(|| world.tables.clone());
        world.wake();
    }

    /// So many dispatches are carried out, and their answers are lost.
    pub(crate) fn apply_then_fail_dispatch(&self, times: u32, how: LostAnswer) {
        self.cue(|cues| cues.lost_answers.extend(std::iter::repeat_n(how, times as usize)));
    }

    /// So many dispatches make two children each, with one token.
    pub(crate) fn double_dispatch(&self, times: u32) {
        self.cue(|cues| cues.double_dispatches += times);
    }

    /// Tasks that would start next fail instead, so many or until [`Nomad::heal_tasks`].
    pub(crate) fn fail_next_task(&self, how: TaskFailure, times: Option<u32>) {
        self.cue(|cues| cues.task_failures.push((how, times)));
    }

    pub(crate) fn heal_tasks(&self) {
        self.cue(|cues| cues.task_failures.clear());
    }

    /// No node has memory left for another allocation.
    pub(crate) fn no_room(&self, on: bool) {
        self.cue(|cues| cues.no_room = on);
        if !on {
            self.shared.world().unblock();
        }
    }

    /// Nobody has this capability any more.
    pub(crate) fn deny(&self, capability: &str) {
        self.cue(|cues| {
            cues.denied.insert(capability.to_owned());
        });
    }

    pub(crate) fn allow(&self, capability: &str) {
        self.cue(|cues| {
            cues.denied.remove(capability);
        });
    }

    fn pid_of(&self, alloc: &str) -> u32 {
        let pid = self.shared.world().locals.get(alloc).and_then(|local| local.pid);
        pid.unwrap_or_else(|| panic!("no process runs for {alloc}"))
    }

    /// From outside, to the main process.
    pub(crate) fn kill_task(&self, alloc: &str, with: rustix::process::Signal) {
        signal(self.pid_of(alloc), with);
    }

    pub(crate) fn oom_kill(&self, alloc: &str) {
        let pid = self.pid_of(alloc);
        if let Some(local) = self.shared.world().locals.get_mut(alloc) {
            local.oom = true;
        }
        process::kill_tree(pid);
    }

    /// A dev agent that was restarted: nothing is known any more, and its tasks run on.
    pub(crate) fn forget_everything(&self) {
        self.shared.world().forget(&self.shared.options.nodes);
        self.shared.door.cut_all();
    }

    /// A server with a data directory: gone for so long, and then as before. Returns at once.
    pub(crate) fn restart(&self, down: Duration) {
        self.shared.world().down = true;
        self.shared.door.set_open(false);
        self.shared.door.cut_all();
        let door = self.shared.door.clone();
        self.shared.world().later(down, move |world| {
            world.down = false;
            // The stream's backlog is in memory.
            world.log.clear();
            let ids: Vec<String> = world.locals.keys().cloned().collect();
            ids.iter().for_each(|id| world.sync(id));
            door.will_open();
        });
    }
}
