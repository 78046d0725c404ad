//! What tests of this room share.

use std::time::Duration;

use super::spec::{AgentDelivery, ContainerSpec, Driver, NomadConfig, NomadPool, Program};
use crate::{
    backend::nomad::api::ClientConfig,
    id::PoolName,
    sandbox::{
        agent::Profile,
        client::Token,
        slot::{Limits, View},
    },
    tool::Isolation,
};

pub(super) fn config() -> NomadConfig {
    NomadConfig {
        client: ClientConfig::new("http://127.0.0.1:4646".parse().expect("an address"), Duration::from_secs(1)),
        executor_id: "executor".to_owned(),
        job_id: "job".to_owned(),
        secret: Token::new("secret"),
        pools: vec![pool("")],
        uid_base: 1,
        agent_tls: true,
        program: Some(Program { url: "http://executor/agent".to_owned(), sha256: "00".to_owned() }),
        log: "info".to_owned(),
        placement_timeout: Duration::from_secs(1),
        lost_after: Duration::from_secs(24 * 3600),
        address_rewrite: Vec::new(),
        purge_on_start: false,
        purge_on_shutdown: true,
    }
}

pub(super) fn pool(name: &str) -> NomadPool {
    NomadPool {
        name: PoolName::new(name),
        min_containers: 1,
        container: ContainerSpec {
            image: "image:1".to_owned(),
            driver: Driver::Docker,
            privileged: false,
            cpu: 500,
            memory_bytes: 512 << 20,
            memory_max_bytes: None,
            datacenters: vec!["*".to_owned()],
            node_pool: None,
            constraints: Vec::new(),
            network_mode: None,
            driver_config: serde_json::Map::new(),
            agent: AgentDelivery::Artifact,
            agent_path: "tool-executor".to_owned(),
        },
        profile: Profile {
            slots: 1,
            isolation_minimum: Isolation::L1B,
            network: false,
            orphan_timeout: Duration::from_secs(1),
            view: View::Image,
            read_only: Vec::new(),
            hidden: Vec::new(),
            workspace_source: None,
            writable_root: false,
            tmp_bytes: 1 << 20,
            max_open_files: 64,
            max_processes: None,
            limits: Limits::default(),
        },
    }
}
