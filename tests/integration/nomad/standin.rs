//! The stand-in's own tests: what clients rely on happens, in the order and shape of the recordings.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bed::{Bed, Stream, job, sleeper};
use crate::support::process::is_alive;

#[tokio::test]
async fn a_dispatched_task_lives_and_ends_as_recorded() {
    let bed = Bed::start().await;
    let mut stream = Stream::open(&bed, "topic=Allocation:*&topic=Job:*").await;
    bed.register(&job("pool", "echo out; echo err >&2; exec sleep 60")).await;
    let sent = Instant::now();
    let answer = bed.post("/v1/job/pool/dispatch?idempotency_token=t1", &json!({ "Meta": { "run": "r1" } })).await;
    assert_eq!(answer.status, 200);
    let dispatched = answer.json();
    for key in ["DispatchedJobID", "EvalCreateIndex", "EvalID", "Index", "JobCreateIndex"] {
        assert!(dispatched.get(key).is_some(), "{key}");
    }
    let child = dispatched["DispatchedJobID"].as_str().expect("an ID").to_owned();
    assert!(child.starts_with("pool/dispatch-"), "{child}");

    let planned = stream.allocation(|event, _| event["Type"] == "PlanResult").await;
    assert_eq!((&planned["ClientStatus"], &planned["JobID"]), (&json!("pending"), &json!(child)));
    assert!(planned.get("Job").is_none() && planned.get("TaskStates").is_none());
    let port = &planned["AllocatedResources"]["Shared"]["Ports"][0];
    assert_eq!((&port["Label"], &port["HostIP"]), (&json!("agent"), &json!("127.0.0.1")));
    assert!(port.get("To").is_none());
    let running = stream.allocation(|_, alloc| alloc["ClientStatus"] == "running").await;
    assert!(sent.elapsed() > Duration::from_millis(700), "running is told late, and the plan long before");
    assert_eq!(types(&running), ["Received", "Task Setup", "Started"]);
    let alloc = bed.nomad.allocations().pop().expect("there is one");
    let pid = alloc.pid.expect("it runs");
    assert!(is_alive(pid));

    let logs = |kind: &str| format!("/v1/client/fs/logs/{}?task=sandbox&type={kind}&plain=true", alloc.id);
    assert_eq!(bed.get(&logs("stdout")).await.text(), "out\n");
    assert_eq!(bed.get(&(logs("stderr") + "&origin=end&offset=3")).await.text(), "rr\n");

    let stopped = bed.delete(&format!("/v1/job/{child}")).await.json();
    assert_ne!(stopped["EvalID"], "");
    let ending = stream.allocation(|_, alloc| alloc["DesiredStatus"] == "stop").await;
    assert_eq!(ending["ClientStatus"], "running");
    let ended = stream.allocation(|_, alloc| alloc["ClientStatus"] == "complete").await;
    assert_eq!(types(&ended)[3..], ["Killing", "Terminated", "Killed"]);
    let terminated = &ended["TaskStates"]["sandbox"]["Events"][4];
    assert_eq!(terminated["Details"], json!({ "exit_code": "130", "signal": "2", "oom_killed": "false" }));
    assert!(!is_alive(pid));
    let encoded = child.replace('/', "%2F");
    assert_eq!(bed.get(&format!("/v1/job/{encoded}")).await.json()["Status"], "dead");

    // A dead child is the answer for its token until it is purged.
    let again =
        bed.post("/v1/job/pool/dispatch?idempotency_token=t1", &json!({ "Meta": { "run": "r1" } })).await.json();
    assert_eq!((&again["DispatchedJobID"], &again["EvalID"]), (&json!(child), &json!("")));
    bed.delete(&format!("/v1/job/{encoded}?purge=true")).await;
    let deleted = stream.event(|event| event["Payload"]["Deleted"] == true).await;
    assert_eq!((&deleted["Type"], &deleted["Key"]), (&json!("JobDeregistered"), &json!(child)));
    let gone = bed.get(&format!("/v1/allocation/{}", alloc.id)).await;
    assert_eq!((gone.status, &*gone.text()), (404, "alloc not found"));
    let gone = bed.get(&logs("stderr")).await;
    assert_eq!((gone.status, gone.text()), (404, format!("Unknown allocation \"{}\"", alloc.id)));
    let fresh =
        bed.post("/v1/job/pool/dispatch?idempotency_token=t1", &json!({ "Meta": { "run": "r1" } })).await.json();
    assert_ne!(fresh["DispatchedJobID"], json!(child));
    assert!(bed.nomad.children()[0].purged && !bed.nomad.children()[1].stopped);
}

/// Of a task's events.
fn types(alloc: &Value) -> Vec<&str> {
    let events = alloc["TaskStates"]["sandbox"]["Events"].as_array().expect("it has events");
    events.iter().map(|event| event["Type"].as_str().expect("each has a type")).collect()
}

#[tokio::test]
async fn a_task_sees_the_environment_of_raw_exec() {
    let bed = Bed::start().await;
    let mut job = job("pool", "cat local/input; echo $NOMAD_META_run $NOMAD_META_image. $1 $OWN $PWD; exec sleep 60");
    let task = &mut job["TaskGroups"][0]["Tasks"][0];
    task["Config"]["args"].as_array_mut().expect("a list").extend([json!("sh"), json!("${NOMAD_ADDR_agent}${NOPE}")]);
    task["Env"] = json!({ "OWN": "of ${NOMAD_META_run}" });
    task["DispatchPayload"] = json!({ "File": "input" });
    bed.register(&job).await;
    let asked = json!({ "Meta": { "run": "r1" }, "Payload": "aGVsbG8K" });
    assert_eq!(bed.post("/v1/job/pool/dispatch", &asked).await.status, 200);
    bed.nomad.until("it runs", |nomad| nomad.allocations().iter().any(|alloc| alloc.pid.is_some())).await;
    let alloc = bed.nomad.allocations().remove(0);
    let directory = bed.nomad.alloc_dir().join(&alloc.id);
    let expected = format!(
        "hello\nr1 . 127.0.0.1:{} of r1 {}\n",
        alloc.port.expect("it has a port"),
        directory.join("sandbox").display()
    );
    let stdout = directory.join("alloc/logs/sandbox.stdout.0");
    bed.nomad.until("it has written", |_| std::fs::read_to_string(&stdout).is_ok_and(|text| text == expected)).await;
}

#[tokio::test]
async fn refusals_have_the_recorded_texts() {
    let bed = Bed::start().await;
    let body = json!({ "Meta": { "run": "r1" } });
    let refused = |path: &'static str, body: Value| {
        let bed = &bed;
        async move {
            let answer = bed.post(path, &body).await;
            (answer.status, answer.text())
        }
    };
    let is = |status: u16, text: &str| (status, text.to_owned());
    let missing = refused("/v1/job/pool/dispatch", body.clone()).await;
    assert_eq!(missing, is(500, "parameterized job not found"));
    bed.register(&sleeper("pool")).await;
    let none = refused("/v1/job/pool/dispatch", json!({ "Meta": {} })).await;
    assert_eq!(none, is(500, "Dispatch did not provide required meta keys: [run]"));
    let odd = refused("/v1/job/pool/dispatch", json!({ "Meta": { "run": "x", "colour": "red" } })).await;
    assert_eq!(odd, is(500, "Dispatch request included unpermitted metadata keys: [colour]"));
    let payload = "eHh4".repeat(5462);
    let large = refused("/v1/job/pool/dispatch", json!({ "Meta": { "run": "x" }, "Payload": payload })).await;
    assert_eq!(large, is(500, "Payload exceeds maximum size; 16386 > 16384"));
    let cas = json!({ "Job": sleeper("pool"), "EnforceIndex": true, "JobModifyIndex": 5 });
    let conflict = refused("/v1/jobs", cas).await;
    assert_eq!(conflict, is(500, "Enforcing job modify index 5: job exists with conflicting job modify index: 9"));
    let cas = json!({ "Job": sleeper("other"), "EnforceIndex": true, "JobModifyIndex": 5 });
    assert_eq!(refused("/v1/jobs", cas).await, is(500, "Enforcing job modify index 5: job does not exist"));
    let mut batch = sleeper("pool");
    batch["TaskGroups"][0]["Update"] = json!({ "MaxParallel": 1 });
    let text = "1 error occurred:\n\t* Task group sandbox validation failed: 1 error occurred:\n\t* Job type \"batch\" \
                does not allow update block\n\n\n\n";
    assert_eq!(bed.post("/v1/validate/job", &json!({ "Job": batch })).await.json()["Error"], text);
    assert_eq!(refused("/v1/jobs", json!({ "Job": batch })).await, is(500, text));
    bed.delete("/v1/job/pool").await;
    let stopped = refused("/v1/job/pool/dispatch", body).await;
    assert_eq!(stopped, is(500, "Specified job \"pool\" is stopped"));
}

#[tokio::test]
async fn an_unchanged_job_has_its_version_and_index() {
    let bed = Bed::start().await;
    let first = bed.register(&sleeper("pool")).await;
    assert_eq!(bed.register(&sleeper("pool")).await["JobModifyIndex"], first["JobModifyIndex"]);
    let changed = bed.register(&job("pool", "exec sleep 61")).await;
    assert_ne!(changed["JobModifyIndex"], first["JobModifyIndex"]);
    assert_eq!(bed.get("/v1/job/pool").await.json()["Version"], 1);
}

#[tokio::test]
async fn filters_take_what_they_name() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    let child = bed.dispatch("pool", "r1").await;
    bed.dispatch("pool", "r2").await;
    bed.nomad.until("both are placed", |nomad| nomad.allocations().len() == 2).await;
    let count = |path: &'static str, filter: &'static str| {
        let bed = &bed;
        async move { bed.filtered(path, filter).await.json().as_array().expect("a list").len() }
    };
    for (path, filter, expected) in [
        ("/v1/jobs", r#"ParentID == "pool""#, 2),
        ("/v1/jobs", r#"Meta.run == "r1""#, 1),
        ("/v1/jobs", r#"Meta.image == "x""#, 0),
        ("/v1/jobs", r#""run" in Meta and Status != "dead""#, 2),
        ("/v1/jobs", r#"DispatchIdempotencyToken == "token-r2""#, 1),
        ("/v1/allocations", r#"Job.ParentID == "pool""#, 2),
        ("/v1/allocations", r#"Job.ParentID == "pool" and not (Job.Meta.run == "r1")"#, 1),
        ("/v1/allocations", r#"JobID matches "^pool/dispatch-" and ClientStatus == "lost""#, 0),
        ("/v1/allocations", r#"ClientStatus == "lost" or DesiredStatus == "run""#, 2),
    ] {
        assert_eq!(count(path, filter).await, expected, "{filter}");
    }
    let bad = bed.filtered("/v1/allocations", r#"ClientStatus = "x""#).await;
    let text = "failed to create result paginator: failed to read filter expression: 1:14 (13): no match found, \
                expected: \"!=\", \"==\", \"contains\", \"in\", \"is\", \"matches\", \"not\" or [ \\t\\r\\n]";
    assert_eq!((bad.status, &*bad.text()), (400, text));
    let bad = bed.filtered("/v1/jobs", r#"Nope == "x""#).await;
    let text = "failed to read result page: error finding value in datum: /Nope at part 0: couldn't find key: struct \
                field with name \"Nope\"";
    assert_eq!((bad.status, &*bad.text()), (400, text));
    let stubs = bed.get("/v1/jobs?meta=true&prefix=pool/").await.json();
    assert_eq!(stubs[0]["Meta"]["run"].as_str().map(str::len), Some(2));
    assert!(stubs.as_array().expect("a list").iter().any(|stub| stub["ID"] == json!(child)));
}

#[tokio::test]
async fn a_blocking_query_waits_for_a_change() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    bed.dispatch("pool", "r1").await;
    bed.nomad.until("it runs", |nomad| nomad.allocations().iter().any(|alloc| alloc.client_status == "running")).await;
    let known = bed.get("/v1/allocations").await.header("x-nomad-index").expect("an index").to_owned();
    let asked = Instant::now();
    let same = bed.get(&format!("/v1/allocations?index={known}&wait=200ms")).await;
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert_eq!(same.header("x-nomad-index"), Some(&*known));
    let path = format!("/v1/allocations?index={known}&wait=30s");
    let (woken, _) = tokio::join!(bed.get(&path), bed.dispatch("pool", "r2"));
    assert_eq!(woken.json().as_array().map(Vec::len), Some(2));
    assert_eq!(bed.get("/v1/allocations?index=1&wait=2").await.text(), "Invalid wait time");
}

#[tokio::test]
async fn a_burst_is_told_in_few_lines() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    for run in 0..20 {
        bed.dispatch("pool", &run.to_string()).await;
    }
    let all_run = |nomad: &crate::support::nomad::Nomad| {
        nomad.allocations().iter().filter(|alloc| alloc.client_status == "running").count() == 20
    };
    bed.nomad.until("all run", all_run).await;
    let list = bed.get("/v1/allocations").await.json();
    let indexes = list.as_array().expect("a list").iter().map(|alloc| alloc["ModifyIndex"].to_string());
    assert!(indexes.collect::<std::collections::BTreeSet<_>>().len() < 20);
}
