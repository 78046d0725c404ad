//! The template of a pool's containers: a parameterized batch job, of which one child is dispatched for each container.
//!
//! A child is never restarted nor placed again: a container that has died is dead, and its trajectories have been told
//! so. One whose node is cut off waits for it to come back, and is not replaced meanwhile.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::spec::{AgentDelivery, ContainerSpec, Driver, NomadConfig, NomadPool};

/// The name of the one group and the one task.
pub(super) const TASK: &str = "sandbox";
/// The label of the port on which the agent listens.
pub(super) const PORT: &str = "agent";
/// Who the child belongs to, what its agent is opened with, and its user ids: the first, and how many.
pub(super) const EXECUTOR: &str = "executor_id";
pub(super) const NONCE: &str = "nonce";
pub(super) const USER_IDS: &str = "uid_base";
/// Where the agent's program is downloaded from, and what it is. Of each child, since several executors may share a
/// template, and each is there for its own.
pub(super) const PROGRAM_URL: &str = "program_url";
pub(super) const PROGRAM_SHA256: &str = "program_sha256";
/// Of the template itself: whether it is as it should be can be told without comparing all that Nomad has added.
pub(super) const FINGERPRINT: &str = "fingerprint";

/// Inside a container that has a network of its own.
const INNER_PORT: u16 = 9500;
/// As the agent expects it.
const CONFIG_FILE: &str = "agent.json";
/// In the task's directory.
const PROGRAM: &str = "tool-executor";
/// How long an agent may take to end its slots.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Each of these bytes may be on the node's disk for as long as Nomad keeps the allocation.
const LOG_MEGABYTES: u32 = 2;
const MEGABYTE: u64 = 1 << 20;

/// The name of a pool's template.
pub(super) fn id(config: &NomadConfig, pool: &NomadPool) -> String {
    match pool.name.as_str() {
        "" => config.job_id.clone(),
        name => format!("{}-{name}", config.job_id),
    }
}

/// The whole job, its fingerprint among its meta.
pub(super) fn job(config: &NomadConfig, pool: &NomadPool) -> Value {
    let id = id(config, pool);
    let spec = &pool.container;
    let published = spec.driver == Driver::Docker && spec.network_mode.as_deref() != Some("host");
    let port = if published { json!({ "Label": PORT, "To": INNER_PORT }) } else { json!({ "Label": PORT }) };
    let mut meta = vec![EXECUTOR, NONCE, USER_IDS];
    if spec.agent == AgentDelivery::Artifact {
        meta.extend([PROGRAM_URL, PROGRAM_SHA256]);
    }
    let mut job = json!({
        "ID": id,
        "Name": id,
        "Type": "batch",
        "Datacenters": spec.datacenters,
        "ParameterizedJob": { "Payload": "required", "MetaRequired": meta },
        "Constraints": spec.constraints.iter().map(|constraint| json!({
            "LTarget": constraint.attribute,
            "Operand": constraint.operator,
            "RTarget": constraint.value,
        })).collect::<Vec<_>>(),
        "TaskGroups": [{
            "Name": TASK,
            "Count": 1,
            "RestartPolicy": { "Attempts": 0, "Mode": "fail" },
            "ReschedulePolicy": { "Attempts": 0, "Unlimited": false },
            "Disconnect": { "LostAfter": nanoseconds(config.lost_after), "Replace": false },
            "Networks": [{ "Mode": "host", "DynamicPorts": [port] }],
            "Tasks": [task(config, pool)],
        }],
    });
    if let Some(node_pool) = &spec.node_pool {
        job["NodePool"] = json!(node_pool);
    }
    let fingerprint: String = Sha256::digest(job.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
    job["Meta"] = json!({ FINGERPRINT: fingerprint });
    job
}

fn task(config: &NomadConfig, pool: &NomadPool) -> Value {
    let spec = &pool.container;
    let mut resources = json!({ "CPU": spec.cpu, "MemoryMB": spec.memory_bytes.div_ceil(MEGABYTE) });
    if let Some(most) = spec.memory_max_bytes {
        resources["MemoryMaxMB"] = json!(most.div_ceil(MEGABYTE));
    }
    let mut task = json!({
        "Name": TASK,
        "Driver": match spec.driver {
            Driver::Docker => "docker",
            Driver::Exec => "exec",
            Driver::RawExec | Driver::Apptainer => "raw_exec",
        },
        "Config": driver_config(spec),
        "DispatchPayload": { "File": CONFIG_FILE },
        "Env": { "TOOL_EXECUTOR_LOG": config.log },
        "KillTimeout": nanoseconds(KILL_TIMEOUT),
        "KillSignal": "SIGTERM",
        "Resources": resources,
        "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": LOG_MEGABYTES },
    });
    if spec.agent == AgentDelivery::Artifact {
        task["Artifacts"] = json!([{
            "GetterSource": format!("${{NOMAD_META_{PROGRAM_URL}}}"),
            "GetterMode": "file",
            "GetterOptions": { "checksum": format!("sha256:${{NOMAD_META_{PROGRAM_SHA256}}}") },
            "RelativeDest": format!("local/{PROGRAM}"),
        }]);
    }
    task
}

/// What the driver is told: how the agent is started, with what its slots need, and whatever the pool adds.
fn driver_config(spec: &ContainerSpec) -> Map<String, Value> {
    let program = match spec.agent {
        AgentDelivery::Artifact => format!("${{NOMAD_TASK_DIR}}/{PROGRAM}"),
        AgentDelivery::Present => spec.agent_path.clone(),
    };
    let port = format!("${{NOMAD_PORT_{PORT}}}");
    let arguments =
        ["sandbox", "--directory", "${NOMAD_TASK_DIR}", "--container", "${NOMAD_ALLOC_ID}", "--port", &port];
    let config = match spec.driver {
        Driver::Docker => {
            let mut config = json!({
                "image": spec.image,
                // Whatever the image itself would start.
                "entrypoint": [program],
                "args": arguments,
                "privileged": spec.privileged,
            });
            if let Some(mode) = &spec.network_mode {
                config["network_mode"] = json!(mode);
            }
            if spec.network_mode.as_deref() != Some("host") {
                config["ports"] = json!([PORT]);
            }
            if !spec.privileged {
                // Docker's own filter forbids the namespaces of which slots are made; each has a filter of its own.
                config["security_opt"] = json!(["seccomp=unconfined"]);
            }
            config
        }
        Driver::RawExec | Driver::Exec => json!({ "command": program, "args": arguments }),
        Driver::Apptainer => {
            let bind = "${NOMAD_TASK_DIR}:${NOMAD_TASK_DIR}";
            let before = ["exec", "--contain", "--no-home", "--bind", bind, &spec.image, &program];
            let arguments = [&before[..], &arguments[..]].concat();
            json!({ "command": "apptainer", "args": arguments })
        }
    };
    let Value::Object(mut config) = config else { return Map::new() };
    config.extend(spec.driver_config.clone());
    config
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nomad::testing::{config, pool};

    fn job_of(change: impl FnOnce(&mut NomadPool)) -> Value {
        let mut pool = pool("");
        change(&mut pool);
        job(&config(), &pool)
    }

    fn task_of(job: &Value) -> &Value {
        &job["TaskGroups"][0]["Tasks"][0]
    }

    #[test]
    fn a_dead_container_stays_dead() {
        let job = job_of(|_| ());
        let group = &job["TaskGroups"][0];
        assert_eq!((&job["Type"], &group["Count"]), (&json!("batch"), &json!(1)));
        assert_eq!(group["RestartPolicy"]["Attempts"], 0);
        assert_eq!(group["ReschedulePolicy"], json!({ "Attempts": 0, "Unlimited": false }));
        assert_eq!(group["Disconnect"], json!({ "LostAfter": 86_400_000_000_000_u64, "Replace": false }));
    }

    #[test]
    fn docker_runs_the_agent_in_any_image() {
        let job = job_of(|_| ());
        let config = &task_of(&job)["Config"];
        assert_eq!(config["image"], "image:1");
        assert_eq!(config["entrypoint"], json!(["${NOMAD_TASK_DIR}/tool-executor"]));
        assert_eq!(config["ports"], json!(["agent"]));
        assert_eq!(config["security_opt"], json!(["seccomp=unconfined"]));
        assert_eq!(job["TaskGroups"][0]["Networks"][0]["DynamicPorts"], json!([{ "Label": "agent", "To": 9500 }]));
        let privileged = job_of(|pool| pool.container.privileged = true);
        assert_eq!(task_of(&privileged)["Config"]["privileged"], true);
        assert_eq!(task_of(&privileged)["Config"]["security_opt"], Value::Null);
        let host = job_of(|pool| pool.container.network_mode = Some("host".to_owned()));
        assert_eq!(task_of(&host)["Config"]["ports"], Value::Null);
        assert_eq!(host["TaskGroups"][0]["Networks"][0]["DynamicPorts"], json!([{ "Label": "agent" }]));
    }

    #[test]
    fn drivers_start_the_agent_each_in_its_way() {
        let config = |driver| {
            let job = job_of(|pool| {
                (pool.container.driver, pool.container.agent) = (driver, AgentDelivery::Present);
                pool.container.agent_path = "/usr/bin/agent".to_owned();
            });
            (task_of(&job)["Driver"].clone(), task_of(&job)["Config"].clone())
        };
        for (driver, name) in [(Driver::RawExec, "raw_exec"), (Driver::Exec, "exec")] {
            let (named, config) = config(driver);
            assert_eq!((&named, &config["command"]), (&json!(name), &json!("/usr/bin/agent")));
            assert_eq!(config["args"][0], "sandbox");
        }
        let (named, config) = config(Driver::Apptainer);
        assert_eq!((&named, &config["command"]), (&json!("raw_exec"), &json!("apptainer")));
        let arguments: Vec<_> = config["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let at = arguments.iter().position(|argument| *argument == "image:1").unwrap();
        assert_eq!(&arguments[at + 1..at + 3], ["/usr/bin/agent", "sandbox"]);
    }

    #[test]
    fn what_a_pool_says_is_laid_over_it() {
        let job = job_of(|pool| {
            let container = &mut pool.container;
            container.driver_config = serde_json::from_value(json!({ "runtime": "runsc", "image": "other" })).unwrap();
            (container.cpu, container.memory_bytes, container.memory_max_bytes) = (700, 3 << 20, Some(5 << 20));
            container.node_pool = Some("gpu".to_owned());
            container.datacenters = vec!["dc2".to_owned()];
        });
        let task = task_of(&job);
        assert_eq!((&task["Config"]["runtime"], &task["Config"]["image"]), (&json!("runsc"), &json!("other")));
        assert_eq!(task["Resources"], json!({ "CPU": 700, "MemoryMB": 3, "MemoryMaxMB": 5 }));
        assert_eq!((&job["NodePool"], &job["Datacenters"]), (&json!("gpu"), &json!(["dc2"])));
    }

    #[test]
    fn a_template_is_known_by_its_fingerprint() {
        let fingerprint = |job: &Value| job["Meta"][FINGERPRINT].as_str().map(str::to_owned).unwrap();
        assert_eq!(fingerprint(&job_of(|_| ())), fingerprint(&job_of(|_| ())));
        assert_ne!(fingerprint(&job_of(|_| ())), fingerprint(&job_of(|pool| pool.container.cpu = 1)));
    }
}
