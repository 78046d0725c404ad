//! What has scrolled off a screen, as text: the emulation keeps 32 bytes for every place of a line, which of wide lines
//! would be more memory than a slot's screen may cost the agent.

use std::collections::VecDeque;

use vt100::{
    Callbacks,
    capture::{BasicFormattedCaptureState, RowContents, basic_formatted_to_plain},
};

/// Lines, at most.
const MAX_LINES: usize = 10_000;
/// Of all lines, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// What a line takes up beside its text.
const ENVELOPE: usize = size_of::<Box<str>>();

/// See the module.
#[derive(Default)]
pub(super) struct History {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    has_dropped: bool,
    /// The line that scrolls off, with its colours.
    row: String,
}

impl History {
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| &**line)
    }

    /// Whether there were lines that are not kept any more.
    pub(super) fn has_dropped(&self) -> bool {
        self.has_dropped
    }

    fn push(&mut self, line: Box<str>) {
        self.bytes += line.len() + ENVELOPE;
        self.lines.push_back(line);
        while (self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES)
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len() + ENVELOPE;
            self.has_dropped = true;
        }
    }
}

impl Callbacks for History {
    fn on_scroll(&mut self, contents: RowContents<'_>, alternate_screen: bool) {
        // What a program scrolls that fills the screen is not what was printed before it.
        if alternate_screen {
            return;
        }
        self.row.clear();
        // Nothing fails that is written to a string.
        let _ = contents.write_formatted_basic(&mut self.row, &mut BasicFormattedCaptureState::new());
        let line: String = basic_formatted_to_plain(&self.row).collect();
        self.push(line.trim_end().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_by_number_and_by_size() {
        let mut history = History::default();
        (0..=MAX_LINES).for_each(|line| history.push(line.to_string().into()));
        assert!(history.has_dropped() && history.lines().eq((1..=MAX_LINES).map(|line| line.to_string())));
        let mut history = History::default();
        let wide = "é".repeat(1000);
        (0..5000).for_each(|_| history.push(wide.clone().into()));
        let kept = history.lines().count();
        assert!(history.has_dropped() && kept * (wide.len() + ENVELOPE) <= MAX_BYTES && kept > 2000, "{kept}");
        assert_eq!(history.bytes, kept * (wide.len() + ENVELOPE));
    }
}
