//! Calico's selector language (`rack == 'r1' && has(gpu)`): expressions, their evaluation and their canonical text.

mod grammar;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::Labels;

/// How deep parentheses and `!` may nest, so that no selector can exhaust the stack.
pub const MAX_DEPTH: usize = 32;

/// The longest selector that is read, in bytes.
pub const MAX_LENGTH: usize = 16 * 1024;

/// A parsed selector. Equal selectors have equal canonical texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    expression: Expression,
}

/// Where a selector is wrong, and what could have stood there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: expected {expected}")]
pub struct SelectorError {
    /// The first character that does not fit, counted from 1.
    pub position: usize,
    /// What could have stood there.
    pub expected: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    All,
    Global,
    Has(String),
    Equal(String, String),
    NotEqual(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Selector {
    /// The selector `all()`.
    pub fn all() -> Self {
        Self {
            expression: Expression::All,
        }
    }

    /// Reads a selector. An empty text is `all()`, as in Calico.
    ///
    /// # Errors
    /// Says where the text is wrong and what was expected there.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_LENGTH {
            let expected = format!("at most {MAX_LENGTH} bytes of selector");
            return Err(SelectorError {
                position: MAX_LENGTH,
                expected,
            });
        }
        grammar::selector(text).map(|expression| Self { expression })
    }

    /// Says whether an object with these labels is selected.
    ///
    /// As in Calico `!=` and `not in` hold for an object without the label; the other comparisons do not.
    /// `global()` holds: only cluster-scoped objects (nodes) are selected in this language so far.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.expression.matches(labels)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    /// The canonical text: it parses to the same selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        let value_of = |key: &str| labels.get(key).map(String::as_str);
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equal(key, value) => value_of(key) == Some(value),
            Self::NotEqual(key, value) => value_of(key) != Some(value),
            Self::In(key, values) => value_of(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => value_of(key).is_none_or(|value| !values.contains(value)),
            Self::Contains(key, part) => value_of(key).is_some_and(|v| v.contains(part.as_str())),
            Self::StartsWith(key, part) => {
                value_of(key).is_some_and(|value| value.starts_with(part.as_str()))
            }
            Self::EndsWith(key, part) => {
                value_of(key).is_some_and(|value| value.ends_with(part.as_str()))
            }
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }

    /// Joins with `&&`; what is such a conjunction already is taken apart, so that equal meanings look equal.
    fn and(parts: Vec<Self>) -> Self {
        let flat = parts.into_iter().flat_map(|part| match part {
            Self::And(inner) => inner,
            other => vec![other],
        });
        single_or(flat.collect(), Self::And)
    }

    /// Joins with `||`, flattened like [`Self::and`].
    fn or(parts: Vec<Self>) -> Self {
        let flat = parts.into_iter().flat_map(|part| match part {
            Self::Or(inner) => inner,
            other => vec![other],
        });
        single_or(flat.collect(), Self::Or)
    }
}

fn single_or(parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match <[Expression; 1]>::try_from(parts) {
        Ok([only]) => only,
        Err(parts) => join(parts),
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equal(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEqual(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::Contains(key, part) => write!(f, "{key} contains {}", Quoted(part)),
            Self::StartsWith(key, part) => write!(f, "{key} starts with {}", Quoted(part)),
            Self::EndsWith(key, part) => write!(f, "{key} ends with {}", Quoted(part)),
            // No parenthesis that parsing did not need: each would count towards the depth.
            Self::Not(inner) if matches!(**inner, Self::And(_) | Self::Or(_)) => {
                write!(f, "!({inner})")
            }
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(parts) => join(f, parts, " && "),
            // `&&` binds tighter than `||`, so only the other way round needs parentheses.
            Self::Or(parts) => join(f, parts, " || "),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Expression], operator: &str) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(operator)?;
        }
        match part {
            Expression::Or(_) => write!(f, "({part})")?,
            simple => write!(f, "{simple}")?,
        }
    }
    Ok(())
}

/// A literal in the quotes that it does not itself contain (no literal that was parsed contains both).
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a BTreeSet<String>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
