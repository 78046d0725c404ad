//! How far a long transfer is, on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A short one is over before it is drawn.
const DRAWS_A_SECOND: u8 = 4;

/// Of so many bytes, if that is known.
pub(super) fn bar(bytes: Option<u64>) -> ProgressBar {
    let bar = match bytes {
        Some(bytes) => ProgressBar::new(bytes),
        None => ProgressBar::no_length(),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND));
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    // The template is this one.
    style.into_iter().for_each(|style| bar.set_style(style));
    bar
}
