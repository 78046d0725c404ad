//! Which background processes a slot has, and what is said of them.

use std::{collections::BTreeMap, sync::Arc};

use super::background::Background;
use crate::tool::session::Told;

/// That run at a time.
const MAX_RUNNING: usize = 16;
/// That have ended and are still known.
const MAX_ENDED: usize = 16;
/// Of a command, in a list.
const SHOWN: usize = 100;

#[derive(Default)]
pub(super) struct Table {
    processes: BTreeMap<u64, Arc<Background>>,
    last: u64,
}

impl Table {
    /// Why there is no place for one more, if there is none.
    pub(super) fn is_full(&self) -> Option<Told> {
        let running = self.processes.values().filter(|process| process.ended().is_none()).count();
        (running >= MAX_RUNNING)
            .then(|| Told::failed(format!("{MAX_RUNNING} background processes are running: kill one first")))
    }

    /// Its number. The oldest that have ended are forgotten.
    pub(super) fn add(&mut self, process: Arc<Background>) -> u64 {
        let mut ended: Vec<u64> =
            self.processes.iter().filter(|(_, p)| p.ended().is_some()).map(|(id, _)| *id).collect();
        let surplus = (ended.len() + 1).saturating_sub(MAX_ENDED);
        ended.truncate(surplus);
        for id in ended {
            self.processes.remove(&id);
        }
        self.last += 1;
        self.processes.insert(self.last, process);
        self.last
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Background>> {
        self.processes.get(&id).cloned()
    }

    pub(super) fn list(&self) -> Told {
        if self.processes.is_empty() {
            return Told::new("There are no background processes");
        }
        let line = |(id, process): (&u64, &Arc<Background>)| {
            let command: String = process.command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let shown: String = command.chars().take(SHOWN).collect();
            let more = if command.chars().nth(SHOWN).is_some() { "..." } else { "" };
            format!("{id}  {}  {shown}{more}", state(process))
        };
        let lines: Vec<String> = self.processes.iter().map(line).collect();
        Told::new(lines.join("\n")).with("count", self.processes.len())
    }
}

/// "is running", or how it ended.
pub(super) fn state(process: &Background) -> String {
    process.ended().map_or_else(|| "is running".to_owned(), |ended| ended.how)
}

pub(super) fn poll(id: u64, process: &Background) -> Told {
    let ended = process.ended();
    let elapsed = ended.as_ref().map_or_else(|| process.started.elapsed(), |ended| ended.after);
    let bytes = process.printed();
    let text = format!("Process {id} {} ({:.1} s, {bytes} bytes of output)", state(process), elapsed.as_secs_f64());
    let told = about(Told::new(text), id, process);
    told.with("output_bytes", bytes)
}

pub(super) fn log(id: u64, process: &Background, offset: Option<u64>, max: usize) -> Told {
    // Asked first: what it printed until its end is in the log then.
    let state = state(process);
    let part = process.log(offset, max);
    let mut text = String::new();
    if part.dropped > 0 {
        text.push_str(&format!("[{} earlier bytes are not kept]\n", part.dropped));
    }
    text.push_str(&String::from_utf8_lossy(&part.data));
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let rest = process.printed() - part.next();
    let more = if rest > 0 { format!(", {rest} bytes follow") } else { String::new() };
    text.push_str(&format!("[process {id} {state}; next offset {}{more}]", part.next()));
    let told = about(Told::new(text), id, process);
    told.with("offset", part.offset).with("next_offset", part.next()).with("dropped_bytes", part.dropped)
}

fn about(told: Told, id: u64, process: &Background) -> Told {
    let told = told.with("id", id);
    let Some(ended) = process.ended() else { return told.with("running", true) };
    let told = told.with("running", false).naming(ended.exceeded.as_ref());
    match ended.code {
        Some(code) => told.with("exit_code", code),
        None => told,
    }
}
