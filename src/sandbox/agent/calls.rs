//! Which calls of a slot run, and the way to each.

use std::collections::HashMap;

use tokio::{sync::mpsc, task};

use super::call::Control;
use crate::tool::{Executed, job::End};

/// How a call has ended that neither it nor its slot is to blame for.
pub(super) fn agent_failed(cause: String, executed: Executed) -> End {
    End::AgentFailed { cause, executed }
}

/// The calls that run, by number, and the way to each.
#[derive(Default)]
pub(super) struct Calls {
    controls: HashMap<u64, mpsc::UnboundedSender<Control>>,
    tasks: HashMap<task::Id, u64>,
}

impl Calls {
    pub(super) fn add(&mut self, call: u64, controls: mpsc::UnboundedSender<Control>, task: task::Id) {
        self.controls.insert(call, controls);
        self.tasks.insert(task, call);
    }

    pub(super) fn remove(&mut self, task: task::Id) -> Option<u64> {
        let call = self.tasks.remove(&task)?;
        self.controls.remove(&call);
        Some(call)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = &u64> {
        self.controls.keys()
    }

    pub(super) fn tell(&self, call: u64, control: Control) {
        // One that has ended meanwhile needs nothing.
        if let Some(controls) = self.controls.get(&call) {
            let _ = controls.send(control);
        }
    }

    pub(super) fn tell_all(&self, control: impl Fn() -> Control) {
        self.controls.keys().for_each(|call| self.tell(*call, control()));
    }

    pub(super) fn cancel(&self) {
        self.tell_all(|| Control::Cancel);
    }
}
