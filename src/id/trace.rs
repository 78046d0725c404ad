//! Where a caller's own trace comes in: W3C Trace Context, level 1. What is malformed is as if it were not there.

use std::fmt;

/// The longest `tracestate` that is passed on, in bytes: as much as everybody must.
const MAX_STATE_BYTES: usize = 512;
/// Of a `traceparent` of version 0.
const LENGTH: usize = 55;

/// A span of the caller's, of which what is done for it is a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
    /// For other systems of tracing; may be empty.
    state: Box<str>,
}

/// Of all spans of a trace: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl TraceParent {
    /// Of the headers of these names; `state` may be empty, and is dropped if it is too long or not of visible characters.
    pub fn parse(parent: &str, state: &str) -> Option<Self> {
        let bytes = parent.as_bytes();
        let [version] = hex(bytes.get(..2)?)?;
        let whole = match version {
            0 => bytes.len() == LENGTH,
            // The one that never is.
            0xff => false,
            // A later one begins as this one does.
            _ => bytes.len() == LENGTH || bytes.get(LENGTH) == Some(&b'-'),
        };
        if !whole || [2, 35, 52].iter().any(|&at| bytes[at] != b'-') {
            return None;
        }
        let (trace, span, [flags]) = (hex(&bytes[3..35])?, hex(&bytes[36..52])?, hex(&bytes[53..LENGTH])?);
        if trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let sound = state.len() <= MAX_STATE_BYTES && state.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        Some(Self { trace, span, sampled: flags & 1 == 1, state: if sound { state } else { "" }.into() })
    }

    pub fn trace_id(&self) -> TraceId {
        TraceId(self.trace)
    }

    /// The caller's span.
    pub fn span_id(&self) -> [u8; 8] {
        self.span
    }

    /// Whether the caller keeps its part of the trace.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The `tracestate`; may be empty.
    pub fn state(&self) -> &str {
        &self.state
    }
}

impl TraceId {
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Small letters alone, as the standard has it.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(*pair.get(1)?)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_sound_one_is_read() {
        let parent = TraceParent::parse(PARENT, "congo=t61rcWkgMzE").expect("it is sound");
        assert_eq!(parent.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id(), [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(parent.is_sampled());
        assert_eq!(parent.state(), "congo=t61rcWkgMzE");
        let unsampled = TraceParent::parse(&PARENT.replace("-01", "-02"), "").expect("it is sound");
        assert!(!unsampled.is_sampled(), "other flags mean other things");
        for later in ["01", "cc"] {
            let later = PARENT.replacen("00", later, 1);
            assert!(TraceParent::parse(&later, "").is_some(), "{later}");
            assert!(TraceParent::parse(&(later.clone() + "-more"), "").is_some(), "{later}");
            assert!(TraceParent::parse(&(later + "more"), "").is_none());
        }
    }

    #[test]
    fn a_malformed_one_is_none() {
        for malformed in [
            "",
            "00",
            "00-",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceParent::parse(malformed, ""), None, "{malformed:?}");
        }
        let long = "a=".to_owned() + &"b".repeat(MAX_STATE_BYTES);
        for state in [&long, "a=\u{e9}", "a=\r\nb"] {
            assert_eq!(TraceParent::parse(PARENT, state).expect("without it").state(), "");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(parent in "\\PC{0,60}", near in "[0-9a-f]{2}.[0-9a-f]{32}.[0-9a-f]{16}.[0-9a-f]{2}-?") {
            let _ = TraceParent::parse(&parent, &near);
            let _ = TraceParent::parse(&near, &parent);
        }
    }
}
