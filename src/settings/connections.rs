//! Connections of clients: how many, how long they may take to say something, and how they are kept private.

use std::{path::PathBuf, time::Duration};

use super::{
    convert::{self, Written},
    model::{DAY, HOUR, SECOND, duration, number},
    reader::Reader,
};

/// Of the one port.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// Open at a time.
    pub max_connections: usize,
    /// Requests and streams under way on each.
    pub max_streams: u32,
    /// From the connection to its first request's first bytes, a TLS handshake among it.
    pub handshake_timeout: Duration,
    /// For the head of an HTTP/1.1 request, from the end of the one before it.
    pub header_timeout: Duration,
    pub keepalive: KeepAlive,
    /// Without it everything is sent as it is.
    pub tls: Option<TlsSettings>,
}

/// How a client that has vanished is noticed.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    /// Of silence, before the client is asked whether it is there.
    pub interval: Duration,
    /// For its answer.
    pub timeout: Duration,
}

/// Files of PEM. They are read at the start, not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose certificates clients show.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

/// Whether clients must show a certificate, where there is an authority for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    #[default]
    Required,
    /// One without must have a token.
    Optional,
}

impl TlsSettings {
    /// Whether nobody comes in without a certificate.
    pub(super) fn mutual(&self) -> bool {
        self.client_ca.is_some() && self.client_auth == ClientAuth::Required
    }
}

pub(super) fn build(r: &mut Reader<'_>) -> ConnectionSettings {
    ConnectionSettings {
        max_connections: number(r, "max_connections", 1..=1_000_000),
        max_streams: number(r, "max_streams_per_connection", 1..=1_000_000),
        handshake_timeout: duration(r, "handshake_timeout", SECOND..=HOUR),
        header_timeout: duration(r, "header_timeout", SECOND..=HOUR),
        keepalive: KeepAlive {
            interval: duration(r, "keepalive.interval", SECOND..=DAY),
            timeout: duration(r, "keepalive.timeout", SECOND..=DAY),
        },
        tls: tls(r),
    }
}

fn tls(r: &mut Reader<'_>) -> Option<TlsSettings> {
    let certificate = r.optional("tls.certificate", convert::path);
    let key = r.optional("tls.key", convert::path);
    let client_ca = r.optional("tls.client_ca", convert::path);
    let client_auth = r.value("tls.client_auth", client_auth);
    let sound = r.sound(&["tls.certificate", "tls.key", "tls.client_ca"]);
    match (certificate, key) {
        (Some(certificate), Some(key)) => return Some(TlsSettings { certificate, key, client_ca, client_auth }),
        (None, None) if client_ca.is_some() && sound => r.tell(
            &["tls.client_ca", "tls.certificate"],
            "clients show their certificates to a server that has one: tls.certificate and tls.key are missing",
        ),
        (None, None) => {}
        _ if sound => r.tell(&["tls.certificate", "tls.key"], "a certificate and its key go together"),
        _ => {}
    }
    None
}

fn client_auth(written: Written<'_>) -> Result<ClientAuth, String> {
    match convert::string(written)?.as_str() {
        "required" => Ok(ClientAuth::Required),
        "optional" => Ok(ClientAuth::Optional),
        other => Err(format!("must be required or optional, and is {other:?}")),
    }
}
