//! Sizes and times as people write them in configuration files: `"4MiB"`, `"250ms"`.
//!
//! The modules [`size`] and [`time`] are for `#[serde(with = "...")]`: a setting that is a plain
//! number of bytes or a [`Duration`] in code is read from a file in these units.

use std::time::Duration;

/// A text that is not a size or a time: what was given, and what could be written instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; write {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// Bytes of a size such as `4096`, `64KiB` or `4 MiB`. The units are powers of 1,024 (`KiB`, `MiB`,
/// `GiB`) or of 1,000 (`kB`, `MB`, `GB`).
///
/// # Errors
/// If there is no whole number, no such unit, or more bytes than an address can count.
pub fn parse_size(text: &str) -> Result<usize, UnitError> {
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "size",
        example: "65536, \"64KiB\", \"4MiB\"",
    };
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: usize = digits.replace('_', "").parse().map_err(|_| wrong())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A time such as `250ms`, `5s` or `1m 30s`.
///
/// # Errors
/// If it is none.
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    humantime::parse_duration(text).map_err(|_| UnitError {
        text: text.to_owned(),
        what: "time",
        example: "\"250ms\", \"5s\", \"2m\"",
    })
}

/// Tenths of a percent of a share such as `20%` or `0.5%`, at most 1,000.
///
/// # Errors
/// If it is none.
pub fn parse_permille(text: &str) -> Result<u32, UnitError> {
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "percentage",
        example: "\"20%\", \"0.5%\"",
    };
    let number = text.strip_suffix('%').ok_or_else(wrong)?.trim();
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(tenth) || tenth.len() != 1 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let tenth: u32 = tenth.parse().map_err(|_| wrong())?;
    let permille = whole.checked_mul(10).map(|whole| whole + tenth);
    permille
        .filter(|permille| *permille <= 1000)
        .ok_or_else(wrong)
}

/// Shares in a file: a text such as `"20%"`.
pub mod permille {
    use serde::{Deserialize, Deserializer, de};

    /// Reads a share.
    ///
    /// # Errors
    /// If it is no text of a percentage.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_permille(&text).map_err(de::Error::custom)
    }
}

/// Sizes in a file: a whole number of bytes, or a text such as `"4MiB"`.
pub mod size {
    use serde::{Deserialize, Deserializer, de};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size such as 65536 or \"64KiB\"")]
    enum Written {
        Bytes(usize),
        Text(String),
    }

    /// Reads a size.
    ///
    /// # Errors
    /// If it is neither a whole number nor the text of one with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        match Written::deserialize(from)? {
            Written::Bytes(bytes) => Ok(bytes),
            Written::Text(text) => super::parse_size(&text).map_err(de::Error::custom),
        }
    }
}

/// Times in a file: a text such as `"250ms"`.
pub mod time {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de};

    /// Reads a time.
    ///
    /// # Errors
    /// If it is no text of a number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_time(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("65_536", 65_536),
            ("64KiB", 65_536),
            ("4 MiB", 4 << 20),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "4mib", "99999999999GiB"] {
            let error = parse_size(text).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{text:?} is not a size")),
                "{error}"
            );
        }
    }

    #[test]
    fn shares_are_percentages_with_one_decimal_at_most() {
        for (text, permille) in [("0%", 0), ("20%", 200), ("0.5%", 5), ("100%", 1000)] {
            assert_eq!(parse_permille(text), Ok(permille), "{text}");
        }
        for text in ["20", "%", "-1%", "101%", "0.55%", "1.%", "99999999999%"] {
            assert!(parse_permille(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_time("1m 30s"), Ok(Duration::from_secs(90)));
        let error = parse_time("soon").unwrap_err().to_string();
        assert_eq!(
            error,
            "\"soon\" is not a time; write \"250ms\", \"5s\", \"2m\""
        );
    }
}
