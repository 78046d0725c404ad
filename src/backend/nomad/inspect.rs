//! What `check` wants to know of a cluster, found out without changing anything there: what may be done is asked for in
//! ways that cannot succeed, and Nomad's refusal tells which right is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use super::{
    api::{ApiError, Client, Dispatch, NodeStub},
    spec::{Driver, NomadConfig, NomadPool},
    template,
};

/// No job has this name, and none will.
const NOBODY: &str = "tool-executor-check-of-permissions";
/// No template has been written so often.
const NEVER: u64 = u64::MAX >> 1;
/// For a machine to answer at all.
const ANSWER: Duration = Duration::from_secs(2);
/// Where nothing listens, mostly: that is an answer too.
const SOME_PORT: u16 = 1;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fine(String),
    /// Something that works, and that somebody should know.
    Warning(String),
    Failed(String),
}

/// Looks at everything that the backend needs; what follows from an unreachable cluster is left out.
pub async fn inspect(config: &NomadConfig) -> Vec<Finding> {
    let mut findings = Findings::default();
    let client = match Client::new(&config.client) {
        Ok(client) => client,
        Err(error) => {
            findings.add("nomad", Verdict::Failed(error.to_string()));
            return findings.0;
        }
    };
    match client.leader().await {
        Ok(leader) => {
            findings.add("nomad", Verdict::Fine(format!("{}, its leader is {leader}", config.client.address)))
        }
        Err(error) => {
            findings.add("nomad", Verdict::Failed(error.to_string()));
            return findings.0;
        }
    }
    about_itself(&client, config, &mut findings).await;
    rights(&client, config, &mut findings).await;
    match client.nodes().await {
        Ok(nodes) => about_nodes(&nodes, config, &mut findings).await,
        Err(ApiError::Denied { .. }) => findings.add(
            "nomad node:read",
            Verdict::Warning("missing: drains are noticed late, and nodes cannot be checked from here".to_owned()),
        ),
        Err(error) => findings.add("nomad nodes", Verdict::Failed(error.to_string())),
    }
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: &str, verdict: Verdict) {
        self.0.push(Finding { what: what.to_owned(), verdict });
    }
}

async fn about_itself(client: &Client, config: &NomadConfig, findings: &mut Findings) {
    match client.agent_self().await {
        Ok(about) => findings.add("nomad version", Verdict::Fine(about.version)),
        Err(ApiError::Denied { .. }) => {
            findings.add("nomad version", Verdict::Fine("not told: it needs agent { policy = \"read\" }".to_owned()));
        }
        Err(error) => findings.add("nomad version", Verdict::Failed(error.to_string())),
    }
    let open = "off: whoever reaches Nomad's port, or its socket inside any task, may run anything on any node";
    match client.acl_self_token().await {
        Ok(None) => findings.add("nomad access control", Verdict::Warning(open.to_owned())),
        Ok(Some(token)) if token.is_management() => findings.add(
            "nomad access control",
            Verdict::Warning("this is a management token: one with fewer rights is enough".to_owned()),
        ),
        Ok(Some(token)) => {
            findings.add("nomad access control", Verdict::Fine(format!("policies: {}", token.policies.join(", "))));
        }
        Err(error) => {
            let known = if config.client.token.is_some() { "the token" } else { "the lack of a token" };
            findings.add("nomad access control", Verdict::Failed(format!("{known} is refused: {error}")));
        }
    }
}

async fn rights(client: &Client, config: &NomadConfig, findings: &mut Findings) {
    let no_such_job = format!("ParentID == \"{NOBODY}\"");
    let jobs = client.jobs(&no_such_job).await.map(drop);
    findings.add("nomad list-jobs", granted(jobs));
    let no_such_allocation = format!("JobID == \"{NOBODY}\"");
    findings.add("nomad read-job", granted(client.allocations(&no_such_allocation).await.map(drop)));
    if let Some(pool) = config.pools.first() {
        let job = template::job(config, pool);
        // Only if it is what it never is.
        findings.add("nomad submit-job", granted(client.register(&job, Some(NEVER)).await.map(drop)));
    }
    let dispatch = Dispatch { payload: b"", meta: &BTreeMap::new(), idempotency_token: NOBODY };
    findings.add("nomad dispatch-job", granted(client.dispatch(NOBODY, &dispatch).await.map(drop)));
    let nobody = uuid::Uuid::nil().to_string();
    let logs = match client.task_log_tail(&nobody, template::TASK, 1).await {
        Err(ApiError::Denied { .. }) => {
            Verdict::Warning("missing: what an agent said before it ended cannot be shown".to_owned())
        }
        _ => Verdict::Fine("not refused".to_owned()),
    };
    findings.add("nomad read-logs", logs);
    for pool in &config.pools {
        let id = template::id(config, pool);
        match client.validate(&template::job(config, pool)).await {
            Ok(validation) if validation.is_valid() => {}
            Ok(validation) => findings.add(&format!("nomad job {id}"), Verdict::Failed(validation.error)),
            Err(error) => findings.add(&format!("nomad job {id}"), Verdict::Failed(error.to_string())),
        }
    }
}

/// A request that could not have succeeded: refused for lack of a right, or for what was wrong with it.
fn granted(result: Result<(), ApiError>) -> Verdict {
    match result {
        Err(ApiError::Denied { .. }) => Verdict::Failed("missing".to_owned()),
        Ok(()) | Err(ApiError::Conflict { .. } | ApiError::NotFound { .. } | ApiError::Invalid { .. }) => {
            Verdict::Fine("granted".to_owned())
        }
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

async fn about_nodes(nodes: &[NodeStub], config: &NomadConfig, findings: &mut Findings) {
    for pool in &config.pools {
        let name = if pool.name.as_str().is_empty() { "default" } else { pool.name.as_str() };
        findings.add(&format!("nomad pool {name}"), room(nodes, pool));
    }
    let hosts: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| node.is_usable())
        .map(|node| node.address.as_str())
        .filter(|address| !address.is_empty())
        .collect();
    let mut silent = Vec::new();
    for host in &hosts {
        let dialled = config.address_rewrite.iter().find(|(from, _)| from == host).map_or(*host, |(_, to)| to);
        if timeout(ANSWER, TcpStream::connect((dialled, SOME_PORT))).await.is_err() {
            silent.push(dialled.to_owned());
        }
    }
    findings.add(
        "nomad agents' addresses",
        match silent.as_slice() {
            [] => Verdict::Fine(format!("reachable from here: {}", count(hosts.len(), "node"))),
            silent => Verdict::Warning(format!("no answer from {}: is a firewall between?", silent.join(", "))),
        },
    );
    if let Some(program) = &config.program {
        let loopback = |text: &str| text.contains("//127.") || text.contains("//[::1]") || text.contains("//localhost");
        let remote = hosts.iter().any(|host| !host.starts_with("127.") && *host != "::1");
        let (host, _) = program.url.split_once("/agent/").unwrap_or((&program.url, ""));
        findings.add(
            "nomad artifact",
            if loopback(&program.url) && remote {
                Verdict::Failed(format!(
                    "nodes cannot download the agent from {host}: set `advertise`, or agent = \"present\""
                ))
            } else {
                Verdict::Fine(format!("nodes download the agent from {host}"))
            },
        );
    }
}

/// Whether the least number of containers would fit nodes that have the driver. What else runs there is not looked at.
fn room(nodes: &[NodeStub], pool: &NomadPool) -> Verdict {
    let spec = &pool.container;
    let driver = match spec.driver {
        Driver::Docker => "docker",
        Driver::Exec => "exec",
        Driver::RawExec | Driver::Apptainer => "raw_exec",
    };
    let usable: Vec<_> = nodes.iter().filter(|node| node.is_usable()).collect();
    let with_driver: Vec<_> = usable.iter().filter(|node| node.has_healthy(driver)).collect();
    if with_driver.is_empty() {
        return Verdict::Failed(format!("no eligible node of {} has a healthy driver {driver}", usable.len()));
    }
    let memory = spec.memory_bytes.div_ceil(1 << 20).max(1);
    let fits = |node: &&&NodeStub| {
        let resources = &node.node_resources;
        (resources.cpu.cpu_shares / u64::from(spec.cpu.max(1))).min(resources.memory.memory_mb / memory)
    };
    let room: u64 = with_driver.iter().map(fits).sum();
    let (least, found) = (u64::from(pool.min_containers), count(with_driver.len(), "node"));
    if room < least {
        return Verdict::Failed(format!("room for {room} on {found} with {driver}, and {least} are wanted"));
    }
    Verdict::Fine(format!("room for {room} on {found} with {driver}, if nothing else runs there"))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
