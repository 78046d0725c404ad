//! The trajectories that are open, page after page.

use std::collections::HashMap;

use super::{Failure, connect, json, run::print, table::table};
use crate::pb::toolexecutor::{ListTrajectoriesRequest, ListTrajectoriesResponse, TrajectoryStatus};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// List those with this label alone; may be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    server: connect::Server,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn list(arguments: Arguments) -> Result<(), Failure> {
    let mut client = arguments.server.connect().await?;
    let labels: HashMap<String, String> = arguments.labels.into_iter().collect();
    let mut page_token = String::new();
    let mut rows = Vec::new();
    loop {
        let request = ListTrajectoriesRequest { labels: labels.clone(), page_token, ..Default::default() };
        let answer = client.list_trajectories(request).await.map_err(|status| Failure::of(&status))?;
        let ListTrajectoriesResponse { trajectories, next_page_token } = answer.into_inner();
        for trajectory in &trajectories {
            if arguments.server.json {
                print((json::line(trajectory)? + "\n").as_bytes())?;
            } else {
                rows.push(row(trajectory));
            }
        }
        if next_page_token.is_empty() {
            break;
        }
        page_token = next_page_token;
    }
    if arguments.server.json {
        return Ok(());
    }
    let head = ["TRAJECTORY", "ATTACHED", "RUNNING", "WAITING", "FINISHED", "CONTAINER", "SLOT", "LABELS"];
    print(table(head, &rows).as_bytes())
}

fn row(trajectory: &TrajectoryStatus) -> [String; 8] {
    let location = trajectory.location.as_ref();
    let mut labels: Vec<_> = trajectory.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort_unstable();
    [
        trajectory.trajectory_id.clone(),
        if trajectory.attached { "yes" } else { "no" }.to_owned(),
        trajectory.running_calls.to_string(),
        trajectory.waiting_calls.to_string(),
        trajectory.finished_calls.to_string(),
        location.map_or_else(|| "-".to_owned(), |location| location.container_id.clone()),
        location.map_or_else(|| "-".to_owned(), |location| location.slot.to_string()),
        labels.join(" "),
    ]
}
