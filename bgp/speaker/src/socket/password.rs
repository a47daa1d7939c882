//! The password of a session, which no log and no error shows.

use std::fmt;

use thiserror::Error;

/// The key of the TCP MD5 Signature Option (RFC 2385).
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

/// A password the kernel would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a TCP MD5 password has 1 to {longest} octets, this one has {len}", longest = Password::LONGEST)]
pub struct InvalidPassword {
    len: usize,
}

impl Password {
    /// The longest key Linux takes, in octets.
    pub const LONGEST: usize = 80;

    /// # Errors
    /// When it is empty or longer than [`Self::LONGEST`].
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, InvalidPassword> {
        let octets = text.as_ref();
        if (1..=Self::LONGEST).contains(&octets.len()) {
            Ok(Self(octets.into()))
        } else {
            Err(InvalidPassword { len: octets.len() })
        }
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_1_to_80_octets() {
        assert!(Password::new("x").is_ok());
        assert!(Password::new("x".repeat(80)).is_ok());
        for len in [0, 81] {
            let error = Password::new("x".repeat(len)).unwrap_err().to_string();
            assert!(error.contains(&format!("has {len}")), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", Password::new("sesame").unwrap());
        assert_eq!(shown, "Password(…)");
    }
}
