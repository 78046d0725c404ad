//! How Nomad is reached, and what the executor does there.

use std::{path::PathBuf, time::Duration};

use crate::backend::NomadAddress;

use super::{
    Secret,
    convert::{self, Written},
    model::{DAY, HOUR, SECOND, ZERO, duration, secret},
    reader::Reader,
};

/// Of the Nomad backend.
#[derive(Debug, Clone)]
pub struct NomadSettings {
    pub address: NomadAddress,
    pub token: Option<Secret>,
    pub namespace: Option<String>,
    pub region: Option<String>,
    /// A file of certificates that sign the server's.
    pub ca_cert: Option<PathBuf>,
    /// A directory of such files.
    pub ca_path: Option<PathBuf>,
    /// With its key, what this executor shows.
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// What the server's certificate must be for, if not for the address's host.
    pub tls_server_name: Option<String>,
    pub skip_verify: bool,
    /// `user:password`, or a user alone.
    pub http_auth: Option<Secret>,
    /// Of each request.
    pub timeout: Duration,
    /// How long a container may wait for a node that has room.
    pub placement_timeout: Duration,
    /// When Nomad counts a container as lost whose node is cut off.
    pub lost_after: Duration,
    /// From the hosts that Nomad tells to those by which agents are reached from here.
    pub address_rewrite: Vec<(String, String)>,
    /// Of the default pool; begins the others'.
    pub job_id: String,
    pub purge_job_on_start: bool,
    pub purge_job_on_shutdown: bool,
    /// What executor and agents say to each other is encrypted.
    pub agent_tls: bool,
}

/// Reads the settings of Nomad, all of them in any case; none without an address.
pub(super) fn build(r: &mut Reader<'_>) -> Option<NomadSettings> {
    let address = r.optional("nomad.address", address);
    let rest = NomadSettings {
        address: NomadAddress::Unix(PathBuf::new()),
        token: r.optional("nomad.token", secret),
        namespace: r.optional("nomad.namespace", convert::string),
        region: r.optional("nomad.region", convert::string),
        ca_cert: r.optional("nomad.ca_cert", convert::path),
        ca_path: r.optional("nomad.ca_path", convert::path),
        client_cert: r.optional("nomad.client_cert", convert::path),
        client_key: r.optional("nomad.client_key", convert::path),
        tls_server_name: r.optional("nomad.tls_server_name", convert::string),
        skip_verify: r.value("nomad.skip_verify", convert::boolean),
        http_auth: r.optional("nomad.http_auth", secret),
        timeout: duration(r, "nomad.timeout", SECOND..=HOUR),
        placement_timeout: duration(r, "nomad.placement_timeout", ZERO..=DAY),
        lost_after: duration(r, "nomad.lost_after", SECOND..=30 * DAY),
        address_rewrite: r.value("nomad.address_rewrite", pairs),
        job_id: r.value("job_id", job_id),
        purge_job_on_start: r.value("purge_job_on_start", convert::boolean),
        purge_job_on_shutdown: r.value("purge_job_on_shutdown", convert::boolean),
        agent_tls: r.value("agent_tls", convert::boolean),
    };
    if rest.client_cert.is_some() != rest.client_key.is_some() {
        r.tell(&["nomad.client_cert", "nomad.client_key"], "a client certificate and its key go together");
    }
    address.map(|address| NomadSettings { address, ..rest })
}

fn address(written: Written<'_>) -> Result<NomadAddress, String> {
    let text = convert::string(written)?;
    text.parse().map_err(|error| format!("{error}, and is {text:?}"))
}

/// Without what a URL's path or a filter would need to be escaped; a child's name begins with it.
fn job_id(written: Written<'_>) -> Result<String, String> {
    let text = convert::string(written)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && (1..=64).contains(&text.len()) {
        Ok(text)
    } else {
        Err(format!("must be 1 to 64 characters of [A-Za-z0-9._-], and is {text:?}"))
    }
}

fn pairs(written: Written<'_>) -> Result<Vec<(String, String)>, String> {
    let one = |text: String| match text.split_once('=') {
        Some((from, to)) if !from.trim().is_empty() && !to.trim().is_empty() => {
            Ok((from.trim().to_owned(), to.trim().to_owned()))
        }
        _ => Err(format!("must be HOST=HOST, and is {text:?}")),
    };
    convert::list(written)?.into_iter().map(one).collect()
}
