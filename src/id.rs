//! The names of things. Each kind is a type of its own, parsed once where it enters the program and printed as it
//! was given.

use std::{fmt, sync::Arc};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("must not be empty")]
    Empty,
    #[error("has {length} characters, and may have at most {max}")]
    TooLong { length: usize, max: usize },
    #[error("may only have characters of [A-Za-z0-9._:/@-], and has {0:?}")]
    Character(char),
}

/// The longest trajectory_id and call_id, in characters.
pub const MAX_ID_CHARACTERS: usize = 256;

fn check_length(text: &str) -> Result<(), InvalidId> {
    match text.chars().count() {
        0 => Err(InvalidId::Empty),
        length if length > MAX_ID_CHARACTERS => Err(InvalidId::TooLong { length, max: MAX_ID_CHARACTERS }),
        _ => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl $name {
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id! {
    /// Names one episode of an agent: 1 to 256 characters of `[A-Za-z0-9._:/@-]`.
    TrajectoryId
}

impl TrajectoryId {
    /// Checks length and characters.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        check_length(text)?;
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._:/@-".contains(*c))) {
            Some(other) => Err(InvalidId::Character(other)),
            None => Ok(Self(text.into())),
        }
    }
}

text_id! {
    /// Names one call of a trajectory for good: 1 to 256 characters.
    CallId
}

impl CallId {
    /// Checks the length.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        check_length(text)?;
        Ok(Self(text.into()))
    }

    /// A name for a call whose sender gave none.
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

text_id! {
    /// Who a trajectory belongs to: the name of the token that opened it.
    Tenant
}

impl Tenant {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The one tenant of a service without tokens.
    pub fn anonymous() -> Self {
        Self("".into())
    }
}

text_id! {
    /// A set of like containers; the default pool's name is empty.
    PoolName
}

impl PoolName {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

text_id! {
    /// A container: a local process's name or a Nomad allocation ID.
    ContainerId
}

impl ContainerId {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// A fresh name for a container of this machine; later ones sort after earlier ones.
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

/// What a trajectory is looked up by: two tenants may use the same id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrajectoryKey {
    pub tenant: Tenant,
    pub id: TrajectoryId,
}

impl fmt::Display for TrajectoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

number_id! {
    /// Counts the workspaces that a trajectory has had, from 1; 0 before the first.
    Generation
}

number_id! {
    /// Numbers the results of a trajectory, from 1; 0 is no result.
    Sequence
}

number_id! {
    /// Numbers the accepted calls of a trajectory, from 1: how executor and agent name a call to each other.
    CallNumber
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trajectory_id_has_1_to_256_plain_characters() {
        assert!(TrajectoryId::parse("run-7/episode_3:a@b.c").is_ok());
        assert_eq!(TrajectoryId::parse(""), Err(InvalidId::Empty));
        assert!(TrajectoryId::parse(&"x".repeat(256)).is_ok());
        assert_eq!(TrajectoryId::parse(&"x".repeat(257)), Err(InvalidId::TooLong { length: 257, max: 256 }));
        assert_eq!(TrajectoryId::parse("a b"), Err(InvalidId::Character(' ')));
    }

    #[test]
    fn a_call_id_is_counted_in_characters() {
        assert!(CallId::parse(&"é".repeat(256)).is_ok());
        assert!(CallId::parse(&"é".repeat(257)).is_err());
    }
}
