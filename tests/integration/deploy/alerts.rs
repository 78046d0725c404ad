//! The alert rules, as Prometheus' own tool reads them, and what they say of metrics that are given.

use std::{env, path::Path, process::Command};

use crate::support::skip;

/// Runs promtool on a file of `deploy/monitoring`; nothing where it is not on this machine and need not be.
fn promtool(subcommand: &str, file: &str) -> Option<String> {
    let program = env::var("TOOL_EXECUTOR_PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    match Command::new(&program).args([subcommand, "rules", file]).current_dir(directory).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(output.status.success(), "{said}");
            Some(said)
        }
        Err(error) => skip(&format!("{program}: {error}")),
    }
}

#[test]
fn the_rules_are_sound() {
    if let Some(said) = promtool("check", "alerts.yaml") {
        let rules = include_str!("../../../deploy/monitoring/alerts.yaml").matches("- alert:").count();
        assert!(said.contains(&format!("{rules} rules found")), "{said}");
    }
}

#[test]
fn the_rules_tell_of_what_is_wrong_and_of_nothing_else() {
    if let Some(said) = promtool("test", "alerts.test.yaml") {
        assert!(said.contains("SUCCESS"), "{said}");
    }
}
