//! What all sources have in common: the HTTP client, what is read of an answer, and when a call may be tried again.

use std::{error::Error as _, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect, retry,
};
use rustls::{
    ClientConfig as TlsConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::{Instant, sleep};

use super::config::{SourceConfig, SourceError};
use crate::tool::{ExternalEnd, ExternalEnding, Failure, job::Phases};

/// Whoever does not connect within this has surely not been asked.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the 5 s after which the most common Python server closes a connection: one that it is about to close is not
/// used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// A server keeps its tool to the call's timeout, too, and what it then says is worth more than that it was late.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// For a list of tools.
pub(super) const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a call that was not sent, the first among them.
const MAX_TRIES: usize = 4;
/// Of an answer that makes no sense: so much is told.
const MAX_TOLD_BYTES: usize = 300;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) failure: Failure,
    pub(super) unsent: bool,
    pub(super) cause: String,
}

impl Unanswered {
    pub(super) fn protocol(cause: String) -> Self {
        Self { failure: Failure::Protocol, unsent: false, cause }
    }
}

/// Connects nowhere yet.
pub(super) fn client(config: &SourceConfig) -> Result<Client, SourceError> {
    let name = || config.name.clone();
    let mut headers = HeaderMap::new();
    if let Some(token) = &config.token {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
        let mut value = value.map_err(|_| SourceError::Token { name: name() })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let roots = if config.url.starts_with("https") { roots(config)? } else { RootCertStore::empty() };
    let tls = TlsConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| SourceError::Tls { name: name(), source })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .http1_only()
        .no_proxy()
        .referer(false)
        // A redirect would carry the token elsewhere, and might run the call twice.
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .connect_timeout(MAX_CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls)
        .default_headers(headers)
        .build()
        .map_err(|source| SourceError::Client { name: name(), source })
}

/// Who may have signed a server's certificate.
fn roots(config: &SourceConfig) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    // A machine's list may hold some that cannot be read: those are not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = &config.ca_cert else { return Ok(roots) };
    let (name, path) = (|| config.name.clone(), || path.clone());
    let unread = |source| SourceError::Certificates { name: name(), path: path(), source };
    let machines = roots.len();
    for certificate in CertificateDer::pem_file_iter(path()).map_err(unread)? {
        let untrusted = |source| SourceError::Untrusted { name: name(), path: path(), source };
        roots.add(certificate.map_err(unread)?).map_err(untrusted)?;
    }
    if roots.len() == machines {
        return Err(SourceError::NoCertificate { name: name(), path: path() });
    }
    Ok(roots)
}

/// A call's tries: another for as long as it surely was not sent. Tries that do not reach the source are dispatch; they
/// too come to an end with the call's time.
pub(super) struct Tries {
    last: Instant,
    delays: ExponentialBackoff,
}

impl Tries {
    pub(super) fn new(time: Duration) -> Self {
        // Jittered, so that many callers do not come back at once.
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(1))
            .with_max_times(MAX_TRIES - 1)
            .with_jitter();
        Self { last: Instant::now() + time, delays: delays.build() }
    }

    /// What the call came to; none, after a while, if it is to be tried again.
    pub(super) async fn after(
        &mut self,
        answer: Result<ExternalEnd, Unanswered>,
        mut phases: Phases,
    ) -> Option<ExternalEnding> {
        let unanswered = match answer {
            Ok(end) => return Some(ExternalEnding { end, phases }),
            Err(unanswered) => unanswered,
        };
        if unanswered.unsent {
            phases = Phases::default();
            if let Some(delay) = self.delays.next()
                && Instant::now() + delay < self.last
            {
                sleep(delay).await;
                return None;
            }
        }
        let Unanswered { failure, unsent, cause } = unanswered;
        Some(ExternalEnding { end: ExternalEnd::Unavailable { failure, unsent, cause }, phases })
    }
}

/// All of a good answer, of at most so many bytes.
pub(super) async fn read(mut response: Response, max_bytes: usize) -> Result<Bytes, Unanswered> {
    let status = response.status();
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > max_bytes => {
                return Err(Unanswered::protocol(format!("the answer is larger than {max_bytes} bytes")));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) if !status.is_success() => break,
            Err(error) => return Err(Unanswered::protocol(format!("the answer breaks off: {}", chain(&error)))),
        }
    }
    // A tool may have run before its server failed: a status does not say.
    if !status.is_success() {
        return Err(Unanswered::protocol(format!("it answered {status}: {}", told(&body))));
    }
    Ok(body.freeze())
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Unanswered> {
    serde_json::from_slice(body)
        .map_err(|error| Unanswered::protocol(format!("the answer makes no sense: {error}: {}", told(body))))
}

/// A try that found nobody was not sent; of any other that failed, nobody knows.
pub(super) fn sent(response: reqwest::Result<Response>) -> Result<Response, Unanswered> {
    response.map_err(|error| Unanswered {
        failure: Failure::Unreachable,
        unsent: error.is_connect(),
        cause: chain(&error),
    })
}

fn told(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_TOLD_BYTES)]).into_owned();
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// The causes; the address is left away, since it may hold a password.
fn chain(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> =
        std::iter::successors(error.source(), |cause| (*cause).source()).map(ToString::to_string).collect();
    causes.dedup();
    if causes.is_empty() { "the connection broke".to_owned() } else { causes.join(": ") }
}
