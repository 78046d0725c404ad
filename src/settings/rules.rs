//! Whether settings go together.

use super::{Mistake, Settings, reader::Reader};
use crate::{backend::AgentDelivery, tool::Registry};

/// Settings that keep to every rule, if there are no mistakes: those found before, and those found here.
pub(super) fn check(
    mut settings: Settings,
    mut reader: Reader<'_>,
    warnings: &mut Vec<String>,
) -> (Settings, Vec<Mistake>) {
    ordered(&settings, &mut reader);
    client_certificates(&settings, &mut reader);
    exposure(&mut settings, &mut reader, warnings);
    user_ids(&settings, &mut reader);
    toolsets(&settings, &mut reader);
    super::sandbox::check(&settings, &mut reader);
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&settings.log.filter) {
        reader.tell(&["log.filter"], error);
    }
    if let Some(nomad) = &settings.nomad
        && settings.pools.iter().any(|pool| pool.acquire_timeout <= nomad.placement_timeout)
    {
        warnings.push(
            "nomad.placement_timeout is not shorter than acquire_timeout: whoever waits in vain is not told that there \
             is no room"
                .into(),
        );
    }
    if settings.link.orphan_timeout <= settings.link.agent_grace {
        warnings.push(
            "orphan_timeout is not longer than agent_grace: an agent may end itself while it is still sought".into(),
        );
    }
    (settings, reader.into_mistakes())
}

/// What must not be more than something else.
fn ordered(settings: &Settings, reader: &mut Reader<'_>) {
    let (calls, limits) = (&settings.calls, &settings.limits);
    let rules = [
        ("default_timeout", "max_timeout", calls.default_timeout <= calls.max_timeout),
        (
            "max_kept_result_bytes",
            "max_total_result_bytes",
            limits.max_kept_result_bytes <= limits.max_total_result_bytes,
        ),
        (
            "max_calls_in_flight",
            "max_total_calls_in_flight",
            limits.max_calls_in_flight <= limits.max_total_calls_in_flight,
        ),
        (
            "max_call_bytes_in_flight",
            "max_total_call_bytes_in_flight",
            limits.max_call_bytes_in_flight <= limits.max_total_call_bytes_in_flight,
        ),
        // Or a call could come that is never accepted.
        (
            "max_request_bytes",
            "max_call_bytes_in_flight",
            u64::from(limits.max_request_bytes) <= limits.max_call_bytes_in_flight,
        ),
    ];
    for (less, more, kept) in rules {
        if !kept && reader.sound(&[less, more]) {
            reader.tell(&[less, more], format_args!("{less} must not be more than {more}"));
        }
    }
}

/// Whoever comes without a certificate must still be somebody, and get what it came for.
fn client_certificates(settings: &Settings, reader: &mut Reader<'_>) {
    let Some(tls) = settings.connections.tls.as_ref().filter(|tls| tls.client_ca.is_some()) else { return };
    if !tls.mutual() && !settings.has_tokens() && reader.sound(&["token", "tokens_file"]) {
        reader.tell(
            &["tls.client_auth"],
            "where a client's certificate is optional, those without need a token: set one, or required",
        );
    }
    let downloads = settings.pools.iter().any(|pool| pool.container.agent == AgentDelivery::Artifact);
    if tls.mutual() && settings.nomad.is_some() && downloads {
        reader.tell(
            &["tls.client_auth", "agent"],
            "Nomad's nodes download the agent and have no client's certificate to show: set tls.client_auth to \
             optional (and a token), or agent to present",
        );
    }
}

/// A model must not drive the executor, nor a stranger: without a token or mutual TLS, slots have no network, through
/// which they would reach the executor's own port, and nobody beyond this machine may call.
fn exposure(settings: &mut Settings, reader: &mut Reader<'_>, warnings: &mut Vec<String>) {
    const PROOFS: [&str; 4] = ["token", "tokens_file", "tls.client_ca", "tls.client_auth"];
    let known = settings.knows_callers() || !reader.sound(&PROOFS);
    if !settings.listen.ip().is_loopback() && !known && !settings.insecure_listen && reader.sound(&["listen"]) {
        reader.tell(
            &["listen"],
            "listening beyond this machine needs a token or mutual TLS; insecure_listen = true goes without, where \
             something else keeps strangers out",
        );
    }
    if reader.sound(&["allow_network"]) {
        match reader.optional("allow_network", super::convert::boolean) {
            Some(true) if !known => reader.tell(
                &["allow_network"],
                "a network that is on needs a token or mutual TLS: a model could call the executor through it",
            ),
            Some(_) => {}
            None if known => settings.sandbox.network = true,
            None => warnings.push(
                "slots have no network: allow_network is not set, and without a token or mutual TLS a model could call \
                 the executor through it"
                    .into(),
            ),
        }
    }
}

/// Every slot of the machine has a kernel user id of its own.
fn user_ids(settings: &Settings, reader: &mut Reader<'_>) {
    const NAMES: [&str; 3] = ["uid_base", "slots", "max_containers"];
    let most = settings.pools.iter().map(|pool| u64::from(pool.slots) + 1).max().unwrap_or_default();
    let containers: u64 = settings.pools.iter().map(|pool| u64::from(pool.max_containers)).sum();
    let slots = most * containers;
    // The last id, -1, means "no change" to the kernel.
    if u64::from(settings.sandbox.uid_base) + slots >= u64::from(u32::MAX) && reader.sound(&NAMES) {
        reader.tell(&NAMES, format_args!("there are no {slots} user ids from uid_base on"));
    }
}

fn toolsets(settings: &Settings, reader: &mut Reader<'_>) {
    for (path, names) in
        [("enabled_toolsets", &settings.tools.enabled), ("disabled_toolsets", &settings.tools.disabled)]
    {
        if let Err(unknown) = Registry::new(names, &[]) {
            reader.tell(&[path], unknown);
        }
    }
}
