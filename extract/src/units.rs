//! Quantities as people write them: `256MiB`, `10min`, `1%`.
//!
//! Each reads from a flag and from TOML alike (a number or a string there), and writes itself back the way it was written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::image::MAX_PIXELS;

/// A number or a string of a TOML file; both are read as the text a flag would have had.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or a number with its unit in quotes")]
enum Scalar {
    Integer(i64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Integer(number) => number.fmt(f),
            Scalar::Float(number) => number.fmt(f),
            Scalar::Text(text) => text.fmt(f),
        }
    }
}

/// Gives a [`FromStr`] and [`Display`](fmt::Display) type its serde form.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl TryFrom<Scalar> for $type {
            type Error = String;
            fn try_from(scalar: Scalar) -> Result<Self, String> {
                scalar.to_string().parse()
            }
        }
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// A number of bytes: `1048576`, `512KiB`, `256MiB`, `1.5GiB`, or by thousands `500MB`, `2GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct ByteSize(pub u64);

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a size: write bytes, or a number with KiB, MiB, GiB, MB or GB");
        let unit = BYTE_UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
        let (digits, scale) = unit.unwrap_or((text, 1));
        scaled(digits.trim(), scale).map(ByteSize).ok_or_else(wrong)
    }
}

/// A whole number of a unit, or a decimal fraction of one that is larger than 1.
fn scaled(digits: &str, scale: u64) -> Option<u64> {
    if let Ok(number) = digits.parse::<u64>() {
        return number.checked_mul(scale);
    }
    let is_decimal = scale > 1 && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = digits.parse().ok().filter(|_| is_decimal)?;
    let scaled = (number * scale as f64).round();
    (scaled < u64::MAX as f64).then_some(scaled as u64)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = BYTE_UNITS.iter().find(|(_, scale)| self.0.is_multiple_of(*scale));
        unit.map_or(Ok(()), |(unit, scale)| write!(f, "{}{unit}", self.0 / scale))
    }
}

serde_as_text!(ByteSize);

/// Memory that a run may take: `8GiB`, or `8` and `0.5`, which are in GiB as well. No teacher runs in less than a mebibyte
/// and no machine has that many gibibytes, so that from 1048576 on a number alone is in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct MemoryLimit(pub u64);

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not an amount of memory: write GiB, or a number with MiB, GiB, MB or GB");
        let is_bytes = text.trim().parse::<u64>().is_ok_and(|number| number >= 1 << 20);
        let gibibytes = scaled(text.trim(), 1 << 30).filter(|_| !is_bytes);
        let bytes = gibibytes.or_else(|| text.parse().ok().map(|ByteSize(bytes)| bytes));
        bytes.filter(|bytes| *bytes > 0).map(MemoryLimit).ok_or_else(wrong)
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).fmt(f)
    }
}

serde_as_text!(MemoryLimit);

/// A time between two events: `30s`, `10min`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Interval(pub Duration);

const TIME_UNITS: [(&str, u64); 3] = [("min", 60), ("h", 3600), ("s", 1)];

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a time: write a number with s, min or h");
        let unit = TIME_UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
        let (digits, scale) = unit.unwrap_or((text, 1));
        let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(scale).map(|seconds| Interval(Duration::from_secs(seconds))).ok_or_else(wrong)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs())
    }
}

serde_as_text!(Interval);

/// The sides of an image in pixels: `640x480`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a size of images: write width and height in pixels, as 640x480");
        let (width, height) = text.split_once('x').ok_or_else(wrong)?;
        let (width, height) = (width.parse().map_err(|_| wrong())?, height.parse().map_err(|_| wrong())?);
        let num_pixels = u64::from(width) * u64::from(height);
        if num_pixels == 0 || num_pixels > MAX_PIXELS {
            return Err(format!("`{text}` is not a size of images: they have 1 to {MAX_PIXELS} pixels"));
        }
        Ok(ImageSize { width, height })
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

serde_as_text!(ImageSize);

/// How many bad rows a run tolerates: a share of the rows read (`1%`), or a number of rows (`20`).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Scalar")]
pub enum MaxBad {
    /// At most this many rows.
    Rows(u64),
    /// At most this share of the rows read, in percent.
    Percent(f64),
}

/// While a run goes on, a share is taken of at least this many rows: the first bad row of a large dataset is not 100 %.
const SHARE_FLOOR_ROWS: u64 = 1000;

impl MaxBad {
    /// Whether `bad` of `read` rows are too many; `read` is the whole dataset if `at_end`.
    pub fn is_spent(self, bad: u64, read: u64, at_end: bool) -> bool {
        match self {
            MaxBad::Rows(rows) => bad > rows,
            MaxBad::Percent(percent) => {
                let of = if at_end { read } else { read.max(SHARE_FLOOR_ROWS) };
                bad as f64 * 100.0 > percent * of as f64
            }
        }
    }
}

impl FromStr for MaxBad {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not an error budget: write a share such as `1%` or a number of rows");
        let Some(percent) = text.strip_suffix('%') else {
            return text.trim().parse().map(MaxBad::Rows).map_err(|_| wrong());
        };
        let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
        if (0.0..=100.0).contains(&percent) { Ok(MaxBad::Percent(percent)) } else { Err(wrong()) }
    }
}

impl fmt::Display for MaxBad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxBad::Rows(rows) => write!(f, "{rows}"),
            MaxBad::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

serde_as_text!(MaxBad);

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn quantities_read_and_write_themselves() {
        assert_eq!("256MiB".parse(), Ok(ByteSize(256 << 20)));
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!(ByteSize(3 << 30).to_string(), "3GiB");
        assert_eq!("500MB".parse(), Ok(ByteSize(500_000_000)));
        for written in ["500MB", "2GB", "3kB", "1023", "1000KiB"] {
            let size: ByteSize = written.parse().unwrap();
            assert_eq!(size.to_string().parse(), Ok(size), "{written}");
        }
        assert_eq!("10min".parse(), Ok(Interval(Duration::from_secs(600))));
        assert_eq!("0".parse(), Ok(Interval(Duration::ZERO)));
        assert_eq!("0.5%".parse(), Ok(MaxBad::Percent(0.5)));
        assert_eq!("20".parse(), Ok(MaxBad::Rows(20)));
        assert_eq!("640x480".parse(), Ok(ImageSize { width: 640, height: 480 }));
        for text in ["", "640", "640x", "0x5", "640 x 480", "99999x99999"] {
            assert!(text.parse::<ImageSize>().is_err(), "{text}");
        }
        assert_eq!(("1.5GiB".parse(), "0.25kB".parse()), (Ok(ByteSize(3 << 29)), Ok(ByteSize(250))));
        assert_eq!(ByteSize(0).to_string().parse(), Ok(ByteSize(0)));
        for text in ["", "MiB", "-1", "1.5", "1.5B", "-1.5GiB", "1e3GiB", "infGiB", ".GiB", "17000000TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "1.5", "few", "NaN%"] {
            assert!(text.parse::<MaxBad>().is_err(), "{text}");
        }
    }

    #[test]
    fn memory_without_a_unit_is_in_gibibytes() {
        for (text, bytes) in [
            ("8", 8 << 30),
            ("0.5", 1 << 29),
            ("300MiB", 300 << 20),
            ("1048575", ((1 << 20) - 1) << 30),
            ("1048576", 1 << 20),
            ("268435456", 1 << 28),
        ] {
            let limit: MemoryLimit = text.parse().unwrap();
            assert_eq!((limit, limit.to_string().parse()), (MemoryLimit(bytes), Ok(limit)), "{text}");
        }
        assert_eq!(MemoryLimit(512).to_string().parse(), Ok(MemoryLimit(512)), "not 512 GiB");
        for text in ["", "0", "-1", "GiB", "much"] {
            assert!(text.parse::<MemoryLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_may_have_any_number_and_hears_what_is_wrong_with_it() {
        #[derive(Debug, Deserialize)]
        struct Settings {
            memory: MemoryLimit,
        }
        let read = |text: &str| toml::from_str::<Settings>(text).map(|settings| settings.memory);
        assert_eq!(
            (read("memory = 0.5"), read("memory = 2")),
            (Ok(MemoryLimit(1 << 29)), Ok(MemoryLimit(2 << 30)))
        );
        for (text, says) in [("-3", "`-3` is not an amount of memory"), ("true", "expected a number")] {
            let error = read(&format!("memory = {text}")).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_budget_counts_a_share_of_enough_rows() {
        let percent = MaxBad::Percent(1.0);
        assert!(!percent.is_spent(1, 1, false), "one bad row at the start is no verdict on a dataset");
        assert!(percent.is_spent(11, 11, false), "eleven are more than 1 % of the floor");
        assert!(percent.is_spent(1, 99, true) && !percent.is_spent(1, 100, true), "exact at the end");
        assert!(MaxBad::Rows(2).is_spent(3, 1_000_000, false) && !MaxBad::Rows(2).is_spent(2, 2, true));
    }
}
