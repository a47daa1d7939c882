//! Durations as Go writes them (`90s`, `1m30s`), which is how manifests hold them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration that is read and written as Go's `time.ParseDuration` does, but never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 90s or 1m30s")]
pub struct DurationError(pub String);

const NANOSECOND: u128 = 1;
const MICROSECOND: u128 = 1_000;
const MILLISECOND: u128 = 1_000_000;
const SECOND: u128 = 1_000_000_000;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

/// What Go can hold: 2^63 - 1 nanoseconds, some 292 years.
const GREATEST: u128 = i64::MAX as u128;

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text)
            .map(Self)
            .ok_or_else(|| DurationError(text.chars().take(40).collect()))
    }
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        total = total.checked_add(nanoseconds(number, unit_of(unit)?)?)?;
        rest = after;
    }
    (total <= GREATEST).then(|| from_nanoseconds(total))
}

fn unit_of(text: &str) -> Option<u128> {
    Some(match text {
        "ns" => NANOSECOND,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

fn nanoseconds(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // Digits beyond the eighteenth are less than a nanosecond of any unit.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let parts: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole
        .checked_mul(unit)?
        .checked_add(parts.checked_mul(unit)? / scale)
}

fn from_nanoseconds(total: u128) -> Duration {
    let seconds = u64::try_from(total / SECOND).unwrap_or(u64::MAX);
    Duration::new(seconds, u32::try_from(total % SECOND).unwrap_or(0))
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1m30s`, `1.5s`, `20ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_nanos();
        match total {
            0 => f.write_str("0s"),
            1..MICROSECOND => write!(f, "{total}ns"),
            MICROSECOND..MILLISECOND => decimal(f, total, MICROSECOND, "µs"),
            MILLISECOND..SECOND => decimal(f, total, MILLISECOND, "ms"),
            _ => {
                let (hours, minutes) = (total / HOUR, total % HOUR / MINUTE);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                decimal(f, total % MINUTE, SECOND, "s")
            }
        }
    }
}

fn decimal(f: &mut fmt::Formatter<'_>, amount: u128, unit: u128, name: &str) -> fmt::Result {
    write!(f, "{}", amount / unit)?;
    let rest = amount % unit;
    if rest > 0 {
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(name)
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "x-kubernetes-validations": crate::crd::rules::duration(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_mean_what_go_says() {
        for (text, milliseconds, canonical) in [
            ("90s", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("300ms", 300, "300ms"),
            ("1.5s", 1_500, "1.5s"),
            (".5s", 500, "500ms"),
            ("1h", 3_600_000, "1h0m0s"),
            ("+2m", 120_000, "2m0s"),
            ("1000us", 1, "1ms"),
        ] {
            let parsed: GoDuration = text.parse().expect(text);
            assert_eq!(parsed.0.as_millis(), milliseconds, "{text}");
            assert_eq!(parsed.to_string(), canonical);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "90",
            "s",
            ".s",
            "-1s",
            "1 s",
            "1d",
            "1.2.3s",
            "1s2",
            "9999999999h",
            "١s",
            "1e3s",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_to_the_same(nanoseconds in 0..i64::MAX as u64) {
            let duration = GoDuration(Duration::from_nanos(nanoseconds));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9.+mshnuµ]{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
