mod config;
pub mod core;
use crate::{
    id::*,
    sandbox::client::SlotHandle,
    tool::{Evidence, Location},
};
pub use config::*;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
#[derive(Clone)]
pub struct Handle;
impl Handle {
    pub fn acquire(&self, _: &PoolName, _: &TrajectoryKey) -> Waiting {
        Waiting
    }
    pub async fn status(&self) -> Vec<PoolStatus> {
        vec![]
    }
    pub async fn shut_down(&self) {}
}
pub struct Waiting;
impl Waiting {
    pub async fn next(&mut self) -> WaitEvent {
        std::future::pending().await
    }
}
pub enum WaitEvent {
    Position { position: u32, reason: Option<String> },
    Granted(Lease),
    Failed(WaitFailure),
}
pub enum WaitFailure {
    TimedOut { waited: Duration, evidence: Option<Arc<Evidence>> },
    StartFailed { evidence: Arc<Evidence>, retry_after: Duration },
    LineFull { retry_after: Duration },
    ShuttingDown,
}
pub struct Lease {
    l: Location,
    s: SlotHandle,
}
impl Lease {
    pub fn location(&self) -> &Location {
        &self.l
    }
    pub fn isolation(&self) -> &str {
        ""
    }
    pub fn network_isolated(&self) -> bool {
        true
    }
    pub fn open(&mut self, _: Generation) {}
    pub fn slot(&mut self) -> &mut SlotHandle {
        &mut self.s
    }
    pub fn release(self, _: bool) {}
}
pub struct PoolStatus {
    pub name: PoolName,
    pub total_slots: u32,
    pub available_slots: u32,
    pub acquired_slots: u32,
    pub starting_slots: u32,
    pub resetting_slots: u32,
    pub quarantined_slots: u32,
    pub waiting_trajectories: u32,
    pub min_containers: u32,
    pub max_containers: u32,
    pub containers: Vec<ContainerStatus>,
    pub last_start_failure: Option<String>,
}
pub struct ContainerStatus {
    pub id: ContainerId,
    pub node: String,
    pub state: ContainerState,
    pub isolation: String,
    pub total_slots: u32,
    pub available_slots: u32,
    pub since: SystemTime,
}
#[derive(Clone, Copy)]
pub enum ContainerState {
    Starting,
    Ready,
    Draining,
    Lost,
}
