//! The files of `deploy/` say what this program understands. That Docker and Nomad do what the files ask of them is not
//! seen here.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tool_executor::settings::{Machine, Settings, Sources, load};

use crate::support::skip;

const STATE: &str = "/var/lib/tool-executor";
const PROGRAM: &str = "target/x86_64-unknown-linux-musl/release/tool-executor";
/// Those that give full isolation with Docker's own filter.
const CAPABILITIES: [&str; 2] = ["SYS_ADMIN", "SYS_CHROOT"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// As a Python that knows the format reads it; none where there is no such Python.
fn parsed(name: &str) -> Option<Value> {
    let python = env::var("TOOL_EXECUTOR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    match Command::new(&python).args(["-c", "import yaml, hcl2"]).output() {
        Ok(output) if output.status.success() => {}
        _ => return skip("pyyaml and python-hcl2 for Python"),
    }
    let output = Command::new(&python).arg(path("tests/python/parsed.py")).arg(path(name)).output().expect("it runs");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("it prints JSON"))
}

/// What the program makes of these variables, all of which it must know.
fn settings(variables: impl IntoIterator<Item = (String, String)>) -> Settings {
    let environment: BTreeMap<String, String> = variables.into_iter().collect();
    let machine = Machine { host_name: "container".to_owned(), processors: 2, ..Machine::default() };
    let loaded =
        load(&Sources { environment, machine, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    loaded.settings
}

/// A Dockerfile's instructions: name and arguments.
fn instructions(name: &str) -> Vec<(String, String)> {
    let text = read(name);
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instruction = |line: &str| {
        let (instruction, arguments) = line.split_once(' ').unwrap_or_else(|| panic!("{name}: {line}"));
        (instruction.to_owned(), arguments.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    lines.lines().filter(|line| !line.trim().is_empty()).map(instruction).collect()
}

fn variables(table: &Value) -> Vec<(String, String)> {
    let fields = table.as_object().expect("a table").iter();
    fields.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())).collect()
}

#[test]
fn both_images_are_small_and_run_as_nobody_of_importance() {
    for name in ["deploy/executor.Dockerfile", "deploy/sandbox.Dockerfile"] {
        let instructions = instructions(name);
        let all = |wanted: &str| {
            let of = instructions.iter().filter(|(instruction, _)| instruction == wanted);
            of.map(|(_, arguments)| arguments.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(instructions[0].0, "FROM", "{name}");
        // Pinned to a release, and from no registry in particular.
        assert!(all("FROM").iter().all(|image| image.contains(':') && !image.contains('/')), "{name}");
        assert_eq!(all("COPY"), [format!("{PROGRAM} /usr/local/bin/tool-executor")], "{name}");
        assert_eq!((all("USER"), all("VOLUME"), all("EXPOSE")), (vec!["10001:10001"], vec![STATE], vec!["9001"]));
        let run = all("RUN").join(" ");
        assert!(run.contains("10001") && run.contains(&format!("-m 0700 {STATE}")), "{name}: {run}");
        let entrypoint: Vec<String> = serde_json::from_str(all("ENTRYPOINT")[0]).expect("a list");
        assert_eq!(entrypoint, ["/usr/local/bin/tool-executor"]);
        assert_eq!(all("CMD"), [r#"["serve"]"#]);

        let of_image = all("ENV").join(" ");
        let of_image = of_image.split(' ').filter_map(|setting| setting.split_once('='));
        let of_image = of_image.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let token = ("TOOL_EXECUTOR_TOKEN".to_owned(), "token".to_owned());
        let settings = settings(of_image.chain([token]));
        assert_eq!(settings.state_dir, Path::new(STATE));
        assert_eq!(settings.listen.to_string(), "0.0.0.0:9001");
    }
}

/// What the images are made of is let through, and nothing else of the checkout.
#[test]
fn the_builds_context_is_one_file() {
    let ignore = read(".dockerignore");
    let rules: Vec<_> = ignore.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(rules, ["*", &format!("!{PROGRAM}")]);
    assert!(read("deploy/README.md").contains("cargo build --release --target x86_64-unknown-linux-musl"));
}

#[test]
fn the_compose_file_gives_slots_what_they_need() {
    let Some(compose) = parsed("deploy/compose.yaml") else { return };
    let executor = &compose["services"]["executor"];
    let build = &executor["build"];
    let context = path("deploy").join(build["context"].as_str().expect("a context"));
    assert!(context.join(build["dockerfile"].as_str().expect("a file")).is_file());
    assert_eq!(executor["user"], "10001:10001");
    assert_eq!((&executor["cap_drop"], &executor["cap_add"]), (&json!(["ALL"]), &json!(CAPABILITIES)));
    assert_eq!(executor["security_opt"], json!(["no-new-privileges:true", "systempaths=unconfined"]));
    // Its guide says the same.
    let guide = read("deploy/README.md");
    for capability in CAPABILITIES {
        assert!(guide.contains(&format!("--cap-add {capability}")), "{capability}");
    }
    let volume = executor["volumes"][0].as_str().and_then(|volume| volume.split_once(':')).expect("a volume");
    assert_eq!((volume.1, compose["volumes"].get(volume.0)), (STATE, Some(&Value::Null)));
    let given = variables(&executor["environment"]).into_iter().map(|(name, value)| {
        // As Compose puts it in.
        let value = if value.starts_with("${TOOL_EXECUTOR_TOKEN:?") { "token".to_owned() } else { value };
        (name, value)
    });
    let listen = ("TOOL_EXECUTOR_LISTEN".to_owned(), "0.0.0.0:9001".to_owned());
    let settings = settings(given.chain([listen, ("TOOL_EXECUTOR_STATE_DIR".to_owned(), STATE.to_owned())]));
    assert!(!settings.sandbox.network);
    within_grace(&executor["stop_grace_period"], settings.calls.drain_timeout);
}

#[test]
fn the_nomad_job_is_one_that_the_executor_understands() {
    let Some(file) = parsed("deploy/tool-executor.nomad.hcl") else { return };
    let group = &file["job"][0]["tool-executor"]["group"][0]["executor"];
    assert_eq!(group["count"], 1);
    let task = &group["task"][0]["executor"];
    assert_eq!((&task["driver"], &task["config"][0]["ports"]), (&json!("docker"), &json!(["service"])));
    assert_eq!(group["network"][0]["port"][0]["service"]["static"], 9001);
    assert_eq!(group["service"][0]["check"][0]["path"], "/health");
    let template = &task["template"][0];
    assert_eq!(template["env"], true);
    let secrets = template["data"].as_str().expect("a text").lines().filter_map(|line| line.split_once('='));
    let secrets = secrets.map(|(name, value)| {
        assert!(value.starts_with("{{ .") && value.ends_with(" }}"), "{value}");
        (name.to_owned(), "secret".to_owned())
    });
    // As Nomad puts them in.
    let places = [
        ("${NOMAD_SECRETS_DIR}", "/secrets"),
        ("${NOMAD_ALLOC_DIR}", "/alloc"),
        ("${NOMAD_JOB_NAME}", "tool-executor"),
        ("${NOMAD_ADDR_service}", "10.0.0.5:9001"),
    ];
    let given = variables(&task["env"][0]).into_iter().map(|(name, value)| {
        let value = places.iter().fold(value, |value, (variable, stands_for)| value.replace(variable, stands_for));
        assert!(!value.contains("${"), "{name}: {value}");
        (name, value)
    });
    let listen = ("TOOL_EXECUTOR_LISTEN".to_owned(), "0.0.0.0:9001".to_owned());
    let settings = settings(given.chain(secrets).chain([listen]));
    assert_eq!(settings.executor_id, "tool-executor");
    assert_eq!(settings.state_dir, Path::new("/alloc/data/tool-executor"));
    assert!(settings.nomad.is_some(), "its containers are Nomad's");
    within_grace(&task["kill_timeout"], settings.calls.drain_timeout);
}

/// What may still go on after the signal to end, does.
fn within_grace(grace: &Value, drain: Duration) {
    let seconds = grace.as_str().and_then(|text| text.strip_suffix('s')).and_then(|number| number.parse().ok());
    let grace = Duration::from_secs(seconds.expect("it is in seconds"));
    assert!(grace > drain, "{grace:?} for {drain:?}");
}
