//! How a script is brought to its end, and the shell with it only if nothing else helps.

use std::time::Duration;

/// As typed: Ctrl-C and Ctrl-\.
const INTERRUPT: &[u8] = b"\x03";
const QUIT: &[u8] = b"\x1c";

/// What is done to a script that is to end, one after the other, each after so long.
pub(super) const STEPS: [(Duration, Step); 6] = [
    (Duration::ZERO, Step::Type(INTERRUPT)),
    (Duration::from_millis(50), Step::Ask),
    (Duration::from_millis(450), Step::Type(INTERRUPT)),
    (Duration::from_millis(50), Step::Type(QUIT)),
    (Duration::from_millis(50), Step::Ask),
    (Duration::from_millis(900), Step::Kill),
];

#[derive(Clone, Copy)]
pub(super) enum Step {
    Type(&'static [u8]),
    Ask,
    Kill,
}
