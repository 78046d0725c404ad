//! The pretended clients: tasks that start, run, fail and end, and what of it is told to the server, and when.
//!
//! A client knows first: what happens changes a [`Local`], and [`World::report`] carries it to the server's record a
//! while later.

use std::{
    path::PathBuf,
    process::ExitStatus,
    sync::Weak,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    TaskFailure, process,
    shape::task_event,
    task,
    world::{Shared, World, rfc3339},
};

/// What a client knows of an allocation.
pub(super) struct Local {
    pub(super) node_id: String,
    pub(super) directory: PathBuf,
    pub(super) pid: Option<u32>,
    /// It is to end, or has ended.
    pub(super) stopping: bool,
    pub(super) oom: bool,
    /// When it will be told.
    pub(super) due: Vec<Instant>,
    driver: String,
    kill_signal: String,
    kill_timeout: Duration,
    task_name: String,
    pub(super) status: &'static str,
    pub(super) description: &'static str,
    state: &'static str,
    failed: bool,
    pub(super) started_at: Value,
    finished_at: Value,
    events: Vec<Value>,
}

impl Local {
    pub(super) fn tell(&mut self, kind: &str, display: &str, details: Value, fields: Value) {
        self.events.push(task_event(kind, display, details, fields));
        // Nomad keeps the last ten.
        if self.events.len() > 10 {
            self.events.remove(0);
        }
    }

    fn is_over(&self) -> bool {
        self.state == "dead"
    }

    fn end(&mut self, failed: bool) {
        if failed {
            let reason = "Policy allows no restarts";
            let details = json!({ "restart_reason": reason, "fails_task": "true" });
            self.tell("Not Restarting", reason, details, json!({ "FailsTask": true, "RestartReason": reason }));
        }
        self.stopping = true;
        self.state = "dead";
        self.failed = failed;
        self.finished_at = rfc3339().into();
        let end = if failed { ("failed", "Failed tasks") } else { ("complete", "All tasks have completed") };
        (self.status, self.description) = end;
    }

    pub(super) fn task_states(&self) -> Value {
        json!({ &self.task_name: {
            "Events": self.events, "Failed": self.failed, "FinishedAt": self.finished_at, "LastRestart": null,
            "Paused": "", "Restarts": 0, "StartedAt": self.started_at, "State": self.state,
        } })
    }
}

impl World {
    /// The client of its node hears of a new allocation.
    pub(super) fn start(&mut self, id: &str) {
        let Some(alloc) = self.alloc(id).cloned() else { return };
        let Some(runtime) = self.shared.upgrade().map(|shared| shared.runtime.clone()) else { return };
        let task = alloc.task();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut local = Local {
            node_id: alloc.node_id.clone(),
            directory: self.alloc_dir.join(id),
            pid: None,
            stopping: false,
            oom: false,
            due: Vec::new(),
            driver: text(&task["Driver"]),
            kill_signal: text(&task["KillSignal"]),
            kill_timeout: Duration::from_nanos(task["KillTimeout"].as_u64().unwrap_or(0)),
            task_name: alloc.task_name(),
            status: "pending",
            description: "No tasks have started",
            state: "pending",
            failed: false,
            started_at: Value::Null,
            finished_at: Value::Null,
            events: Vec::new(),
        };
        local.tell("Received", "Task received by client", json!({}), json!({}));
        self.locals.insert(id.to_owned(), local);
        runtime.spawn(run(self.shared.clone(), self.generation, id.to_owned()));
    }

    /// What keeps a task from starting: told soon, `failed` a while later, as the log collector is waited for.
    fn fail_to_start(&mut self, id: &str, failure: &TaskFailure) {
        let options = self.options();
        let image = self.alloc(id).map(task::image).unwrap_or_default();
        let Some(local) = self.locals.get_mut(id) else { return };
        local.stopping = true;
        for (kind, details, field, text) in failure.events(&image) {
            let fields = if field.is_empty() { json!({}) } else { json!({ field: text }) };
            local.tell(kind, &text, details, fields);
        }
        self.report(id, Duration::ZERO);
        let id = id.to_owned();
        self.later(options.failed_after, move |world| {
            let Some(local) = world.locals.get_mut(&id) else { return };
            local.end(true);
            world.sync(&id);
        });
    }

    /// The client ends a task: its signal, and after the timeout SIGKILL to all of it.
    pub(super) fn stop_task(&mut self, id: &str) {
        let report_after = self.options().report_after;
        let Some(local) = self.locals.get_mut(id).filter(|local| !local.is_over()) else { return };
        if std::mem::replace(&mut local.stopping, true) && local.pid.is_some() {
            return;
        }
        let Some(pid) = local.pid else {
            local.end(false);
            self.report(id, report_after);
            return;
        };
        let timeout = process::go_duration(local.kill_timeout);
        let display = format!("Sent interrupt. Waiting {timeout} before force killing");
        let nanos = u64::try_from(local.kill_timeout.as_nanos()).unwrap_or(u64::MAX);
        local.tell("Killing", &display, json!({ "kill_timeout": timeout }), json!({ "KillTimeout": nanos }));
        let default = if local.driver == "docker" { "SIGTERM" } else { "SIGINT" };
        let name = if local.kill_signal.is_empty() { default } else { &local.kill_signal };
        process::signal(pid, process::signal_named(name));
        let (id, timeout) = (id.to_owned(), local.kill_timeout);
        self.later(timeout, move |world| {
            if let Some(pid) = world.locals.get(&id).and_then(|local| local.pid) {
                process::kill_tree(pid);
            }
        });
    }

    /// Its process has ended, for whatever reason.
    pub(super) fn ended(&mut self, id: &str, status: ExitStatus) {
        let options = self.options();
        let Some(local) = self.locals.get_mut(id) else { return };
        local.pid = None;
        let (code, signal, message) = process::exit_of(status, &local.driver, local.oom);
        let mut details = json!({
            "exit_code": code.to_string(), "signal": signal.to_string(), "oom_killed": local.oom.to_string(),
        });
        let mut display = format!("Exit Code: {code}");
        if signal != 0 {
            display += &format!(", Signal: {signal}");
        }
        if let Some(message) = &message {
            display += &format!(", Exit Message: {message:?}");
            details["exit_message"] = message.clone().into();
        }
        let fields = json!({ "ExitCode": code, "Signal": signal, "Message": message.unwrap_or_default() });
        local.tell("Terminated", &display, details, fields);
        let asked = local.stopping;
        if asked {
            local.tell("Killed", "Task successfully killed", json!({}), json!({}));
        }
        local.end(!asked && code != 0);
        self.report(id, options.report_after);
    }
}

/// The life of a task up to its start; its end is told by who waits for the process.
async fn run(shared: Weak<Shared>, generation: u64, id: String) {
    let Some(strong) = shared.upgrade() else { return };
    let options = strong.options.clone();
    drop(strong);
    tokio::time::sleep(options.task_start).await;
    // What is still wanted of it, at each of the steps.
    let step = |act: &mut dyn FnMut(&mut World)| {
        let Some(shared) = shared.upgrade() else { return false };
        let mut world = shared.world();
        let goes_on = world.generation == generation
            && !world.closed
            && world.alloc(&id).is_some()
            && world.locals.get(&id).is_some_and(|local| !local.stopping);
        if goes_on {
            act(&mut world);
        }
        goes_on
    };
    let mut prepared = None;
    let goes_on = step(&mut |world| {
        let failure = world.cues.next_failure();
        let message = "Building Task Directory";
        if let Some(local) = world.locals.get_mut(&id) {
            local.tell("Task Setup", message, json!({ "message": message }), json!({ "Message": message }));
        }
        match failure {
            Some(failure) => world.fail_to_start(&id, &failure),
            None => prepared = world.alloc(&id).map(|alloc| task::prepare(alloc, &world.alloc_dir)),
        }
    });
    let Some(prepared) = prepared.filter(|_| goes_on) else { return };
    let fail = |failure: TaskFailure| step(&mut |world| world.fail_to_start(&id, &failure));
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(text) => {
            fail(TaskFailure::DriverFailure(text));
            return;
        }
    };
    if !prepared.artifacts.is_empty() {
        let text = "Client is downloading artifacts";
        step(&mut |world| {
            if let Some(local) = world.locals.get_mut(&id) {
                local.tell("Downloading Artifacts", text, json!({}), json!({}));
            }
        });
    }
    for artifact in &prepared.artifacts {
        if let Err(text) = artifact.fetch().await {
            fail(TaskFailure::ArtifactDownload(text));
            return;
        }
    }
    let mut failed = None;
    step(&mut |world| match process::spawn(&prepared, world.shared.clone(), generation, id.clone()) {
        Err(text) => failed = Some(TaskFailure::DriverFailure(text)),
        Ok(pid) => {
            if let Some(local) = world.locals.get_mut(&id) {
                local.pid = Some(pid);
                local.tell("Started", "Task started by client", json!({}), json!({}));
                local.started_at = rfc3339().into();
                (local.state, local.status, local.description) = ("running", "running", "Tasks are running");
            }
            world.report(&id, options.running_after.saturating_sub(options.task_start));
        }
    });
    if let Some(failure) = failed {
        fail(failure);
    }
}
