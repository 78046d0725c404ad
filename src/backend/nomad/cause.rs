//! Why a container does not run, in words: from what Nomad says of its allocation or of its placing.

use super::{
    api::{Allocation, Evaluation, PlacementFailure, TaskEvent},
    template::TASK,
};

/// What a task's event adds to a cause is held to this many bytes: drivers quote whole outputs.
const MAX_WORDS: usize = 2_000;

/// Whether the task has failed for good although Nomad does not say so yet: it waits some seconds for logs of a task
/// that was never started.
pub(super) fn has_failed_to_start(allocation: &Allocation) -> bool {
    let Some(task) = allocation.task_states.get(TASK) else { return false };
    let failed = |event: &TaskEvent| {
        matches!(
            event.r#type.as_str(),
            "Driver Failure" | "Failed Validation" | "Failed Artifact Download" | "Setup Failure"
        )
    };
    task.started_at.is_none() && task.events.iter().any(failed)
}

/// Why the allocation has ended.
pub(super) fn of_end(allocation: &Allocation) -> String {
    let status = allocation.client_status.as_str();
    let described = |what: &str, more: &str| if more.is_empty() { what.to_owned() } else { format!("{what}: {more}") };
    if status == "lost" {
        return described("its node is lost", &allocation.client_description);
    }
    if allocation.desired_status == "evict" {
        return described("it was preempted by a job of higher priority", &allocation.desired_description);
    }
    let events = allocation.task_states.get(TASK).map(|task| task.events.as_slice()).unwrap_or_default();
    let stopped = events.iter().any(|event| event.r#type == "Killing") || allocation.desired_status == "stop";
    let telling = events.iter().rev().find_map(|event| of_event(event, stopped));
    match telling {
        // A requested end is told by the request, whatever came of the process.
        Some(_) | None if stopped && status == "complete" => {
            described("Nomad has stopped it", &allocation.desired_description)
        }
        Some(cause) => cause,
        None => described(&format!("its allocation is {status}"), &allocation.client_description),
    }
}

/// What a task's event says of its end, if it is one that does. `stopped`: the end was asked for.
fn of_event(event: &TaskEvent, stopped: bool) -> Option<String> {
    let detail = |name: &str| event.details.get(name).map_or("", String::as_str);
    let words = |name: &str| {
        let words = [detail(name), &event.display_message].into_iter().find(|words| !words.is_empty());
        let words = words.unwrap_or_default();
        words[..words.floor_char_boundary(MAX_WORDS)].to_owned()
    };
    Some(match event.r#type.as_str() {
        // The flag stays once some process was killed so, and says nothing of a task that was stopped later.
        "Terminated" if detail("oom_killed") == "true" && !stopped => {
            "the container ran out of memory and was killed".to_owned()
        }
        "Terminated" => {
            let exit = match detail("signal") {
                "" | "0" => format!("exit code {}", detail("exit_code")),
                signal => format!("signal {signal}"),
            };
            match detail("exit_message") {
                "" => format!("the agent's task ended: {exit}"),
                message => format!("the agent's task ended: {exit}: {message}"),
            }
        }
        "Driver Failure" => {
            let error = words("driver_error");
            let what = match error.as_str() {
                error if error.contains("Failed to pull") => "the image could not be pulled",
                error if error.contains("Cannot connect to the Docker daemon") => "the driver is down",
                _ => "the driver could not start it",
            };
            format!("{what}: {error}")
        }
        "Failed Artifact Download" => {
            format!("the agent's program could not be downloaded: {}", words("download_error"))
        }
        "Failed Validation" => format!("Nomad refuses the task: {}", words("validation_error")),
        "Setup Failure" => format!("the node could not set it up: {}", words("message")),
        _ => return None,
    })
}

/// The allocation's recent history, for evidence.
pub(super) fn history(allocation: &Allocation) -> Vec<String> {
    let events = allocation.task_states.get(TASK).map(|task| task.events.as_slice()).unwrap_or_default();
    let line = |event: &TaskEvent| {
        let words = &event.display_message;
        format!("{}: {}", event.r#type, &words[..words.floor_char_boundary(MAX_WORDS)])
    };
    events.iter().map(line).collect()
}

/// Why no node takes the container, if that is what the evaluation says.
pub(super) fn of_no_room(evaluation: &Evaluation) -> Option<String> {
    let failure = evaluation.failed_task_groups.get(TASK)?;
    Some(format!("no node has room for it: {}", counted(failure)))
}

fn counted(failure: &PlacementFailure) -> String {
    let mut reasons = Vec::new();
    if failure.nodes_evaluated == 0 {
        reasons.push("no node of its datacenters and pool is ready and eligible".to_owned());
    }
    let nodes = |count: u64| if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    for (constraint, count) in &failure.constraint_filtered {
        reasons.push(format!("{} excluded by the constraint `{constraint}`", nodes(*count)));
    }
    for (class, count) in &failure.class_filtered {
        reasons.push(format!("{} of class {class} excluded", nodes(*count)));
    }
    for (dimension, count) in &failure.dimension_exhausted {
        reasons.push(format!("{dimension} exhausted on {}", nodes(*count)));
    }
    for (class, count) in &failure.class_exhausted {
        reasons.push(format!("{} of class {class} exhausted", nodes(*count)));
    }
    reasons.extend(failure.quota_exhausted.iter().map(|quota| format!("quota exhausted: {quota}")));
    if reasons.is_empty() { "Nomad does not say why".to_owned() } else { reasons.join(", ") }
}
