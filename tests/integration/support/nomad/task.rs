//! What a task is started with: its directories, environment and command line, as the raw_exec driver has them.
//!
//! Every driver is taken for raw_exec. What a container would call `/local`, `/alloc` and `/secrets` is looked for in
//! the directories of the allocation, and a published port is the host's own: nothing forwards it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use serde_json::Value;

use super::{artifact::Artifact, tables::Alloc};

pub(super) struct Prepared {
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) directory: PathBuf,
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
    pub(super) artifacts: Vec<Artifact>,
}

/// Makes the directories, and computes the rest.
pub(super) fn prepare(alloc: &Alloc, alloc_dir: &Path) -> Result<Prepared, String> {
    let task = alloc.task();
    let name = alloc.task_name();
    let shared = alloc_dir.join(&alloc.id).join("alloc");
    let directory = alloc_dir.join(&alloc.id).join(&name);
    let logs = shared.join("logs");
    for made in [&logs, &shared.join("data"), &shared.join("tmp")] {
        fs::create_dir_all(made).map_err(|error| error.to_string())?;
    }
    for made in ["local", "secrets", "private", "tmp"] {
        fs::create_dir_all(directory.join(made)).map_err(|error| error.to_string())?;
        let _ = fs::set_permissions(directory.join(made), fs::Permissions::from_mode(0o777));
    }
    let file = task["DispatchPayload"]["File"].as_str().unwrap_or_default();
    if !file.is_empty() {
        let encoded = alloc.job["Payload"].as_str().unwrap_or_default();
        let payload = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|error| error.to_string())?;
        let path = directory.join("local").join(file);
        fs::create_dir_all(path.parent().unwrap_or(&directory)).map_err(|error| error.to_string())?;
        fs::write(path, payload).map_err(|error| error.to_string())?;
    }
    let env = environment(alloc, &shared, &directory);
    let artifacts = task["Artifacts"].as_array().into_iter().flatten();
    let artifacts = artifacts.map(|artifact| Artifact::new(artifact, &env, &directory)).collect();
    let argv = command_line(task, &env, &shared, &directory);
    Ok(Prepared {
        argv,
        directory,
        stdout: logs.join(format!("{name}.stdout.0")),
        stderr: logs.join(format!("{name}.stderr.0")),
        artifacts,
        env,
    })
}

fn command_line(task: &Value, env: &BTreeMap<String, String>, shared: &Path, directory: &Path) -> Vec<String> {
    let config = &task["Config"];
    let mut words: Vec<&str> = Vec::new();
    match &config["entrypoint"] {
        Value::Array(entrypoint) => words.extend(entrypoint.iter().filter_map(Value::as_str)),
        entrypoint => words.extend(entrypoint.as_str()),
    }
    words.extend(config["command"].as_str());
    words.extend(config["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
    if words.is_empty() {
        // Whatever the image would run.
        words = vec!["/bin/sleep", "86400"];
    }
    let is_container = task["Driver"] != "raw_exec";
    let of_container = |word: String| {
        let places = [("/local", directory.join("local")), ("/secrets", directory.join("secrets"))];
        let places = places.into_iter().chain([("/alloc", shared.to_owned())]);
        for (inside, outside) in places.filter(|_| is_container) {
            if let Some(rest) = word.strip_prefix(inside)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return format!("{}{rest}", outside.display());
            }
        }
        word
    };
    words.into_iter().map(|word| of_container(interpolate(word, env))).collect()
}

fn environment(alloc: &Alloc, shared: &Path, directory: &Path) -> BTreeMap<String, String> {
    let (job, group, task) = (&alloc.job, alloc.group(), alloc.task());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let path = |path: PathBuf| path.display().to_string();
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("PATH", std::env::var("PATH").unwrap_or_default());
    set("NOMAD_ALLOC_ID", alloc.id.clone());
    set("NOMAD_SHORT_ALLOC_ID", alloc.id.chars().take(8).collect());
    set("NOMAD_ALLOC_INDEX", "0".to_owned());
    set("NOMAD_ALLOC_NAME", format!("{}.{}[0]", alloc.job_id, text(&group["Name"])));
    set("NOMAD_ALLOC_DIR", path(shared.to_owned()));
    set("NOMAD_TASK_DIR", path(directory.join("local")));
    set("NOMAD_SECRETS_DIR", path(directory.join("secrets")));
    set("NOMAD_JOB_ID", alloc.job_id.clone());
    set("NOMAD_JOB_NAME", text(&job["Name"]));
    set("NOMAD_JOB_PARENT_ID", text(&job["ParentID"]));
    set("NOMAD_GROUP_NAME", text(&group["Name"]));
    set("NOMAD_TASK_NAME", text(&task["Name"]));
    set("NOMAD_DC", "dc1".to_owned());
    set("NOMAD_REGION", "global".to_owned());
    set("NOMAD_NAMESPACE", "default".to_owned());
    set("NOMAD_CPU_LIMIT", task["Resources"]["CPU"].to_string());
    set("NOMAD_MEMORY_LIMIT", task["Resources"]["MemoryMB"].to_string());
    for port in &alloc.ports {
        let label = &port.label;
        set(&format!("NOMAD_PORT_{label}"), port.value.to_string());
        set(&format!("NOMAD_HOST_PORT_{label}"), port.value.to_string());
        set(&format!("NOMAD_IP_{label}"), "127.0.0.1".to_owned());
        set(&format!("NOMAD_HOST_IP_{label}"), "127.0.0.1".to_owned());
        set(&format!("NOMAD_ADDR_{label}"), format!("127.0.0.1:{}", port.value));
        set(&format!("NOMAD_HOST_ADDR_{label}"), format!("127.0.0.1:{}", port.value));
    }
    // An optional key that was not given is there, and empty.
    for name in job["ParameterizedJob"]["MetaOptional"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        set(&format!("NOMAD_META_{name}"), String::new());
    }
    for meta in [&job["Meta"], &group["Meta"], &task["Meta"]] {
        for (name, value) in meta.as_object().into_iter().flatten() {
            set(&format!("NOMAD_META_{name}"), text(value));
            set(&format!("NOMAD_META_{}", name.to_uppercase()), text(value));
        }
    }
    for (name, value) in task["Env"].as_object().into_iter().flatten() {
        let value = interpolate(value.as_str().unwrap_or_default(), &env);
        env.insert(name.clone(), value);
    }
    env
}

/// The image that a container would have.
pub(super) fn image(alloc: &Alloc) -> String {
    let nowhere = Path::new("");
    let image = alloc.task()["Config"]["image"].as_str().unwrap_or("image");
    interpolate(image, &environment(alloc, nowhere, nowhere))
}

/// Puts variables in: `${NAME}`, where a name is of letters, digits, `_`, `-` and `.`; an unknown one is empty.
pub(super) fn interpolate(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        whole += &rest[..at];
        let after = &rest[at + 2..];
        let is_name = |name: &&str| {
            !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || "_-.".contains(char))
        };
        match after.find('}').map(|end| &after[..end]).filter(is_name) {
            Some(name) => {
                whole += env.get(name).map_or("", |value| value);
                rest = &after[name.len() + 1..];
            }
            None => {
                whole += "${";
                rest = after;
            }
        }
    }
    whole + rest
}
