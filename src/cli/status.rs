//! What an executor has and does, at this moment.

use std::fmt::Write as _;

use super::{Failure, connect, json, run::print, table::table};
use crate::pb::toolexecutor::{
    ContainerState, ContainerStatus, GetStatusRequest, GetStatusResponse, PoolStatus, ToolSourceKind, ToolSourceStatus,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: connect::Server,
}

pub(super) async fn show(arguments: Arguments) -> Result<(), Failure> {
    let mut client = arguments.server.connect().await?;
    let status = client.get_status(GetStatusRequest {}).await.map_err(|status| Failure::of(&status))?.into_inner();
    let text = if arguments.server.json { json::line(&status)? + "\n" } else { in_words(&status) };
    print(text.as_bytes())
}

fn in_words(status: &GetStatusResponse) -> String {
    let draining = if status.draining { ", draining" } else { "" };
    let mut text = format!(
        "tool-executor {} on {}{draining}\n{} trajectories, {} calls running, {} waiting; {} calls in all, {} of them \
         not successful\n",
        status.version,
        status.backend,
        status.trajectories,
        status.running_calls,
        status.queue_size,
        status.total_requests,
        status.total_errors,
    );
    for pool in &status.pools {
        let _ = write!(text, "\n{}", pool_in_words(pool));
    }
    if !status.tool_sources.is_empty() {
        let rows: Vec<_> = status.tool_sources.iter().map(tool_source).collect();
        text += "\n";
        text += &table(["TOOLS ELSEWHERE", "KIND", "REACHABLE", "TOOLS", "LAST ERROR"], &rows);
    }
    text
}

fn tool_source(source: &ToolSourceStatus) -> [String; 5] {
    let kind = match source.kind() {
        ToolSourceKind::Unspecified => "unknown",
        ToolSourceKind::ToolServer => "ToolServer",
        ToolSourceKind::Mcp => "MCP",
    };
    let error = match source.last_error_at {
        // It came with the answer of whoever is asked: one line, whatever it has.
        Some(at) => format!("{at}: {}", source.last_error.split_whitespace().collect::<Vec<_>>().join(" ")),
        None => "-".to_owned(),
    };
    let reachable = if source.reachable { "yes" } else { "no" };
    [source.name.clone(), kind.to_owned(), reachable.to_owned(), source.tools.to_string(), error]
}

fn pool_in_words(pool: &PoolStatus) -> String {
    let states = [
        (pool.available_slots, "free"),
        (pool.acquired_slots, "in use"),
        (pool.starting_slots, "starting"),
        (pool.resetting_slots, "being emptied"),
        (pool.quarantined_slots, "in quarantine"),
    ];
    let states = states.iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}"));
    let states: Vec<_> = states.collect();
    let name = if pool.name.is_empty() { "default" } else { &pool.name };
    let mut text = format!(
        "pool {name}: {} slots{}{}; {} of {} to {} containers; {} trajectories wait\n",
        pool.total_slots,
        if states.is_empty() { "" } else { ": " },
        states.join(", "),
        pool.containers.len(),
        pool.min_containers,
        pool.max_containers,
        pool.waiting_trajectories,
    );
    if !pool.last_start_failure.is_empty() {
        let _ = writeln!(text, "the last container that was started failed: {}", pool.last_start_failure);
    }
    if !pool.containers.is_empty() {
        let rows: Vec<_> = pool.containers.iter().map(container).collect();
        text += &table(["CONTAINER", "STATE", "ISOLATION", "SLOTS", "FREE", "NODE"], &rows);
    }
    text
}

fn container(container: &ContainerStatus) -> [String; 6] {
    let state = match container.state() {
        ContainerState::Unspecified => "unknown",
        ContainerState::Starting => "starting",
        ContainerState::Ready => "ready",
        ContainerState::Draining => "draining",
        ContainerState::Lost => "lost",
    };
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        or_none(&container.container_id),
        state.to_owned(),
        or_none(&container.isolation),
        container.total_slots.to_string(),
        container.available_slots.to_string(),
        or_none(&container.node),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_words() {
        let container = ContainerStatus {
            container_id: "c1".to_owned(),
            node: "here".to_owned(),
            state: ContainerState::Ready.into(),
            isolation: "L0".to_owned(),
            total_slots: 4,
            available_slots: 3,
            ..ContainerStatus::default()
        };
        let pool = PoolStatus {
            name: "default".to_owned(),
            total_slots: 4,
            available_slots: 3,
            acquired_slots: 1,
            min_containers: 1,
            max_containers: 2,
            containers: vec![container, ContainerStatus::default()],
            last_start_failure: "no image".to_owned(),
            ..PoolStatus::default()
        };
        let tools = ToolSourceStatus {
            name: "search".to_owned(),
            kind: ToolSourceKind::Mcp.into(),
            tools: 3,
            last_error: "it answered 500:\n no".to_owned(),
            last_error_at: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            ..ToolSourceStatus::default()
        };
        let status = GetStatusResponse {
            tool_sources: vec![tools],
            version: "1.2".to_owned(),
            backend: "local".to_owned(),
            draining: true,
            trajectories: 1,
            pools: vec![pool],
            ..GetStatusResponse::default()
        };
        let expected = "\
tool-executor 1.2 on local, draining
1 trajectories, 0 calls running, 0 waiting; 0 calls in all, 0 of them not successful

pool default: 4 slots: 3 free, 1 in use; 2 of 1 to 2 containers; 0 trajectories wait
the last container that was started failed: no image
CONTAINER  STATE    ISOLATION  SLOTS  FREE  NODE
c1         ready    L0         4      3     here
-          unknown  -          0      0     -

TOOLS ELSEWHERE  KIND  REACHABLE  TOOLS  LAST ERROR
search           MCP   no         3      1970-01-01T00:01:00Z: it answered 500: no
";
        assert_eq!(in_words(&status), expected);
    }
}
