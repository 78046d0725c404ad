//! The settings of a pool: how many containers it has, what they are like, and what their slots see.

use std::{path::PathBuf, time::Duration};

use crate::backend::{AgentDelivery, Constraint, ContainerSpec, Driver};

use super::{
    convert::{self, Written},
    model::{DAY, MIB, SECOND, ZERO, duration, number, size},
    reader::Reader,
};
/// A set of like containers.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Empty for the default one.
    pub name: String,
    /// Of each container.
    pub slots: u32,
    pub min_containers: u32,
    pub max_containers: u32,
    /// How long a trajectory waits for a slot.
    pub acquire_timeout: Duration,
    /// How long a container may take to be ready.
    pub start_timeout: Duration,
    /// How long a container is idle before it is stopped.
    pub scale_down_after: Duration,
    /// Containers that start at a time.
    pub max_starting: u32,
    /// Give slots of the emptiest container rather than of the fullest.
    pub spread: bool,
    /// Trajectories that may wait for a slot.
    pub max_waiting_trajectories: usize,
    /// A directory of the image of which each workspace is a copy, which is shown there too.
    pub workspace_source: Option<PathBuf>,
    /// A slot may change all that it sees, for as long as its workspace lives.
    pub writable_root: bool,
    /// Slots see all of a container's image, if this is set, or if it is not and there is an image.
    pub whole_image: Option<bool>,
    pub container: ContainerSpec,
}

impl PoolSettings {
    /// Whether slots see all of an image.
    pub fn sees_image(&self, under_nomad: bool) -> bool {
        self.whole_image.unwrap_or(under_nomad && self.container.driver != Driver::RawExec)
    }
}

/// Reads a pool's settings; those that it has not are the default pool's.
pub(super) fn build(r: &mut Reader<'_>, name: &str) -> PoolSettings {
    let pool = PoolSettings {
        name: name.to_owned(),
        slots: number(r, "slots", 1..=10_000),
        min_containers: number(r, "min_containers", 0..=100_000),
        max_containers: number(r, "max_containers", 1..=100_000),
        acquire_timeout: duration(r, "acquire_timeout", ZERO..=DAY),
        start_timeout: duration(r, "start_timeout", SECOND..=DAY),
        scale_down_after: duration(r, "scale_down_after", ZERO..=DAY),
        max_starting: number(r, "max_starting", 1..=1_000),
        spread: r.value("spread", convert::boolean),
        max_waiting_trajectories: number(r, "max_waiting_trajectories", 1..=10_000_000),
        workspace_source: r.optional("workspace_source", convert::absolute_path),
        writable_root: r.value("root", writable_root),
        whole_image: r.optional("view", whole_image),
        container: ContainerSpec {
            image: r.value("image", convert::string),
            driver: r.value("driver", driver),
            privileged: r.value("privileged", convert::boolean),
            cpu: number(r, "cpu", 1..=1_000_000),
            memory_bytes: size(r, "memory", 16 * MIB..=1 << 44),
            memory_max_bytes: r.optional("memory_max", convert::size),
            datacenters: r.value("datacenters", convert::list),
            node_pool: r.optional("node_pool", convert::string),
            constraints: r.value("constraints", constraints),
            network_mode: r.optional("network_mode", convert::string),
            driver_config: r.value("driver_config", convert::json_object),
            agent: r.value("agent", agent_delivery),
            agent_path: r.value("agent_path", convert::string),
        },
    };
    let (least, most) = ("min_containers", "max_containers");
    if pool.min_containers > pool.max_containers && r.sound(&[least, most]) {
        r.tell(&[least, most], format_args!("{least} must not be more than {most}"));
    }
    let under_nomad = r.optional("nomad.address", convert::string).is_some();
    if pool.writable_root && !pool.sees_image(under_nomad) && r.sound(&["root", "view", "driver"]) {
        r.tell(&["root", "view"], "what is written over is an image: there is none here, unless view = image says so");
    }
    pool
}

fn driver(written: Written<'_>) -> Result<Driver, String> {
    match convert::string(written)?.as_str() {
        "docker" => Ok(Driver::Docker),
        "raw_exec" => Ok(Driver::RawExec),
        "exec" => Ok(Driver::Exec),
        // The old system's name for it.
        "apptainer" | "singularity" => Ok(Driver::Apptainer),
        other => Err(format!("must be docker, raw_exec, exec or apptainer, and is {other:?}")),
    }
}

fn agent_delivery(written: Written<'_>) -> Result<AgentDelivery, String> {
    match convert::string(written)?.as_str() {
        "artifact" => Ok(AgentDelivery::Artifact),
        "present" => Ok(AgentDelivery::Present),
        other => Err(format!("must be artifact or present, and is {other:?}")),
    }
}

fn writable_root(written: Written<'_>) -> Result<bool, String> {
    match convert::string(written)?.as_str() {
        "read-only" => Ok(false),
        "overlay" => Ok(true),
        other => Err(format!("must be read-only or overlay, and is {other:?}")),
    }
}

fn whole_image(written: Written<'_>) -> Result<bool, String> {
    match convert::string(written)?.as_str() {
        "image" => Ok(true),
        "host" => Ok(false),
        other => Err(format!("must be image or host, and is {other:?}")),
    }
}

fn constraints(written: Written<'_>) -> Result<Vec<Constraint>, String> {
    let one = |text: String| {
        let mut words = text.splitn(3, char::is_whitespace).map(|word| word.trim().to_owned());
        match (words.next(), words.next(), words.next()) {
            (Some(attribute), Some(operator), value) if !attribute.is_empty() => {
                Ok(Constraint { attribute, operator, value: value.unwrap_or_default() })
            }
            _ => Err(format!("must be ATTRIBUTE OPERATOR VALUE, such as ${{attr.cpu.arch}} = amd64, and is {text:?}")),
        }
    };
    convert::list(written)?.into_iter().map(one).collect()
}
