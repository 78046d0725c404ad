//! The limits of a slot, in the words in which people and clients are told of them.

/// One limit of every slot of a container, and what holds it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLimit {
    /// The setting's name.
    pub name: String,
    /// As it is set, for people: `4 GiB`.
    pub value: String,
    /// For people: `cgroup v2`, `tmpfs`, or why there is nothing.
    pub mechanism: String,
}

impl SlotLimit {
    pub fn new(name: &str, value: impl Into<String>, mechanism: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: value.into(), mechanism: mechanism.into() }
    }
}

impl std::fmt::Display for SlotLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.name, self.value, self.mechanism)
    }
}

/// All of them in one line.
pub fn list(limits: &[SlotLimit]) -> String {
    limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A number of bytes for people, exact: `4 GiB`, `1536 KiB`, `1000 bytes`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(shift, _): &&(u32, &str)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift;
    match UNITS.iter().find(whole) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        for (number, text) in [
            (4 << 30, "4 GiB"),
            (1536 << 10, "1536 KiB"),
            (512 << 20, "512 MiB"),
            (1000, "1000 bytes"),
            (0, "0 bytes"),
            ((1 << 30) + 1, "1073741825 bytes"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
