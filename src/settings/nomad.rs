//! How Nomad is reached, and what the executor does there.

use std::{path::PathBuf, time::Duration};

use crate::backend::{HttpAuth, NomadAddress, NomadClientConfig, Token};

use super::{
    convert::{self, Written},
    model::{DAY, HOUR, SECOND, ZERO, duration, secret},
    reader::Reader,
};

/// Of the Nomad backend.
#[derive(Debug, Clone)]
pub struct NomadSettings {
    pub client: NomadClientConfig,
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
    let timeout = duration(r, "nomad.timeout", SECOND..=HOUR);
    let client = NomadClientConfig {
        token: r.optional("nomad.token", token),
        namespace: r.optional("nomad.namespace", convert::string),
        region: r.optional("nomad.region", convert::string),
        ca_cert: r.optional("nomad.ca_cert", convert::path),
        ca_path: r.optional("nomad.ca_path", convert::path),
        client_cert: r.optional("nomad.client_cert", convert::path),
        client_key: r.optional("nomad.client_key", convert::path),
        tls_server_name: r.optional("nomad.tls_server_name", convert::string),
        skip_verify: r.value("nomad.skip_verify", convert::boolean),
        http_auth: r.optional("nomad.http_auth", http_auth),
        ..NomadClientConfig::new(address.clone().unwrap_or(NomadAddress::Unix(PathBuf::new())), timeout)
    };
    if client.client_cert.is_some() != client.client_key.is_some() {
        r.tell(&["nomad.client_cert", "nomad.client_key"], "a client certificate and its key go together");
    }
    let settings = NomadSettings {
        client,
        placement_timeout: duration(r, "nomad.placement_timeout", ZERO..=DAY),
        lost_after: duration(r, "nomad.lost_after", SECOND..=30 * DAY),
        address_rewrite: r.value("nomad.address_rewrite", pairs),
        job_id: r.value("job_id", job_id),
        purge_job_on_start: r.value("purge_job_on_start", convert::boolean),
        purge_job_on_shutdown: r.value("purge_job_on_shutdown", convert::boolean),
        agent_tls: r.value("agent_tls", convert::boolean),
    };
    address.map(|_| settings)
}

fn token(written: Written<'_>) -> Result<Token, String> {
    secret(written).map(|secret| Token::new(secret.reveal()))
}

/// `user:password`, or a user alone.
fn http_auth(written: Written<'_>) -> Result<HttpAuth, String> {
    let both = secret(written)?;
    let (user, password) = both.reveal().split_once(':').unwrap_or((both.reveal(), ""));
    Ok(HttpAuth { user: user.to_owned(), password: Token::new(password) })
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
