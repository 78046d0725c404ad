//! What surprised in each recording, as the client tells it. Streams are in `streams`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tool_executor::backend::nomad::api::{Allocation, ApiError, Client, Dispatch, Dispatched, Evaluation, TaskEvent};

use super::{
    player::{Answer, Player},
    recording,
};

async fn dispatch(client: &Client) -> Result<Dispatched, ApiError> {
    let meta = BTreeMap::from([("run".to_owned(), "r1".to_owned())]);
    client.dispatch("pool", &Dispatch { payload: b"A", meta: &meta, idempotency_token: "t&1" }).await
}

async fn allocation(player: &Player, number: &str, name: &str) -> Allocation {
    player.recorded(number, name).allocation("an-id").await.expect("an answer").expect("an allocation")
}

async fn evaluation(player: &Player, number: &str, name: &str) -> Evaluation {
    player.recorded(number, name).evaluation("an-id").await.expect("an answer").expect("an evaluation")
}

/// The last event of this type.
fn event<'a>(allocation: &'a Allocation, r#type: &str) -> &'a TaskEvent {
    let events = &allocation.task_states["sandbox"].events;
    events.iter().rfind(|event| event.r#type == r#type).unwrap_or_else(|| panic!("no {}: {events:?}", r#type))
}

fn details<'a>(allocation: &'a Allocation, r#type: &str, detail: &str) -> &'a str {
    &event(allocation, r#type).details[detail]
}

#[tokio::test(start_paused = true)]
async fn file_01_status() {
    let player = Player::new();
    assert_eq!(player.recorded("01", "leader").leader().await.as_deref(), Ok("127.0.0.1:4647"));
    assert_eq!(player.recorded("01", "health").health().await, Ok(()));
    let agent = player.recorded("01", "agent_self").agent_self().await.expect("an agent");
    assert_eq!((agent.version.as_str(), agent.acl_enabled), ("2.0.6-dev", false));
    assert_eq!(
        (agent.region.as_str(), agent.datacenter.as_str(), agent.node_name.as_str()),
        ("global", "dc1", "client-1")
    );
    let nodes = player.recorded("01", "nodes_resources").nodes().await.expect("nodes");
    assert!(nodes[0].is_usable() && nodes[0].has_healthy("docker") && !nodes[0].has_healthy("qemu"));
    assert_eq!((nodes[0].node_resources.memory.memory_mb, nodes[0].node_resources.cpu.cpu_shares), (24105, 5192));
    assert_eq!(player.recorded("01", "unknown_namespace").jobs("").await, Ok(vec![]));
    // Another server's, or a proxy's: no job is missing.
    let elsewhere = player.recorded("01", "unknown_path").job("x").await;
    assert!(matches!(elsewhere, Err(ApiError::NotFound { .. })), "{elsewhere:?}");
    let far = player.recorded("01", "unknown_region").jobs("").await;
    assert!(matches!(far, Err(ApiError::Retryable { may_have_applied: false, .. })), "{far:?}");
    let no_json = player.recorded("01", "ui_path").agent_self().await;
    assert!(matches!(no_json, Err(ApiError::Malformed { .. })), "{no_json:?}");
}

#[tokio::test(start_paused = true)]
async fn file_02_job() {
    let player = Player::new();
    let job = json!({ "ID": "sandbox-pool" });
    let bad = player.recorded("02", "validate_bad").validate(&job).await.expect("an answer");
    assert!(!bad.is_valid() && bad.errors.len() == 2, "{bad:?}");
    let unseen = player.recorded("02", "validate_bad_driver_config").validate(&job).await.expect("an answer");
    assert!(unseen.is_valid());
    let update = player.recorded("02", "validate_update_on_batch").validate(&job).await.expect("an answer");
    assert!(!update.is_valid());

    let registered = player.recorded("02", "register_create_only").register(&job, Some(0)).await.expect("a job");
    assert_eq!((registered.eval_id, registered.job_modify_index), (None, 12));
    let sent: serde_json::Value = serde_json::from_slice(&player.seen()[0].body).expect("JSON");
    assert_eq!(sent, json!({ "Job": job, "EnforceIndex": true, "JobModifyIndex": 0 }));
    for name in ["register_create_only_conflict", "register_cas_stale", "register_cas_missing_job"] {
        let late = player.recorded("02", name).register(&job, Some(3)).await;
        assert!(matches!(late, Err(ApiError::Conflict { .. })), "{late:?}");
        assert_eq!(player.seen().len(), 1);
    }
    let invalid = player.recorded("02", "register_bad").register(&job, None).await.expect_err("a bad job");
    assert!(matches!(&invalid, ApiError::Invalid { text, .. } if text.contains("Job ID contains a space")));

    assert_eq!(player.recorded("02", "get_missing").job("sandbox-pool").await, Ok(None));
    let parent = player.recorded("02", "get_parent").job("sandbox-pool").await.expect("an answer").expect("a job");
    assert_eq!(parent.parameterized_job.expect("a template").meta_required, ["run"]);
    assert_eq!((parent.parent_id, parent.dispatched, parent.status.as_str()), (None, false, "running"));
}

#[tokio::test(start_paused = true)]
async fn file_03_dispatch() {
    let player = Player::new();
    let first = dispatch(player.recorded("03", "dispatch_token")).await.expect("a child");
    let seen = &player.seen()[0];
    assert_eq!(seen.uri.to_string(), "/v1/job/pool/dispatch?idempotency_token=t%261");
    let sent: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(sent, json!({ "Payload": "QQ==", "Meta": { "run": "r1" } }));
    let again = dispatch(player.recorded("03", "dispatch_same_token")).await.expect("a child");
    assert!(first.eval_id.is_some());
    assert_eq!((&again.job_id, again.eval_id), (&first.job_id, None));
    // A dead one is an answer, too.
    let dead = dispatch(player.recorded("03", "dispatch_same_token_child_dead")).await.expect("a child");
    assert_eq!((&dead.job_id, dead.eval_id), (&first.job_id, None));
    let purged = dispatch(player.recorded("03", "dispatch_same_token_child_purged")).await.expect("a child");
    assert_ne!(purged.job_id, first.job_id);

    for name in ["dispatch_missing_job", "dispatch_stopped_parent"] {
        let missing = dispatch(player.recorded("03", name)).await;
        assert!(matches!(missing, Err(ApiError::NotFound { .. })), "{missing:?}");
    }
    for name in ["dispatch_missing_meta", "dispatch_unknown_meta", "dispatch_payload_too_big", "dispatch_bad_base64"] {
        let invalid = dispatch(player.recorded("03", name)).await;
        assert!(matches!(invalid, Err(ApiError::Invalid { .. })), "{invalid:?}");
    }

    let children = player.recorded("03", "jobs_filter_idem").find_dispatched("tok-0001").await.expect("children");
    assert_eq!(children.iter().map(|child| &child.id).collect::<Vec<_>>(), [&first.job_id]);
    assert_eq!(children[0].parent_id.as_deref(), Some("sandbox-pool"));
    let query = player.seen()[0].uri.query().expect("a query").to_owned();
    assert!(query.contains("filter=DispatchIdempotencyToken+%3D%3D+%22tok-0001%22"), "{query}");
    let child =
        player.recorded("03", "get_child_encoded").job(&first.job_id).await.expect("an answer").expect("a child");
    assert!(child.dispatched && child.parameterized_job.is_some());
    assert_eq!(child.dispatch_idempotency_token.as_deref(), Some("tok-0001"));
    assert_eq!(player.seen()[0].uri.path(), format!("/v1/job/{}", first.job_id.replace('/', "%2F")));
    let with_meta = player.recorded("03", "jobs_prefix_meta").jobs("").await.expect("jobs");
    assert!(with_meta.iter().any(|job| job.meta.get("run").is_some_and(|run| run == "r1")));
    let invalid = player.recorded("03", "jobs_filter_bad").jobs("").await;
    assert!(matches!(invalid, Err(ApiError::Invalid { .. })), "{invalid:?}");

    let stopped = player.recorded("03", "stop_child").stop_job(&first.job_id, false).await.expect("an answer");
    assert!(stopped.eval_id.is_some());
    let nothing = player.recorded("03", "delete_missing_purge").stop_job("x", true).await.expect("an answer");
    assert_eq!(nothing.eval_id, None);
    assert_eq!(player.seen()[0].uri.to_string(), "/v1/job/x?purge=true");
    // Children outlive their parent.
    let orphan = player.recorded("03", "child_after_parent_purge").job("x").await.expect("an answer").expect("a job");
    assert_eq!(orphan.status, "running");
}

#[tokio::test(start_paused = true)]
async fn pages_are_joined() {
    let player = Player::new();
    let page = Answer::of(&recording::exchange("03", "jobs_prefix_raw"));
    let jobs = player.answer([page.clone(), page, Answer::new(200, "null")]).jobs("x").await.expect("jobs");
    assert_eq!(jobs.len(), 2);
    let queries: Vec<_> = player.seen().iter().map(|seen| seen.uri.query().unwrap_or_default().to_owned()).collect();
    assert!(!queries[0].contains("next_token"));
    assert!(queries[1].ends_with("next_token=default.sandbox-pool%2Fdispatch-1795614285-8f44c265"), "{queries:?}");
}

#[tokio::test(start_paused = true)]
async fn file_04_allocations() {
    let player = Player::new();
    let filter = "Job.ParentID == \"sandbox-pool\"";
    let listed = player.recorded("04", "list_filter_parent").allocations(filter).await.expect("a list");
    assert_eq!(listed.index, 65);
    let query = player.seen()[0].uri.query().expect("a query").to_owned();
    assert_eq!(query, "resources=true&task_states=true&filter=Job.ParentID+%3D%3D+%22sandbox-pool%22");
    let port = listed.value[0].port("agent").expect("a port");
    assert_eq!((port.host_ip.as_str(), port.value, port.to), ("127.0.0.1", 22095, 0));
    assert_eq!(details(&listed.value[0], "Terminated", "exit_code"), "0");
    // Without `resources`, a list has no ports.
    let plain = player.recorded("04", "list_plain").allocations("").await.expect("a list");
    assert!(plain.value.iter().all(|allocation| allocation.port("agent").is_none()));

    let by_id = allocation(&player, "04", "by_id").await;
    assert!(by_id.port("agent").is_some() && by_id.job.is_some_and(|job| job.dispatched));
    for name in ["by_unknown_id", "by_id_right_after_purge"] {
        assert_eq!(player.recorded("04", name).allocation("x").await, Ok(None));
    }
    let short = player.recorded("04", "by_short_id").allocation("f00573f4").await;
    assert!(matches!(short, Err(ApiError::Invalid { .. })), "{short:?}");

    let wait = Duration::from_secs(2);
    let waited = player.recorded("04", "blocking_timeout").wait_allocations(filter, 0, wait).await.expect("a list");
    assert_eq!(waited.index, 65);
    let query = player.seen()[0].uri.query().expect("a query").to_owned();
    assert!(query.ends_with("&index=1&wait=2000ms"), "{query}");
    // The index went down.
    let ahead = player.recorded("04", "blocking_index_far_ahead").wait_allocations(filter, 100_065, wait).await;
    assert_eq!(ahead.expect("a list").index, 65);
}

#[tokio::test(start_paused = true)]
async fn file_05_evaluations() {
    let player = Player::new();
    let placed = evaluation(&player, "05", "eval_complete").await;
    assert!(placed.failed_task_groups.is_empty() && placed.blocked_eval.is_none());
    let no_room = evaluation(&player, "05", "eval_no_room").await;
    assert_eq!(no_room.status, "complete");
    assert_eq!(no_room.failed_task_groups["sandbox"].dimension_exhausted["memory"], 1);
    let blocked = evaluation(&player, "05", "eval_blocked").await;
    assert_eq!((Some(&blocked.id), blocked.status.as_str()), (no_room.blocked_eval.as_ref(), "blocked"));
    // Room came, and it says the same.
    let later = evaluation(&player, "05", "eval_original_after_room").await;
    assert_eq!(later.failed_task_groups["sandbox"].dimension_exhausted["cpu"], 1);
    let no_driver = evaluation(&player, "05", "eval_driver_missing").await;
    assert_eq!(no_driver.failed_task_groups["sandbox"].constraint_filtered["missing drivers"], 1);
    let nowhere = evaluation(&player, "05", "eval_dc_missing").await;
    assert_eq!(nowhere.failed_task_groups["sandbox"].nodes_evaluated, 0);
    assert!(nowhere.failed_task_groups["sandbox"].nodes_available.is_empty());
    assert_eq!(player.recorded("05", "eval_unknown").evaluation("x").await, Ok(None));
    let pool = player.recorded("05", "register_no_pool").register(&json!({}), None).await;
    assert!(matches!(pool, Err(ApiError::Invalid { .. })), "{pool:?}");
}

#[tokio::test(start_paused = true)]
async fn file_07_logs() {
    let player = Player::new();
    let tail = player.recorded("07", "stderr_tail").task_log_tail("x", "sandbox", 11).await;
    assert_eq!(tail.as_deref(), Ok("err-line-2\n"));
    let query = player.seen()[0].uri.query().expect("a query").to_owned();
    assert_eq!(query, "task=sandbox&type=stderr&origin=end&offset=11&plain=true");
    // It has grown meanwhile.
    let more = player.recorded("07", "stderr_tail_offset_beyond").task_log_tail("x", "sandbox", 12).await;
    assert_eq!(more.as_deref(), Ok("err-line-1\ne"));
    let invalid = player.recorded("07", "unknown_task").task_log_tail("x", "nope", 11).await;
    assert!(matches!(invalid, Err(ApiError::Invalid { .. })), "{invalid:?}");
    for (number, name) in
        [("07", "logs_never_started"), ("07", "stderr_right_after_purge"), ("18", "logs_of_dead_client")]
    {
        let none = player.recorded(number, name).task_log_tail("x", "sandbox", 11).await;
        assert!(matches!(none, Err(ApiError::NotFound { .. })), "{none:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn file_08_failures_of_raw_exec() {
    let player = Player::new();
    let exited = allocation(&player, "08", "exit_1_alloc").await;
    assert_eq!(exited.client_status, "failed");
    assert_eq!(details(&exited, "Terminated", "exit_code"), "1");
    let killed = allocation(&player, "08", "kill_9_outside_alloc").await;
    assert_eq!(details(&killed, "Terminated", "signal"), "9");
    let executor = allocation(&player, "08", "kill_9_executor_alloc").await;
    assert_eq!(details(&executor, "Terminated", "exit_code"), "-1");
    let download = allocation(&player, "08", "artifact_404_alloc").await;
    assert!(details(&download, "Failed Artifact Download", "download_error").starts_with("failed to download"));
    let invalid = allocation(&player, "08", "bad_config_alloc").await;
    assert!(details(&invalid, "Failed Validation", "validation_error").contains("Missing required argument"));
}

#[tokio::test(start_paused = true)]
async fn file_09_docker() {
    let player = Player::new();
    for name in ["image_absent_404_alloc", "image_denied_403_alloc", "image_registry_refused_alloc"] {
        let absent = allocation(&player, "09", name).await;
        assert!(details(&absent, "Driver Failure", "driver_error").starts_with("Failed to pull"));
        assert_eq!((absent.client_status.as_str(), absent.desired_status.as_str()), ("failed", "run"));
    }
    let nameless = allocation(&player, "09", "image_meta_empty_alloc").await;
    assert!(details(&nameless, "Driver Failure", "driver_error").starts_with("image name required"));
    let memory = allocation(&player, "09", "oom_alloc").await;
    assert_eq!(details(&memory, "Terminated", "oom_killed"), "true");
    assert!(memory.task_states["sandbox"].events.iter().all(|event| event.r#type != "Killing"));
    // Of a child process, and said of a stop that was asked for.
    let sticky = allocation(&player, "09", "oom_child_process_alloc").await;
    assert_eq!((details(&sticky, "Terminated", "oom_killed"), sticky.client_status.as_str()), ("true", "complete"));
    assert!(event(&sticky, "Killing").time < event(&sticky, "Terminated").time);
}

#[tokio::test(start_paused = true)]
async fn file_10_node() {
    let player = Player::new();
    let unaware = allocation(&player, "10", "alloc_while_draining").await;
    assert_eq!((unaware.desired_status.as_str(), unaware.desired_transition.migrate), ("run", None));
    let drained = allocation(&player, "10", "alloc_after_drain").await;
    assert_eq!((drained.desired_status.as_str(), drained.desired_transition.migrate), ("stop", Some(true)));
    assert_eq!(drained.next_allocation, None);
    let stopped = allocation(&player, "10", "alloc_after_alloc_stop").await;
    assert_eq!(stopped.desired_transition.migrate, Some(true));
    assert!(stopped.next_allocation.is_some());
}

#[tokio::test(start_paused = true)]
async fn file_13_acl() {
    let player = Player::new();
    let needs = |error: Option<ApiError>| match error {
        Some(ApiError::Denied { capability, .. }) => capability,
        other => panic!("{other:?}"),
    };
    let jobs = player.recorded("13", "jobs_bad_token").jobs("").await.err();
    assert_eq!(
        jobs.as_ref().map(ToString::to_string).as_deref(),
        Some("GET /v1/jobs: Permission denied (the token needs list-jobs)")
    );
    assert_eq!(needs(jobs), Some("list-jobs"));
    assert_eq!(player.seen().len(), 1);
    assert_eq!(
        needs(player.recorded("13", "register_read_only").register(&json!({}), None).await.err()),
        Some("submit-job")
    );
    assert_eq!(
        needs(player.recorded("13", "delete_register_only").stop_job("x", false).await.err()),
        Some("submit-job")
    );
    assert_eq!(needs(dispatch(player.recorded("13", "dispatch_read_only")).await.err()), Some("dispatch-job"));
    assert_eq!(needs(player.recorded("13", "validate_no_token").validate(&json!({})).await.err()), Some("read-job"));
    for name in ["allocation_no_token", "allocation_dispatch_only", "allocation_bad_token"] {
        assert_eq!(needs(player.recorded("13", name).allocation("x").await.err()), Some("read-job"));
    }
    for name in ["logs_bad_token", "logs_no_logs"] {
        assert_eq!(needs(player.recorded("13", name).task_log_tail("x", "y", 9).await.err()), Some("read-logs"));
    }
    let nodes = needs(player.recorded("13", "nodes_executor").nodes().await.err());
    assert_eq!(nodes, Some("node { policy = \"read\" }"));
    assert!(needs(player.recorded("13", "agent_self_no_token").agent_self().await.err()).is_some());

    let token = player.recorded("13", "self_executor").acl_self_token().await.expect("an answer").expect("a token");
    assert_eq!((token.name.as_str(), token.policies.as_slice()), ("executor", ["executor".to_owned()].as_slice()));
    assert!(!token.is_management());
    let anonymous = player.recorded("13", "self_no_token").acl_self_token().await.expect("an answer").expect("a token");
    assert_eq!(anonymous.accessor_id, "anonymous");
    assert_eq!(needs(player.recorded("13", "self_bad_token").acl_self_token().await.err()), None);
    let none = player.answer([Answer::new(400, "ACL support disabled")]).acl_self_token().await;
    assert_eq!(none, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn files_11_to_17() {
    let player = Player::new();
    // 11: a failed child stays failed.
    let exchange = recording::exchange("11", "allocs_after_force_reschedule");
    let allocations: Vec<Allocation> =
        serde_json::from_value(exchange.response.expect("an answer").json()).expect("a list");
    assert_eq!(allocations.iter().map(|one| one.client_status.as_str()).collect::<Vec<_>>(), ["failed"]);
    // 12: the task's own socket wants some token, and any will do.
    let denied = player.recorded("12", "no_token").jobs("").await;
    assert!(matches!(denied, Err(ApiError::Denied { .. })), "{denied:?}");
    let registered = player.recorded("12", "any_token_registers_job").register(&json!({}), None).await;
    assert!(registered.is_ok());
    // 14: what is collected is forgotten, and its token too.
    assert_eq!(player.recorded("14", "dead_child_after_gc").job("x").await, Ok(None));
    assert!(dispatch(player.recorded("14", "same_token_after_gc")).await.expect("a child").eval_id.is_some());
    // 15: too many connections.
    let remark = recording::exchange("15", "connection_100").note.expect("a remark");
    let text = "Your IP is issuing too many concurrent connections, please rate limit your calls";
    assert!(remark.contains("429 Too Many Requests") && remark.contains(text));
    let refused = dispatch(player.answer([Answer::new(429, text)])).await;
    assert!(matches!(refused, Err(ApiError::Retryable { may_have_applied: false, .. })), "{refused:?}");
    // 16: a dev agent forgets all.
    assert_eq!(player.recorded("16", "old_child").job("x").await, Ok(None));
    assert_eq!(player.recorded("16", "jobs_after_restart").jobs("").await, Ok(vec![]));
    // 17: a server remembers the token; an allocation that has ended is said to run.
    let child = dispatch(player.recorded("17", "dispatch")).await.expect("a child").job_id;
    for signal in ["SIGKILL", "SIGINT", "SIGTERM"] {
        let again = dispatch(player.recorded("17", &format!("{signal}_same_token_after_restart"))).await;
        assert_eq!(again.expect("a child").job_id, child);
        let late = allocation(&player, "17", &format!("{signal}_alloc_died_meanwhile")).await;
        assert_eq!(late.client_status, "running");
    }
}

#[tokio::test(start_paused = true)]
async fn files_18_to_20_without_a_server() {
    let player = Player::new();
    let lost = allocation(&player, "18", "client_down_alloc_default").await;
    assert_eq!((lost.client_status.as_str(), lost.desired_status.as_str()), ("lost", "stop"));
    let unknown = allocation(&player, "18", "client_down_alloc_disconnect").await;
    assert_eq!((unknown.client_status.as_str(), unknown.desired_status.as_str()), ("unknown", "run"));
    let back = allocation(&player, "18", "client_back_alloc_disconnect").await;
    assert_eq!((back.client_status.as_str(), event(&back, "Reconnected").r#type.as_str()), ("running", "Reconnected"));
    let down = dispatch(player.recorded("18", "server_down_dispatch")).await;
    assert!(matches!(down, Err(ApiError::Retryable { may_have_applied: false, .. })), "{down:?}");
    // Only the server is asked whether there is one.
    assert_eq!(player.recorded("18", "server_down_health").health().await, Ok(()));

    for error in [
        player.recorded("19", "leader").leader().await.err(),
        player.recorded("19", "health").health().await.err(),
        player.recorded("19", "jobs").jobs("").await.err(),
        player.recorded("19", "allocations").allocations("").await.err(),
        player.recorded("19", "register").register(&json!({}), None).await.err(),
        player.recorded("19", "delete").stop_job("p", false).await.err(),
        dispatch(player.recorded("19", "dispatch")).await.err(),
    ] {
        assert!(matches!(error, Some(ApiError::Retryable { may_have_applied: false, .. })), "{error:?}");
    }

    assert_eq!(player.recorded("20", "health").health().await, Ok(()));
    let leader = player.recorded("20", "leader").leader().await;
    assert!(matches!(leader, Err(ApiError::TimedOut { may_have_applied: false, .. })), "{leader:?}");
    let child = dispatch(player.recorded("20", "dispatch")).await;
    assert!(matches!(child, Err(ApiError::TimedOut { may_have_applied: true, .. })), "{child:?}");
}

#[tokio::test(start_paused = true)]
async fn files_21_to_26() {
    let player = Player::new();
    let late = allocation(&player, "21", "alloc_final").await;
    assert_eq!(details(&late, "Terminated", "exit_code"), "7");
    // 22: the daemon is dead, and the task that died with it has a good exit code.
    let daemon = allocation(&player, "22", "alloc_3s_later").await;
    assert_eq!((daemon.client_status.as_str(), details(&daemon, "Terminated", "exit_code")), ("failed", "0"));
    let none = allocation(&player, "22", "alloc_dispatched_while_down").await;
    assert!(details(&none, "Driver Failure", "driver_error").contains("Cannot connect to the Docker daemon"));
    let published = allocation(&player, "23", "alloc").await;
    let port = published.port("agent").expect("a port");
    assert_eq!((port.value, port.to), (29107, 7070));
    let bridge = evaluation(&player, "23", "eval_group_bridge").await;
    let filtered = &bridge.failed_task_groups["sandbox"].constraint_filtered;
    assert!(filtered.keys().any(|constraint| constraint.contains("plugins.cni.version.bridge")), "{filtered:?}");
    // 24: a lost one may read complete later.
    let lost = allocation(&player, "24", "alloc_raw_exec").await;
    assert_eq!((lost.client_status.as_str(), lost.desired_status.as_str()), ("complete", "stop"));
    assert_eq!(lost.desired_description, "alloc is lost since its node is down");
    // 25, 26: only unknown ones are not replaced, and one that was deleted stays away.
    let statuses = |number: &str, name: &str| {
        let said = recording::exchange(number, name).response.expect("an answer").json();
        let allocations: Vec<Allocation> = serde_json::from_value(said).expect("a list");
        let mut statuses: Vec<_> = allocations.into_iter().map(|one| one.client_status).collect();
        statuses.sort();
        statuses
    };
    assert_eq!(statuses("25", "back_8s_plain_allocations"), ["complete", "running"]);
    assert_eq!(statuses("26", "down_9s_disconnect-1h-no-replace-kept_allocations"), ["unknown"]);
    assert_eq!(statuses("26", "back_10s_disconnect-1h-no-replace-kept_allocations"), ["running"]);
    assert_eq!(statuses("26", "back_10s_plain_allocations"), ["complete"]);
    let gone = player.recorded("26", "delete_plain").stop_job("x", false).await.expect("an answer");
    assert!(gone.eval_id.is_some());
}
