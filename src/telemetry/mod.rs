//! Logging, to stderr, since stdout belongs to what a command answers; metrics; and spans for a collector.

mod metrics;
#[cfg(feature = "otlp")]
mod otlp;

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::ParseError, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::metrics::{Answer, Metrics, Pool, Snapshot};
#[cfg(feature = "otlp")]
pub use self::otlp::Traces;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("the log filter cannot be understood")]
    Filter(#[source] ParseError),
    #[error("logging is set up already")]
    Again(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets logging up for the whole process; once. `filter` is what `RUST_LOG` may be.
pub fn init(format: Format, filter: &str) -> Result<(), InitError> {
    let filter = EnvFilter::try_new(filter).map_err(InitError::Filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).try_init(),
        Format::Json => registry.with(lines.json()).try_init(),
    }
    .map_err(InitError::Again)
}
