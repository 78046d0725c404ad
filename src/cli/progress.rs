//! How far a long transfer is, on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Enough to see that it goes on.
const DRAWS_A_SECOND: u8 = 4;

/// Of so many bytes, if that is known; [`known`] may tell it later. It is gone with the transfer.
pub(super) fn bar(bytes: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND));
    match bytes {
        Some(bytes) => known(&bar, bytes),
        // How much is left of an archive that is made on its way is not known.
        None => styled(&bar, "{bytes}, {bytes_per_sec}"),
    }
    bar
}

/// It is of so many bytes.
pub(super) fn known(bar: &ProgressBar, bytes: u64) {
    styled(bar, "{bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left");
    bar.set_length(bytes);
}

fn styled(bar: &ProgressBar, template: &str) {
    // The templates are those above.
    ProgressStyle::with_template(template).into_iter().for_each(|style| bar.set_style(style));
}
