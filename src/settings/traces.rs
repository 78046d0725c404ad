//! Where spans go.

use super::{
    convert::{self, Written},
    model::url,
    reader::Reader,
};

/// Of spans for a collector.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The address of a collector that takes OTLP over gRPC.
    pub endpoint: String,
    /// From 0 to 1: how many trajectories are traced of which no caller has decided.
    pub ratio: f64,
}

pub(super) fn build(r: &mut Reader<'_>) -> Option<TraceSettings> {
    let ratio = r.value("traces.ratio", ratio);
    let endpoint = r.optional("traces.endpoint", url)?;
    if !cfg!(feature = "otlp") {
        r.tell(&["traces.endpoint"], "needs a program that was built with the feature otlp, and this one was not");
    }
    Some(TraceSettings { endpoint, ratio })
}

fn ratio(written: Written<'_>) -> Result<f64, String> {
    let text = convert::string(written)?;
    match text.parse() {
        Ok(ratio @ 0.0..=1.0) => Ok(ratio),
        _ => Err(format!("must be between 0 and 1, and is {text:?}")),
    }
}
