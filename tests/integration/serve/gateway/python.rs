//! Clients such as the old system's: Python's own, and the `requests` library, where they are on the machine.

use std::process::Command;

use crate::{
    serve::clients,
    support::{server::Server, skip},
};

#[test]
fn a_python_client_does_not_notice() {
    let server = Server::with(&[("TOKEN", "s3cret")]);
    let said = clients::run(
        Command::new(clients::python_program())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/http_client.py"))
            .args([&format!("http://{}", server.address), "s3cret"]),
    );
    let Some(said) = said else { return };
    assert!(said.starts_with("urllib: ok\n"), "{said}");
    if !said.contains("requests: ok\n") {
        skip::<()>("requests for Python");
    }
}
