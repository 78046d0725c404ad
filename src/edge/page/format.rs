//! Times and numbers as people read them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// Two figures or so: `0.3 ms`, `12 ms`, `1.2 s`, `3 min 5 s`, `2 h 4 min`, `3 d 1 h`.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match duration.as_secs() {
        _ if duration.is_zero() => "0".to_owned(),
        _ if millis < 0.05 => "< 0.1 ms".to_owned(),
        _ if millis < 9.95 => format!("{millis:.1} ms"),
        _ if millis < 999.5 => format!("{millis:.0} ms"),
        0..60 if millis < 9_950.0 => format!("{:.1} s", millis / 1e3),
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// In whole seconds and above: what grows while somebody looks should not flicker.
pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => "just now".to_owned(),
        seconds @ 1..60 => format!("{seconds} s ago"),
        seconds => format!("{} ago", duration(Duration::from_secs(seconds))),
    }
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2026-11-26 19:19:10 UTC`.
pub(super) fn moment(moment: SystemTime) -> String {
    let text = iso(moment);
    text.get(..19).map_or_else(String::new, |text| format!("{} UTC", text.replace('T', " ")))
}

/// For programs.
pub(super) fn iso(moment: SystemTime) -> String {
    Timestamp::from(moment).to_string()
}

/// `slot_timeout` as words.
pub(super) fn words(label: &str) -> String {
    label.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (micros, text) in [
            (0, "0"),
            (1, "< 0.1 ms"),
            (300, "0.3 ms"),
            (9_949, "9.9 ms"),
            (9_960, "10 ms"),
            (999_499, "999 ms"),
            (999_500, "1.0 s"),
            (9_960_000, "9 s"),
            (59_999_999, "59 s"),
            (185_000_000, "3 min 5 s"),
            (7_440_000_000, "2 h 4 min"),
            (262_800_000_000, "3 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text, "{micros}");
        }
        assert_eq!(age(Duration::from_millis(999)), "just now");
        assert_eq!(age(Duration::from_millis(1_900)), "1 s ago");
    }

    #[test]
    fn numbers_and_moments_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(moment(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)), "1970-01-02 00:00:00 UTC");
    }
}
