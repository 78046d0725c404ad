//! The flags of `serve` that are settings.

use std::path::PathBuf;

/// Settings by flag: they win over everything else, and a later flag over an earlier one.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeFlags {
    /// The settings file [default: tool-executor.toml, if there is one here]
    #[arg(long, value_name = "FILE", overrides_with = "config")]
    pub config: Option<PathBuf>,

    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDRESS:PORT", overrides_with = "listen")]
    pub listen: Option<String>,

    /// The directory for sockets, workspaces and what a restart needs
    #[arg(long, value_name = "DIRECTORY", overrides_with = "state_dir")]
    pub state_dir: Option<String>,

    /// Any other setting, by its name in the settings file; may be given more than once
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

/// A setting that a flag gives.
pub(super) struct Given {
    /// The flag, for people.
    pub(super) source: String,
    /// Name and value, if the flag has both.
    pub(super) setting: Option<(String, String)>,
}

impl ServeFlags {
    /// What the flags give; of two for one setting the later wins.
    pub(super) fn given(&self) -> Vec<Given> {
        let set = self.set.iter().map(|text| match text.split_once('=') {
            Some((name, value)) => Given {
                source: format!("--set {}", name.trim()),
                setting: Some((name.trim().to_owned(), value.trim().to_owned())),
            },
            None => Given { source: format!("--set {text}"), setting: None },
        });
        let named = |flag: &str, name: &str, value: &Option<String>| {
            let value = value.clone()?;
            Some(Given { source: flag.to_owned(), setting: Some((name.to_owned(), value)) })
        };
        let plain = [named("--listen", "listen", &self.listen), named("--state-dir", "state_dir", &self.state_dir)];
        set.chain(plain.into_iter().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: ServeFlags,
    }

    #[test]
    fn the_later_flag_wins() {
        let line = ["serve", "--listen", "a:1", "--set", "slots=1", "--listen", "b:2", "--set=lease = 1h = x"];
        let given = Program::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).flags.given();
        let settings: Vec<_> = given.into_iter().filter_map(|given| given.setting).collect();
        let expected = [("slots", "1"), ("lease", "1h = x"), ("listen", "b:2")];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
