//! The names of things. Each kind is a type of its own, parsed once where it enters the program and printed as it
//! was given.

mod trace;

use std::{fmt, sync::Arc};

pub use self::trace::{TraceId, TraceParent};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("must not be empty")]
    Empty,
    #[error("has {length} characters, and may have at most {max}")]
    TooLong { length: usize, max: usize },
    #[error("may only have characters of [A-Za-z0-9._:/@-], and has {0:?}")]
    Character(char),
    #[error("must not have control characters, and has {0:?}")]
    Control(char),
}

/// The longest trajectory_id, call_id and tenant's name, in characters.
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
    /// Who a trajectory belongs to: the name of the token that opened it, or of the client's certificate. 1 to 256
    /// characters, none of them a control character; the anonymous one has none.
    Tenant
}

impl Tenant {
    /// As it was recorded.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Checks length and characters.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        check_length(text)?;
        match text.chars().find(|c| c.is_control()) {
            Some(control) => Err(InvalidId::Control(control)),
            None => Ok(Self(text.into())),
        }
    }

    /// The one tenant of a service that does not ask who calls; and whoever has the service's own token.
    pub fn anonymous() -> Self {
        Self("".into())
    }

    /// None of the anonymous one.
    pub fn name(&self) -> Option<&str> {
        Some(self.as_str()).filter(|name| !name.is_empty())
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

impl TrajectoryKey {
    /// What has been printed; none if nothing can have been printed so.
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, id) = match text.rsplit_once('#') {
            Some((tenant, id)) => (Tenant::parse(tenant).ok()?, id),
            None => (Tenant::anonymous(), text),
        };
        Some(Self { tenant, id: TrajectoryId::parse(id).ok()? })
    }
}

/// `ID`, or `TENANT#ID`: no two keys look the same, because no id has a `#`.
impl fmt::Display for TrajectoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tenant.name() {
            Some(tenant) => write!(f, "{tenant}#{}", self.id),
            None => self.id.fmt(f),
        }
    }
}

number_id! {
    /// Counts the workspaces that a trajectory has had, from 1; 0 before the first.
    Generation
}

number_id! {
    /// Tells a life of a trajectory from an earlier one of the same id: when it was opened, in nanoseconds since 1970. 0
    /// where that is not known.
    Opening
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
    fn a_tenant_has_a_name_that_can_be_shown() {
        let uri = "spiffe://cluster/ns/a trainer";
        assert_eq!(Tenant::parse(uri).map(|tenant| tenant.name().map(str::to_owned)), Ok(Some(uri.to_owned())));
        assert_eq!(Tenant::parse(""), Err(InvalidId::Empty));
        assert_eq!(Tenant::parse("a\nb"), Err(InvalidId::Control('\n')));
        assert_eq!(Tenant::anonymous().name(), None);
    }

    #[test]
    fn no_two_keys_look_the_same() {
        let key = |tenant: &str, id: &str| {
            TrajectoryKey { tenant: Tenant::new(tenant), id: TrajectoryId::parse(id).expect("it is one") }.to_string()
        };
        assert_eq!([key("", "a/t"), key("a", "t")], ["a/t", "a#t"]);
        assert_ne!(key("a#b", "c"), key("a", "b/c"));
    }

    #[test]
    fn what_is_printed_of_a_key_tells_it() {
        for text in ["a/t", "a#t", "a#b#c", "a tenant#t"] {
            assert_eq!(TrajectoryKey::parse(text).map(|key| key.to_string()).as_deref(), Some(text));
        }
        assert_eq!(
            TrajectoryKey::parse("a#t").and_then(|key| key.tenant.name().map(str::to_owned)).as_deref(),
            Some("a")
        );
        assert!(["", "#", "#t", "a#", "a b", "a\nb#t"].iter().all(|text| TrajectoryKey::parse(text).is_none()));
    }

    #[test]
    fn a_call_id_is_counted_in_characters() {
        assert!(CallId::parse(&"é".repeat(256)).is_ok());
        assert!(CallId::parse(&"é".repeat(257)).is_err());
    }
}
