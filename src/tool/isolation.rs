//! How well calls are isolated from the machine and from one another: a ladder, of which each machine reaches a rung.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A rung; the best comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Isolation {
    /// All namespaces, a mapped user, no capabilities, a system call filter.
    #[default]
    L0,
    /// The same, but /proc is the container's, as it is masked: calls see that other processes exist, and their command
    /// lines.
    L1,
    /// All namespaces but that of users: calls are an ordinary user of the machine that is the slot's alone. /proc is
    /// their own, or as with L1 where the kernel insists.
    #[serde(rename = "L1b")]
    L1B,
    /// No namespaces. A user of the slot's own, and Landlock: which files are seen, and that no process but the call's
    /// own can be signalled or looked into. There is no /workspace, no private /tmp, and the network is shared.
    L2,
    /// The same as the agent's own user, so that all rests on Landlock. What that does not govern is open: a call can
    /// change modes and times of whatever else is that user's, if it guesses the path, but neither read nor write it.
    #[serde(rename = "L2-")]
    L2Minus,
}

impl Isolation {
    /// Best first.
    pub const ALL: [Self; 5] = [Self::L0, Self::L1, Self::L1B, Self::L2, Self::L2Minus];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L1B => "L1b",
            Self::L2 => "L2",
            Self::L2Minus => "L2-",
        }
    }

    /// Slots have file systems, processes and network interfaces of their own.
    pub fn has_namespaces(self) -> bool {
        self <= Self::L1B
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no level of that name.
#[derive(Debug, thiserror::Error)]
#[error("must be L0, L1, L1b, L2 or L2-, and is {0:?}")]
pub struct UnknownLevel(String);

impl FromStr for Isolation {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let named = Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(text));
        named.ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_an_order_and_one_name_everywhere() {
        assert!(Isolation::ALL.is_sorted() && Isolation::L0 < Isolation::L2Minus);
        for level in Isolation::ALL {
            assert_eq!(level.to_string().parse::<Isolation>().unwrap(), level);
            assert_eq!(serde_json::to_value(level).unwrap(), level.name());
        }
        assert_eq!("l1B".parse::<Isolation>().unwrap(), Isolation::L1B);
        assert_eq!(
            "none".parse::<Isolation>().unwrap_err().to_string(),
            "must be L0, L1, L1b, L2 or L2-, and is \"none\""
        );
    }
}
