//! A registered job as the server completes it: every field there, unset ones with their default.

use serde_json::{Value, json};

const SECOND: u64 = 1_000_000_000;

/// The job with all of its fields, and what the server adds left out.
pub(super) fn canonical(job: &Value) -> Value {
    let mut whole = json!({
        "Affinities": null, "AllAtOnce": false, "Constraints": null, "ConsulNamespace": "", "Datacenters": ["*"],
        "ID": "", "Meta": null, "Multiregion": null, "Name": job["ID"], "Namespace": "default", "NodePool": "default",
        "NomadTokenID": "", "ParameterizedJob": null, "Periodic": null, "Priority": 50, "Region": "global",
        "Spreads": null, "TaskGroups": null, "Type": "service", "UI": null, "Update": null, "VaultNamespace": "",
        "VersionTag": null,
    });
    overlay(&mut whole, job);
    if !whole["ParameterizedJob"].is_null() {
        complete(&mut whole["ParameterizedJob"], json!({ "MetaOptional": null, "MetaRequired": null, "Payload": "" }));
    }
    for group in whole["TaskGroups"].as_array_mut().into_iter().flatten() {
        complete_group(group);
    }
    whole
}

fn complete_group(group: &mut Value) {
    let restart = json!({
        "Attempts": 3, "Delay": 15 * SECOND, "Interval": 86_400 * SECOND, "Mode": "fail", "RenderTemplates": false,
    });
    let reschedule = json!({
        "Attempts": 1, "Delay": 5 * SECOND, "DelayFunction": "constant", "Interval": 86_400 * SECOND, "MaxDelay": 0,
        "Unlimited": false,
    });
    complete(
        group,
        json!({
            "Affinities": null, "Constraints": null, "Consul": null, "Count": 1, "Disconnect": null,
            "EphemeralDisk": { "Migrate": false, "SizeMB": 300, "Sticky": false }, "MaxClientDisconnect": null,
            "MaxRunDuration": null, "Meta": null, "Migrate": null, "Name": "", "Networks": null,
            "PreventRescheduleOnLost": false, "ReschedulePolicy": reschedule, "RestartPolicy": restart,
            "Scaling": null, "Services": null, "ShutdownDelay": null, "Spreads": null,
            "StopAfterClientDisconnect": null, "Tasks": null, "Update": null, "Volumes": null,
        }),
    );
    if !group["Disconnect"].is_null() {
        complete(&mut group["Disconnect"], json!({ "LostAfter": 0, "Reconcile": "best_score", "Replace": true }));
    }
    for network in group["Networks"].as_array_mut().into_iter().flatten() {
        complete(network, json!({ "Mode": "host" }));
        for port in network["DynamicPorts"].as_array_mut().into_iter().flatten() {
            complete(port, json!({ "HostNetwork": "default" }));
        }
    }
    let restart = group["RestartPolicy"].clone();
    for task in group["Tasks"].as_array_mut().into_iter().flatten() {
        complete(
            task,
            json!({
                "Actions": null, "Affinities": null, "Artifacts": null, "CSIPluginConfig": null, "Config": null,
                "Constraints": null, "Consul": null, "DispatchPayload": null, "Driver": "", "Env": null,
                "Identities": null, "KillSignal": "", "KillTimeout": 5 * SECOND, "Kind": "", "Leader": false,
                "Lifecycle": null, "LogConfig": { "Disabled": false, "MaxFileSizeMB": 10, "MaxFiles": 10 },
                "Meta": null, "Name": "",
                "Resources": {
                    "CPU": 100, "Cores": 0, "Devices": null, "DiskMB": 0, "IOPS": 0, "MemoryMB": 300,
                    "MemoryMaxMB": 0, "NUMA": null, "Networks": null, "SecretsMB": 0,
                },
                "RestartPolicy": restart, "ScalingPolicies": null, "Schedule": null, "Secrets": null,
                "Services": null, "ShutdownDelay": 0, "Templates": null, "User": "", "Vault": null,
                "VolumeMounts": null,
            }),
        );
    }
}

/// Adds what is missing, at every depth.
fn complete(value: &mut Value, defaults: Value) {
    let mut whole = defaults;
    overlay(&mut whole, value);
    *value = whole;
}

fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                overlay(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}

/// What `validate` finds, in the words of the server.
pub(super) fn faults(job: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let id = job["ID"].as_str().unwrap_or_default();
    let kind = job["Type"].as_str().unwrap_or_default();
    if id.is_empty() {
        faults.push("Missing job ID".to_owned());
    } else if id.contains(' ') {
        faults.push("Job ID contains a space".to_owned());
    }
    let groups = job["TaskGroups"].as_array().map(Vec::as_slice).unwrap_or_default();
    if groups.is_empty() {
        faults.push("Missing job task groups".to_owned());
    }
    if !job["ParameterizedJob"].is_null() && !["batch", "sysbatch"].contains(&kind) {
        faults.push("Parameterized job can only be used with \"batch\" or \"sysbatch\" scheduler".to_owned());
    }
    for group in groups {
        let mut of_group = Vec::new();
        if kind == "batch" && !group["Update"].is_null() {
            of_group.push("Job type \"batch\" does not allow update block".to_owned());
        }
        for task in group["Tasks"].as_array().into_iter().flatten() {
            if task["Driver"].as_str().unwrap_or_default().is_empty() {
                let name = task["Name"].as_str().unwrap_or_default();
                let one = listed(&["Missing task driver".to_owned()]);
                of_group.push(format!("Task {name} validation failed: {one}"));
            }
        }
        if !of_group.is_empty() {
            let name = group["Name"].as_str().unwrap_or_default();
            faults.push(format!("Task group {name} validation failed: {}", listed(&of_group)));
        }
    }
    faults
}

/// As Go's multierror prints them.
pub(super) fn listed(faults: &[String]) -> String {
    let head = if faults.len() == 1 { "1 error".to_owned() } else { format!("{} errors", faults.len()) };
    let lines: String = faults.iter().map(|fault| format!("\t* {fault}\n")).collect();
    format!("{head} occurred:\n{lines}\n")
}
