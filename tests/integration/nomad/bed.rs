//! What the stand-in's tests share: a stand-in with a small client, the jobs they register, and a stream's reader.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    client::PATIENCE,
    nomad::{
        Nomad, Options,
        ask::{Answer, ask, send},
    },
};

pub(super) struct Bed {
    pub(super) nomad: Nomad,
}

impl Bed {
    pub(super) async fn start() -> Self {
        Self { nomad: Nomad::start() }
    }

    pub(super) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::default();
        change(&mut options);
        Self { nomad: Nomad::start_with(options) }
    }

    pub(super) async fn try_ask(&self, method: &str, path: &str, token: &str, body: &[u8]) -> std::io::Result<Answer> {
        let headers = [("X-Nomad-Token", token)];
        timeout(PATIENCE, ask(self.nomad.authority(), method, path, &headers, body)).await.expect("an answer in time")
    }

    pub(super) async fn ask_as(&self, token: &str, method: &str, path: &str) -> (u16, String) {
        let answer = self.try_ask(method, path, token, b"{}").await.expect("it answers");
        (answer.status, answer.text())
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.try_ask("GET", path, "", b"").await.expect("it answers")
    }

    pub(super) async fn filtered(&self, path: &str, filter: &str) -> Answer {
        let escaped: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.get(&format!("{path}?filter={escaped}")).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.try_ask("DELETE", path, "", b"").await.expect("it answers")
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_ask("POST", path, "", body.to_string().as_bytes()).await.expect("it answers")
    }

    pub(super) async fn register(&self, job: &Value) -> Value {
        let answer = self.post("/v1/jobs", &json!({ "Job": job })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The child's ID; its token is `token-` and the name of the run.
    pub(super) async fn dispatch(&self, parent: &str, run: &str) -> String {
        let answer = self.try_dispatch(parent, run).await.expect("it answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["DispatchedJobID"].as_str().expect("it has an ID").to_owned()
    }

    pub(super) async fn try_dispatch(&self, parent: &str, run: &str) -> std::io::Result<Answer> {
        let path = format!("/v1/job/{parent}/dispatch?idempotency_token=token-{run}");
        self.try_ask("POST", &path, "", json!({ "Meta": { "run": run } }).to_string().as_bytes()).await
    }

    /// With one child that runs: its ID, and that of its allocation.
    pub(super) async fn run_one(&self) -> (String, String) {
        self.register(&sleeper("pool")).await;
        let child = self.dispatch("pool", "r1").await;
        self.until_status(&child, "running").await;
        let alloc = self.nomad.allocations().into_iter().find(|alloc| alloc.job_id == child).expect("there is one");
        (child, alloc.id)
    }

    pub(super) async fn until_status(&self, child: &str, status: &str) {
        let is_so = |nomad: &Nomad| {
            nomad.allocations().iter().any(|alloc| alloc.job_id == child && alloc.client_status == status)
        };
        self.nomad.until(status, is_so).await;
    }

    pub(super) async fn allocation(&self, id: &str) -> Value {
        self.get(&format!("/v1/allocation/{id}")).await.json()
    }
}

/// A parameterized batch job whose task is this script.
pub(super) fn job(id: &str, script: &str) -> Value {
    json!({
        "ID": id, "Name": id, "Type": "batch", "Datacenters": ["dc1"], "Meta": { "owner": "tests" },
        "ParameterizedJob": { "Payload": "optional", "MetaRequired": ["run"], "MetaOptional": ["image"] },
        "TaskGroups": [{
            "Name": "sandbox", "Count": 1,
            "RestartPolicy": { "Attempts": 0, "Mode": "fail" }, "ReschedulePolicy": { "Attempts": 0, "Unlimited": false },
            "Networks": [{ "Mode": "host", "DynamicPorts": [{ "Label": "agent" }] }],
            "Tasks": [{
                "Name": "sandbox", "Driver": "raw_exec",
                "Config": { "command": "/bin/sh", "args": ["-c", script] },
                "Resources": { "CPU": 20, "MemoryMB": 32 },
            }],
        }],
    })
}

/// One that does nothing for longer than a test takes.
pub(super) fn sleeper(id: &str) -> Value {
    job(id, "exec sleep 60")
}

/// Type and details of each event of an allocation's task.
pub(super) fn events(alloc: &Value) -> Vec<(String, Value)> {
    let events = alloc["TaskStates"]["sandbox"]["Events"].as_array().expect("it has events").iter();
    events.map(|event| (event["Type"].as_str().unwrap_or_default().to_owned(), event["Details"].clone())).collect()
}

/// An event stream, line by line.
pub(super) struct Stream {
    lines: Lines<BufReader<TcpStream>>,
    /// The rest of the last line.
    events: Vec<Value>,
}

impl Stream {
    /// One whose first `{}` has come.
    pub(super) async fn open(bed: &Bed, query: &str) -> Self {
        let mut stream = Self::open_silent(bed, query).await;
        let first = timeout(PATIENCE, stream.lines.next_line()).await.expect("a line in time");
        assert_eq!(first.expect("it can be read").as_deref(), Some("{}"));
        stream
    }

    /// One that has answered 200, and nothing else yet.
    pub(super) async fn open_silent(bed: &Bed, query: &str) -> Self {
        let path = format!("/v1/event/stream?{query}");
        let sent = send(bed.nomad.authority(), "GET", &path, &[], b"").await;
        let mut lines = BufReader::new(sent.expect("it connects")).lines();
        let status = lines.next_line().await.expect("it can be read").expect("a status");
        assert!(status.ends_with("200 OK"), "{status}");
        while lines.next_line().await.expect("it can be read").is_some_and(|line| !line.is_empty()) {}
        Self { lines, events: Vec::new() }
    }

    /// Whether nothing comes for so long.
    pub(super) async fn is_silent(&mut self, time: Duration) -> bool {
        timeout(time, self.lines.next_line()).await.is_err()
    }

    /// Whether it has ended; what comes before that is lost.
    pub(super) async fn ends(&mut self) -> bool {
        let end = async { while matches!(self.lines.next_line().await, Ok(Some(_))) {} };
        timeout(Duration::from_secs(5), end).await.is_ok()
    }

    /// The next such event.
    pub(super) async fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            while !self.events.is_empty() {
                let event = self.events.remove(0);
                if wanted(&event) {
                    return event;
                }
            }
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
            let line = line.expect("it can be read").expect("the stream goes on");
            let line: Value = serde_json::from_str(&line).expect("it is JSON");
            self.events = line["Events"].as_array().cloned().unwrap_or_default();
        }
    }

    /// The allocation of the next such event.
    pub(super) async fn allocation(&mut self, wanted: impl Fn(&Value, &Value) -> bool) -> Value {
        let is_it = |event: &Value| event["Topic"] == "Allocation" && wanted(event, &event["Payload"]["Allocation"]);
        self.event(is_it).await["Payload"]["Allocation"].clone()
    }
}
