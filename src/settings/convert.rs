//! From what people write to typed values. Errors continue the sentence "setting x ...".

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::ValueKind;

/// What a value was written as: every source but the file has text alone.
pub(super) type Written<'a> = &'a ValueKind;

/// The text of a value that is one, or of a number.
fn text(value: Written<'_>) -> Result<String, String> {
    match value {
        ValueKind::String(text) => Ok(text.trim().to_owned()),
        ValueKind::I64(number) => Ok(number.to_string()),
        ValueKind::U64(number) => Ok(number.to_string()),
        ValueKind::Float(number) => Ok(number.to_string()),
        ValueKind::Boolean(value) => Ok(value.to_string()),
        _ => Err("must be a single value".to_owned()),
    }
}

pub(super) fn string(value: Written<'_>) -> Result<String, String> {
    text(value)
}

pub(super) fn boolean(value: Written<'_>) -> Result<bool, String> {
    let text = text(value)?;
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "no" | "n" | "off" => Ok(false),
        _ => Err(format!("must be true or false, and is {text:?}")),
    }
}

pub(super) fn number(value: Written<'_>) -> Result<u64, String> {
    let text = text(value)?;
    text.replace('_', "").parse().map_err(|_| format!("must be a whole number, and is {text:?}"))
}

pub(super) fn duration(value: Written<'_>) -> Result<Duration, String> {
    let text = text(value)?;
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime_serde::re::humantime::parse_duration(&text)
        .map_err(|_| format!("must be a duration such as 30s, 500ms or 1h 30min, and is {text:?}"))
}

/// In bytes.
pub(super) fn size(value: Written<'_>) -> Result<u64, String> {
    let text = text(value)?;
    let wrong = || format!("must be a size such as 64KiB, 16MiB or 1GB, and is {text:?}");
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '_' || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number = number.replace('_', "");
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(unit).ok_or_else(wrong),
        Err(_) => {
            let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
            // Beyond 2^53 a float no longer counts single bytes.
            if bytes <= 9_007_199_254_740_992.0 { Ok(bytes.round() as u64) } else { Err(wrong()) }
        }
    }
}

/// A list in the file, or text with commas.
pub(super) fn list(value: Written<'_>) -> Result<Vec<String>, String> {
    match value {
        ValueKind::Array(items) => items.iter().map(|item| text(&item.kind)).collect(),
        other => {
            let text = text(other)?;
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
    }
}

pub(super) fn absolute_paths(value: Written<'_>) -> Result<Vec<PathBuf>, String> {
    list(value)?.into_iter().map(absolute).collect()
}

pub(super) fn absolute_path(value: Written<'_>) -> Result<PathBuf, String> {
    absolute(text(value)?)
}

fn absolute(path: String) -> Result<PathBuf, String> {
    if Path::new(&path).is_absolute() { Ok(path.into()) } else { Err(format!("{path:?} must be absolute")) }
}

pub(super) fn path(value: Written<'_>) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

/// A table in the file, or text in JSON.
pub(super) fn json_object(value: Written<'_>) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    use serde_json::Value;
    fn json(value: Written<'_>) -> Value {
        match value {
            ValueKind::Table(table) => table
                .iter()
                .map(|(name, value)| (name.clone(), json(&value.kind)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            ValueKind::Array(items) => items.iter().map(|item| json(&item.kind)).collect::<Vec<_>>().into(),
            ValueKind::Boolean(value) => (*value).into(),
            ValueKind::I64(number) => (*number).into(),
            ValueKind::U64(number) => (*number).into(),
            ValueKind::Float(number) => (*number).into(),
            other => other.to_string().into(),
        }
    }
    let object = match value {
        ValueKind::String(text) if text.trim().is_empty() => return Ok(serde_json::Map::new()),
        ValueKind::String(text) => serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?,
        other => json(other),
    };
    match object {
        Value::Object(object) => Ok(object),
        _ => Err("must be a table, or an object in JSON".to_owned()),
    }
}

pub(super) fn address(value: Written<'_>) -> Result<SocketAddr, String> {
    let text = text(value)?;
    let literal = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.clone(),
    };
    literal.parse().map_err(|_| format!("must be ADDRESS:PORT, such as 127.0.0.1:9001, and is {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> ValueKind {
        ValueKind::String(text.into())
    }

    #[test]
    fn booleans_are_the_old_systems() {
        for yes in ["1", "true", "YES", "y", "On"] {
            assert_eq!(boolean(&written(yes)), Ok(true));
        }
        for no in ["0", "False", "no", "n", "off"] {
            assert_eq!(boolean(&written(no)), Ok(false));
        }
        assert!(boolean(&written("maybe")).is_err());
        assert_eq!(boolean(&ValueKind::Boolean(true)), Ok(true));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64 KiB", 65_536),
            ("1.5MiB", 1_572_864),
            ("2GB", 2_000_000_000),
            ("16_384", 16_384),
        ] {
            assert_eq!(size(&written(text)), Ok(bytes), "{text}");
        }
        for wrong in ["", "MiB", "-1", "1TB", "1..5KB", "99999999999999999999", "18446744073709551615KB"] {
            assert!(size(&written(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(size(&ValueKind::I64(7)), Ok(7));
        assert!(size(&ValueKind::I64(-7)).is_err());
    }

    #[test]
    fn durations_lists_and_addresses() {
        assert_eq!(duration(&written("1h 30min")), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration(&written("0")), Ok(Duration::ZERO));
        assert!(duration(&written("30")).unwrap_err().contains("such as 30s"));
        assert_eq!(list(&written(" a, b ,")), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert!(absolute_paths(&written("/a,b")).is_err());
        assert_eq!(address(&written("localhost:0")), Ok(([127, 0, 0, 1], 0).into()));
        assert!(address(&written("[::1]:9001")).is_ok());
        assert!(address(&written("9001")).is_err());
    }
}
