//! tmux's names of keys, and what a terminal sends for each.

/// What is typed for one piece: the key, if it is the name of one, else the text as it is.
pub(super) fn typed(piece: &str, application_cursor: bool) -> Vec<u8> {
    key(piece, application_cursor).unwrap_or_else(|| piece.as_bytes().to_vec())
}

fn key(name: &str, application_cursor: bool) -> Option<Vec<u8>> {
    if let Some(bytes) = named(name, application_cursor) {
        return Some(bytes);
    }
    let (modifier, rest) = name.split_once('-')?;
    match modifier {
        "C" => control(rest).map(|byte| vec![byte]),
        "M" => {
            let key = key(rest, application_cursor).or_else(|| single(rest).map(|c| c.to_string().into_bytes()))?;
            Some([b"\x1b".to_vec(), key].concat())
        }
        _ => None,
    }
}

fn single(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

fn control(key: &str) -> Option<u8> {
    if key == "Space" {
        return Some(0);
    }
    match single(key)?.to_ascii_uppercase() {
        character @ '@'..='_' => Some(character as u8 - b'@'),
        '?' => Some(0x7f),
        ' ' => Some(0),
        _ => None,
    }
}

fn named(name: &str, application_cursor: bool) -> Option<Vec<u8>> {
    let arrow = |letter: char| format!("\x1b{}{letter}", if application_cursor { 'O' } else { '[' });
    let text = match name {
        "Enter" => "\r".to_owned(),
        "Tab" => "\t".to_owned(),
        "BTab" => "\x1b[Z".to_owned(),
        "Escape" => "\x1b".to_owned(),
        "Space" => " ".to_owned(),
        "BSpace" => "\x7f".to_owned(),
        "Up" => arrow('A'),
        "Down" => arrow('B'),
        "Right" => arrow('C'),
        "Left" => arrow('D'),
        "Home" => "\x1b[1~".to_owned(),
        "IC" | "Insert" => "\x1b[2~".to_owned(),
        "DC" | "Delete" => "\x1b[3~".to_owned(),
        "End" => "\x1b[4~".to_owned(),
        "PPage" | "PageUp" | "PgUp" => "\x1b[5~".to_owned(),
        "NPage" | "PageDown" | "PgDn" => "\x1b[6~".to_owned(),
        "F1" => "\x1bOP".to_owned(),
        "F2" => "\x1bOQ".to_owned(),
        "F3" => "\x1bOR".to_owned(),
        "F4" => "\x1bOS".to_owned(),
        "F5" => "\x1b[15~".to_owned(),
        "F6" => "\x1b[17~".to_owned(),
        "F7" => "\x1b[18~".to_owned(),
        "F8" => "\x1b[19~".to_owned(),
        "F9" => "\x1b[20~".to_owned(),
        "F10" => "\x1b[21~".to_owned(),
        "F11" => "\x1b[23~".to_owned(),
        "F12" => "\x1b[24~".to_owned(),
        _ => return None,
    };
    Some(text.into_bytes())
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
            ("M-Up", b"\x1b\x1b[A"),
            ("Up", b"\x1b[A"),
            ("F12", b"\x1b[24~"),
            ("cmd", b"cmd"),
            ("C-cc", b"C-cc"),
            ("C-", b"C-"),
            ("Enter ", b"Enter "),
            ("echo C-c", b"echo C-c"),
        ] {
            assert_eq!(typed(name, false), bytes, "{name}");
        }
        assert_eq!(typed("Up", true), b"\x1bOA");
    }

    proptest! {
        #[test]
        fn what_is_no_key_is_itself(text in "[a-z]{2,20}|\\PC{0,20} ") {
            prop_assert_eq!(typed(&text, false), text.as_bytes());
        }
    }
}
