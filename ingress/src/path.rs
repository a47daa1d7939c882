//! Paths as rules and requests are compared: one spelling for what the specification of URIs calls the same.
//!
//! The backend gets the path as the client wrote it. It is compared in a form in which percent-encoded unreserved characters
//! are those characters (RFC 3986 §6.2.2.2), the digits of other encodings are upper case (§6.2.2.1) and a run of slashes
//! is one: backends take such spellings for the same, so a rule that guards `/admin` is for `//admin` and `/%61dmin`, too.
//! Dot segments, which clients remove before they send (§5.2.4), are refused: who sends one wants a rule to see another path than
//! the backend. So are `..;x`, which some servers take for `..`, and broken encodings. `%2F` is no slash and stays as it is.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("it does not begin with /")]
    Relative,
    /// A segment is `.` or `..`, in whatever spelling.
    #[error("it has a segment that is . or ..")]
    DotSegment,
    /// A percent sign without two hexadecimal digits.
    #[error("it has a % without two hexadecimal digits after it")]
    Encoding,
}

/// The form of a path that is compared.
///
/// # Errors
/// What it is refused for.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let (taken, character) = match next {
            '%' => decoded(rest)?,
            other => (other.len_utf8(), Decoded::Character(other)),
        };
        match character {
            Decoded::Character('/') if text.ends_with('/') => {}
            Decoded::Character(character) => text.push(character),
            Decoded::Encoded(high, low) => text.extend(['%', high, low]),
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    if text.split('/').any(is_dots) {
        return Err(PathError::DotSegment);
    }
    Ok(Cow::Owned(text))
}

/// Whether nothing is to be changed: no encoding, no empty and no dot segment.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for byte in path {
        if *byte == b'%' || (previous == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        previous = *byte;
    }
    true
}

enum Decoded {
    Character(char),
    Encoded(char, char),
}

/// What a `%` at the beginning of `rest` stands for, and how many octets that takes.
fn decoded(rest: &str) -> Result<(usize, Decoded), PathError> {
    let mut digits = rest.chars().skip(1);
    let mut digit = || digits.next().filter(char::is_ascii_hexdigit);
    let (Some(high), Some(low)) = (digit(), digit()) else {
        return Err(PathError::Encoding);
    };
    let value = |digit: char| digit.to_digit(16).unwrap_or_default();
    let character = char::from_u32(value(high) * 16 + value(low)).filter(char::is_ascii);
    let is_unreserved = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    Ok(match character.filter(is_unreserved) {
        Some(character) => (3, Decoded::Character(character)),
        None => (
            3,
            Decoded::Encoded(high.to_ascii_uppercase(), low.to_ascii_uppercase()),
        ),
    })
}

fn is_dots(segment: &str) -> bool {
    let name = segment.split(';').next().unwrap_or_default();
    matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_spellings_of_a_path_are_compared_as_one() {
        for (path, same) in [
            ("/", "/"),
            ("/foo/bar", "/foo/bar"),
            ("/foo/", "/foo/"),
            ("//foo///bar//", "/foo/bar/"),
            ("/%66oo/b%61r", "/foo/bar"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/.well-known/b", "/a/.well-known/b"),
            ("/...", "/..."),
            ("/a;x=1/b", "/a;x=1/b"),
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(same), "{path}");
        }
    }

    #[test]
    fn paths_that_a_backend_may_take_for_another_are_refused() {
        for path in [
            "/a/../b",
            "/..",
            "/.",
            "/a/./b",
            "/%2e%2e/b",
            "/a/.%2E",
            "/a/..;x/b",
            "/%2E",
            "//..",
        ] {
            assert_eq!(canonical(path), Err(PathError::DotSegment), "{path}");
        }
        for path in ["/%", "/%2", "/%zz", "/%é"] {
            assert_eq!(canonical(path), Err(PathError::Encoding), "{path}");
        }
        for path in ["", "*", "foo"] {
            assert_eq!(canonical(path), Err(PathError::Relative), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_form_is_its_own_form(path in "/[a-c./%;2eEfF]{0,12}") {
            if let Ok(form) = canonical(&path) {
                let again = canonical(&form);
                prop_assert_eq!(again.as_deref(), Ok(form.as_ref()));
                prop_assert!(!form.contains("//"));
            }
        }
    }
}
