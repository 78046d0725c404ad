//! A file of tenants that cannot be used is told before anything starts.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use tempfile::TempDir;

use crate::support::server::Server;

fn run(subcommand: &str, file: &Path) -> Output {
    let state = TempDir::new().expect("a directory for the state");
    let mut command = Server::command_of(subcommand, &state);
    command.env("TOOL_EXECUTOR_TOKENS_FILE", file).output().expect("the binary starts")
}

#[test]
fn mistakes_are_told_at_the_start_and_by_check() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("tokens.toml");
    fs::write(&file, "[red]\ntoken = \"s3cret two\"\n[blue]\ntokn = \"s3cret\"\n").expect("a file");
    for (file, told) in [
        (&file, &["there are 2 mistakes", "red: token must be", "blue: there is no \"tokn\""][..]),
        (&directory.path().join("missing"), &["there is a mistake", "cannot be read"]),
    ] {
        for subcommand in ["serve", "check"] {
            let output = run(subcommand, file);
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!output.status.success(), "{subcommand}: {text}");
            assert!(told.iter().all(|told| text.contains(told)), "{subcommand}: {text}");
            assert!(text.contains(&file.display().to_string()) && !text.contains("s3cret"), "{subcommand}: {text}");
        }
    }
}

#[test]
fn a_file_that_models_might_read_is_warned_of() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("tokens.toml");
    fs::write(&file, "[red]\ntoken = \"s3cret\"\n").expect("a file");
    for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
        let text = String::from_utf8_lossy(&run("check", &file).stdout).into_owned();
        assert!(text.contains("tokens file: ok: tenants: 1, tokens: 1"), "{text}");
        assert_eq!(text.contains("chmod 600"), warned, "{mode:o}: {text}");
    }
}
