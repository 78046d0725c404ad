//! tmux's names of keys, and what a terminal of the kind that TERM says (xterm) sends for each.

/// What is typed for one piece: the key, if it is the name of one, else the text as it is.
pub(super) fn typed(piece: &str, application_cursor: bool) -> Vec<u8> {
    key(piece, application_cursor).unwrap_or_else(|| piece.as_bytes().to_vec())
}

/// Keys that are held down with another.
#[derive(Debug, Clone, Copy, Default)]
struct Modifiers {
    shift: bool,
    meta: bool,
    control: bool,
}

impl Modifiers {
    /// As xterm counts them; none if there are none.
    fn parameter(self) -> Option<u8> {
        let sum = u8::from(self.shift) + 2 * u8::from(self.meta) + 4 * u8::from(self.control);
        (sum > 0).then_some(sum + 1)
    }
}

/// A key with a name.
enum Named {
    Plain(&'static str),
    /// Which sends another sequence while a program wants it so.
    Cursor(char),
    /// F1 to F4.
    Function(char),
    Numbered(u8),
}

fn key(name: &str, application_cursor: bool) -> Option<Vec<u8>> {
    let mut modifiers = Modifiers::default();
    let mut rest = name;
    while let Some((modifier, more)) = rest.split_at_checked(2).filter(|(_, more)| !more.is_empty()) {
        match modifier {
            "C-" => modifiers.control = true,
            "M-" => modifiers.meta = true,
            "S-" => modifiers.shift = true,
            _ => break,
        }
        rest = more;
    }
    let parameter = modifiers.parameter();
    let text = match (named(rest), parameter) {
        (Some(Named::Cursor(letter)), None) if application_cursor => format!("\x1bO{letter}"),
        (Some(Named::Cursor(letter)), None) => format!("\x1b[{letter}"),
        (Some(Named::Function(letter)), None) => format!("\x1bO{letter}"),
        (Some(Named::Cursor(letter) | Named::Function(letter)), Some(held)) => format!("\x1b[1;{held}{letter}"),
        (Some(Named::Numbered(number)), None) => format!("\x1b[{number}~"),
        (Some(Named::Numbered(number)), Some(held)) => format!("\x1b[{number};{held}~"),
        (Some(Named::Plain(text)), None) => text.to_owned(),
        (Some(Named::Plain("\t")), Some(_)) if modifiers.shift => "\x1b[Z".to_owned(),
        (Some(Named::Plain(text)), Some(_)) => return character(text, modifiers),
        // A text that is no key's name.
        (None, None) => return None,
        (None, Some(_)) => return character(rest, modifiers),
    };
    Some(text.into_bytes())
}

/// One character with others held down; nothing for a text.
fn character(text: &str, modifiers: Modifiers) -> Option<Vec<u8>> {
    let mut characters = text.chars();
    let character = characters.next().filter(|_| characters.next().is_none() && !modifiers.shift)?;
    let mut bytes = if modifiers.meta { vec![0x1b] } else { Vec::new() };
    if modifiers.control {
        bytes.push(control(character)?);
    } else {
        bytes.extend(character.to_string().bytes());
    }
    Some(bytes)
}

fn control(character: char) -> Option<u8> {
    match character.to_ascii_uppercase() {
        character @ '@'..='_' => Some(character as u8 - b'@'),
        '?' => Some(0x7f),
        ' ' => Some(0),
        _ => None,
    }
}

fn named(name: &str) -> Option<Named> {
    Some(match name {
        "Enter" => Named::Plain("\r"),
        "Tab" => Named::Plain("\t"),
        "BTab" => Named::Plain("\x1b[Z"),
        "Escape" => Named::Plain("\x1b"),
        "Space" => Named::Plain(" "),
        "BSpace" => Named::Plain("\x7f"),
        "Up" => Named::Cursor('A'),
        "Down" => Named::Cursor('B'),
        "Right" => Named::Cursor('C'),
        "Left" => Named::Cursor('D'),
        "End" => Named::Cursor('F'),
        "Home" => Named::Cursor('H'),
        "IC" | "Insert" => Named::Numbered(2),
        "DC" | "Delete" => Named::Numbered(3),
        "PPage" | "PageUp" | "PgUp" => Named::Numbered(5),
        "NPage" | "PageDown" | "PgDn" => Named::Numbered(6),
        "F1" => Named::Function('P'),
        "F2" => Named::Function('Q'),
        "F3" => Named::Function('R'),
        "F4" => Named::Function('S'),
        "F5" => Named::Numbered(15),
        "F6" => Named::Numbered(17),
        "F7" => Named::Numbered(18),
        "F8" => Named::Numbered(19),
        "F9" => Named::Numbered(20),
        "F10" => Named::Numbered(21),
        "F11" => Named::Numbered(23),
        "F12" => Named::Numbered(24),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_by_their_names() {
        for (name, bytes) in [
            ("Enter", &b"\r"[..]),
            ("C-c", b"\x03"),
            ("C-[", b"\x1b"),
            ("C-Space", b"\0"),
            ("M-x", b"\x1bx"),
            ("M-é", "\x1bé".as_bytes()),
            ("C-M-x", b"\x1b\x18"),
            ("M-Enter", b"\x1b\r"),
            ("S-Tab", b"\x1b[Z"),
            ("Up", b"\x1b[A"),
            ("Home", b"\x1b[H"),
            ("M-Up", b"\x1b[1;3A"),
            ("C-Left", b"\x1b[1;5D"),
            ("C-S-End", b"\x1b[1;6F"),
            ("F1", b"\x1bOP"),
            ("S-F1", b"\x1b[1;2P"),
            ("F12", b"\x1b[24~"),
            ("C-DC", b"\x1b[3;5~"),
            ("cmd", b"cmd"),
            ("C-cc", b"C-cc"),
            ("C-", b"C-"),
            ("S-x", b"S-x"),
            ("C-é", "C-é".as_bytes()),
            ("é", "é".as_bytes()),
            ("", b""),
            ("M-", b"M-"),
            ("Enter ", b"Enter "),
            ("echo C-c", b"echo C-c"),
        ] {
            assert_eq!(typed(name, false), bytes, "{name}");
        }
        assert_eq!(typed("Up", true), b"\x1bOA");
        assert_eq!(typed("Home", true), b"\x1bOH");
        assert_eq!(typed("C-Up", true), b"\x1b[1;5A");
    }

    proptest! {
        #[test]
        fn what_is_no_key_is_itself(text in "[a-z]{2,20}|\\PC{0,20} ") {
            prop_assert_eq!(typed(&text, false), text.as_bytes());
        }
    }
}
