//! A BGP community as people write it: `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).

use std::fmt;
use std::str::FromStr;

/// One community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// `aa:nn`: 16 bits each, `aa` the upper ones.
    Standard(u32),
    /// `aa:nn:mm`: 32 bits each.
    Large(u32, u32, u32),
}

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no community: write `aa:nn` (each up to 65535) or `aa:nn:mm` (each up to 4294967295)"
)]
pub struct CommunityError(pub String);

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parts: Option<Vec<u32>> = text.split(':').map(number).collect();
        let wrong = || CommunityError(text.chars().take(40).collect());
        match parts.ok_or_else(wrong)?.as_slice() {
            [global @ ..=0xFFFF, local @ ..=0xFFFF] => Ok(Self::Standard(global << 16 | local)),
            [global, local1, local2] => Ok(Self::Large(*global, *local1, *local2)),
            _ => Err(wrong()),
        }
    }
}

/// A decimal number without sign and leading zeros, so that a community has one text.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (plain && canonical).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(bits) => write!(f, "{}:{}", bits >> 16, bits & 0xFFFF),
            Self::Large(global, local1, local2) => write!(f, "{global}:{local1}:{local2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_sizes_are_read_and_nothing_else() {
        assert_eq!("65000:1".parse(), Ok(Community::Standard(0xFDE8_0001)));
        assert_eq!("65536:1:2".parse(), Ok(Community::Large(65536, 1, 2)));
        for text in [
            "",
            ":",
            "1",
            "1:",
            "65536:1",
            "1:65536",
            "1:2:3:4",
            "a:b",
            "-1:2",
            "+1:2",
            " 1:2",
            "01:2",
            "1:2:4294967296",
            "no-export",
            "1:2\n",
        ] {
            assert!(text.parse::<Community>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_to_the_same(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
            for community in [Community::Standard(a), Community::Large(a, b, c)] {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9:+ a]{0,20}") {
            let _ = text.parse::<Community>();
        }
    }
}
