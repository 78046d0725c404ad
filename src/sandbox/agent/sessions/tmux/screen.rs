//! A terminal's screen, what has scrolled off it, and a recording of what was printed. All of it is bounded.

use std::{num::NonZeroU16, time::Instant};

use vt100::Parser;

use super::{
    super::log::{Log, broken_end},
    history::History,
};

/// Lines that have scrolled off and that a screen gets back when it becomes higher: of the highest, all.
const BACK: usize = 200;
/// Of the recording, the last bytes.
const RECORDING: usize = 1 << 20;

/// See the module.
pub(super) struct Screen {
    parser: Parser<History>,
    began: Instant,
    recording: Log,
    cursor: u64,
    /// The begin of a character.
    held: Vec<u8>,
    pub(super) last_output: Option<Instant>,
}

/// What is kept of all that was on the screen, as much of it as was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entire {
    pub(super) text: String,
    /// Lines above it that are kept, and were more than was asked for.
    pub(super) left_out: usize,
    /// There were others before them that are not kept any more.
    pub(super) has_dropped: bool,
}

/// Lines of the recording.
pub(super) struct Lines {
    pub(super) text: String,
    pub(super) dropped: u64,
    pub(super) next: u64,
}

impl Screen {
    pub(super) fn new(width: u16, height: u16) -> Self {
        let mut recording = Log::new(RECORDING);
        recording.push(format!("{{\"version\":2,\"width\":{width},\"height\":{height}}}\n").as_bytes());
        let [rows, columns] = sizes(width, height);
        let parser = Parser::new_with_callbacks(rows, columns, BACK, History::default());
        Self { parser, began: Instant::now(), recording, cursor: 0, held: Vec::new(), last_output: None }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        let now = Instant::now();
        self.last_output = Some(now);
        self.parser.process(data);
        self.held.extend_from_slice(data);
        let whole = self.held.len() - broken_end(&self.held);
        let text = String::from_utf8_lossy(&self.held[..whole]);
        let text = serde_json::Value::from(text.into_owned());
        let seconds = now.duration_since(self.began).as_secs_f64();
        self.recording.push(format!("[{seconds:.6},\"o\",{text}]\n").as_bytes());
        self.held.drain(..whole);
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (u16, u16) {
        let (rows, columns) = self.parser.screen().size();
        (columns.get(), rows.get())
    }

    pub(super) fn resize(&mut self, width: u16, height: u16) {
        let [rows, columns] = sizes(width, height);
        self.parser.set_size(rows, columns);
        let seconds = self.began.elapsed().as_secs_f64();
        self.recording.push(format!("[{seconds:.6},\"r\",\"{width}x{height}\"]\n").as_bytes());
    }

    pub(super) fn application_cursor(&self) -> bool {
        self.parser.screen().application_cursor()
    }

    /// What is to be seen now, without white space at the ends of lines and of the screen.
    pub(super) fn text(&self) -> String {
        let screen = self.parser.screen();
        let rows: Vec<String> = screen.rows(0, screen.size().1.get()).collect();
        tidy(rows.iter().map(String::as_str))
    }

    /// The last lines that are kept, those on the screen among them, at most so many bytes.
    pub(super) fn entire(&mut self, max: usize) -> Entire {
        let (height, width) = self.parser.screen().size();
        let (height, width) = (height.get(), width.get());
        let (screen, history) = self.parser.screen_and_callbacks_mut();
        // A program that fills the screen has no lines above it.
        let above = Some(&*history).filter(|_| !screen.alternate_screen());
        let mut lines: Vec<String> = above.into_iter().flat_map(History::lines).map(str::to_owned).collect();
        screen.set_scrollback(usize::MAX);
        let mut back = screen.scrollback();
        while back > 0 {
            screen.set_scrollback(back);
            let count = back.min(usize::from(height));
            lines.extend(screen.rows(0, width).take(count));
            back -= count;
        }
        screen.set_scrollback(0);
        lines.extend(screen.rows(0, width));
        let has_dropped = history.has_dropped();
        let text = tidy(lines.iter().map(String::as_str));
        let (left_out, text) = newest(&text, max);
        Entire { text: text.to_owned(), left_out, has_dropped }
    }

    /// Whole lines of the recording since the last time; with `reset`, from its begin.
    pub(super) fn lines(&mut self, max: usize, reset: bool) -> Lines {
        let from = if reset { 0 } else { self.cursor };
        let mut part = self.recording.read(from, max);
        // Some line's middle.
        if part.dropped > 0 {
            let rest = part.data.iter().position(|byte| *byte == b'\n').map_or(part.data.len(), |end| end + 1);
            part.data.drain(..rest);
            part.offset += rest as u64;
        }
        // A line that is longer than what was asked for is given in parts.
        if let Some(end) = part.data.iter().rposition(|byte| *byte == b'\n') {
            part.data.truncate(end + 1);
        }
        self.cursor = part.next();
        Lines { text: String::from_utf8_lossy(&part.data).into_owned(), dropped: part.dropped, next: part.next() }
    }
}

fn sizes(width: u16, height: u16) -> [NonZeroU16; 2] {
    [height, width].map(|size| NonZeroU16::new(size).unwrap_or(NonZeroU16::MIN))
}

/// The last lines of a text, at most so many bytes; and how many lines before them are not among these. Of a line that
/// is too long for itself, the end.
fn newest(text: &str, max: usize) -> (usize, &str) {
    if text.len() <= max {
        return (0, text);
    }
    let from = text.ceil_char_boundary(text.len() - max);
    // Where a line begins, if one does.
    let from = match text.as_bytes()[from - 1..].iter().position(|byte| *byte == b'\n') {
        Some(end) if from + end < text.len() => from + end,
        _ => from,
    };
    (text[..from].matches('\n').count(), &text[from..])
}

fn tidy<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<&str> = lines.map(str::trim_end).collect();
    lines.join("\n").trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_screen_and_what_scrolled_off() {
        let mut screen = Screen::new(20, 3);
        for line in 1..=8 {
            screen.push(format!("line {line}\r\n").as_bytes());
        }
        assert_eq!(screen.text(), "line 7\nline 8");
        let all: Vec<String> = (1..=8).map(|line| format!("line {line}")).collect();
        let entire = |text: &str, left_out| Entire { text: text.to_owned(), left_out, has_dropped: false };
        assert_eq!(screen.entire(usize::MAX), entire(&all.join("\n"), 0));
        assert_eq!(screen.entire(13), entire("line 7\nline 8", 6));
        screen.push(b"\x1b[2J\x1b[H\x1b[31mred");
        assert_eq!(screen.text(), "red");
    }

    #[test]
    fn history_is_whole_until_it_says_that_it_is_not() {
        let mut screen = Screen::new(500, 10);
        let line = |number: usize| format!("{number} {}", "x".repeat(490));
        for number in 0..5000 {
            screen.push(format!("\x1b[31m{}\x1b[m\r\n", line(number)).as_bytes());
        }
        let all: Vec<String> = (0..5000).map(line).collect();
        let whole = screen.entire(usize::MAX);
        assert!(whole.text == all.join("\n") && (whole.left_out, whole.has_dropped) == (0, false));
        for number in 5000..12_000 {
            screen.push(format!("{}\r\n", line(number)).as_bytes());
        }
        let Entire { text: history, has_dropped, .. } = screen.entire(usize::MAX);
        let kept = history.lines().count();
        assert!(has_dropped && (5000..10_000).contains(&kept), "{kept}");
        assert!(history.lines().eq((12_000 - kept..12_000).map(line)));
        // A higher screen gets its lines back.
        screen.resize(500, 200);
        assert_eq!(screen.text().lines().next().map(str::to_owned), Some(line(12_000 - 199)));
        screen.push(b"\x1b[?1049hfull");
        assert_eq!(screen.entire(usize::MAX).text, "full");
    }

    #[test]
    fn another_size_is_recorded_and_what_fits_is_kept() {
        let mut screen = Screen::new(20, 3);
        screen.push(b"one\r\ntwo\r\nthree");
        screen.resize(30, 5);
        assert_eq!((screen.size(), screen.text()), ((30, 5), "one\ntwo\nthree".to_owned()));
        let recording = screen.lines(10_000, false).text;
        let last: serde_json::Value = serde_json::from_str(recording.lines().last().unwrap()).unwrap();
        assert_eq!((&last[1], &last[2]), (&"r".into(), &"30x5".into()));
        screen.resize(10, 2);
        screen.push(b"\r\nfour");
        assert!(screen.text().ends_with("four"), "{}", screen.text());
    }

    #[test]
    fn a_recording_has_whole_lines_and_characters() {
        let mut screen = Screen::new(20, 10);
        let bytes = "é\u{1b}[1m\"x\"".as_bytes();
        screen.push(&bytes[..1]);
        screen.push(&bytes[1..]);
        let lines = screen.lines(10_000, false).text;
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["width"], 20);
        assert_eq!((lines[1][2].as_str(), lines[2][2].as_str()), (Some(""), Some("é\u{1b}[1m\"x\"")));
        assert_eq!(screen.lines(10_000, false).text, "");
        assert!(screen.lines(10_000, true).text.starts_with("{\"version\":2"));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_borne(pieces in vec(vec(any::<u8>(), 0..60), 0..30), max in 0_usize..300) {
            let mut screen = Screen::new(20, 10);
            for piece in &pieces {
                screen.push(piece);
            }
            prop_assert!(screen.text().lines().count() <= 10);
            let whole = screen.entire(usize::MAX).text;
            prop_assert!(whole.ends_with(&screen.text()) || screen.text().is_empty());
            let part = screen.entire(max);
            prop_assert!(part.text.len() <= max && whole.ends_with(&part.text));
            // What is left out and what is there are all of it, but for the begin of a line that is longer than that.
            let lines = |text: &str| text.matches('\n').count();
            prop_assert_eq!(part.left_out + lines(&part.text), lines(&whole));
            for line in screen.lines(usize::MAX, true).text.lines() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok());
            }
        }
    }
}
