//! `check`: what this machine can do, and with which settings `serve` would start.

use std::process::ExitCode;

use super::{Done, containers, listen::listen, print, rooms, tenants};
use crate::{
    backend::{Finding, Verdict},
    external,
    settings::{self, ServeFlags},
    tool::{Isolation, chain},
};

/// Prints what it finds; the exit status is 0 only if `serve` would work.
pub(super) fn run(flags: ServeFlags) -> Done {
    let loaded = settings::read(flags)?;
    print(settings::render(&loaded).as_bytes())?;
    for warning in &loaded.warnings {
        print(format!("warning: {warning}\n").as_bytes())?;
    }
    let settings = loaded.settings;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut fine = true;
        let mut say = |what: &str, found: Result<String, String>| {
            let (mark, text) = match &found {
                Ok(text) => ("ok", text),
                Err(text) => ("FAILED", text),
            };
            fine &= found.is_ok();
            print(format!("{what}: {mark}: {text}\n").as_bytes())
        };
        let listened = listen(settings.listen).await;
        say("listen", listened.map(|_| settings.listen.to_string()).map_err(|error| chain(&error)))?;
        match rooms::tls(&settings) {
            Ok(None) => {}
            Ok(Some(tls)) => say("tls", Ok(tls.describe()))?,
            Err(error) => say("tls", Err(chain(&error)))?,
        }
        if let Some(path) = &settings.access.tokens_file {
            say("tokens file", Ok(tenants::told(path, &settings.access.tenants)))?;
        }
        let state = super::state_dir::StateDir::take(&settings.state_dir);
        match &state {
            Ok(state) => say("state directory", Ok(state.path().display().to_string()))?,
            Err(error) => say("state directory", Err(chain(error)))?,
        }
        match (&settings.nomad, state) {
            (Some(_), _) => {
                for Finding { what, verdict } in containers::inspect(&settings).await? {
                    match verdict {
                        Verdict::Fine(text) => say(&what, Ok(text))?,
                        Verdict::Warning(text) => say(&what, Ok(format!("warning: {text}")))?,
                        Verdict::Failed(text) => say(&what, Err(text))?,
                    }
                }
            }
            (None, Ok(state)) => {
                let probed = rooms::probe(&settings, state.path()).await;
                let level = probed.as_ref().ok().copied();
                let told = |level: Isolation| match level.improvement() {
                    None => level.to_string(),
                    Some(improvement) => format!("{level}: {improvement}"),
                };
                say("isolation", probed.map(told).map_err(|error| error.to_string()))?;
                if let Some(level) = level {
                    for limit in rooms::probe_limits(&settings, level, state.path()).await {
                        print(format!("limit: {limit}\n").as_bytes())?;
                    }
                }
            }
            (None, Err(_)) => {}
        }
        for (source, said) in external::inspect(&rooms::external_config(&settings)).await? {
            // It may come later.
            let text = match said {
                Ok(tools) => format!("{tools} tools"),
                Err(cause) => format!("warning: it does not say what tools it has: {cause}"),
            };
            say(&source, Ok(text))?;
        }
        Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
