//! The grammar of selectors, as nom parsers that remember the furthest point reached and what was expected there.

use std::collections::BTreeSet;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{char, multispace0};
use nom::combinator::{cond, cut, eof, map, not, opt, value};
use nom::error::{ContextError, ErrorKind, ParseError, context};
use nom::multi::many0;
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use super::{Expression, MAX_DEPTH, SelectorError};

/// What was expected where `rest` begins.
#[derive(Debug)]
struct Mismatch<'a> {
    rest: &'a str,
    expected: Vec<&'static str>,
}

type Parsed<'a, T> = IResult<&'a str, T, Mismatch<'a>>;

pub(super) fn selector(text: &str) -> Result<Expression, SelectorError> {
    let mut whole = alt((
        value(Expression::All, (multispace0, eof)),
        terminated(
            |rest| disjunction(rest, 0),
            token("`&&`, `||` or the end", eof),
        ),
    ));
    match whole.parse(text) {
        Ok((_, expression)) => Ok(expression),
        Err(nom::Err::Error(mismatch) | nom::Err::Failure(mismatch)) => {
            Err(mismatch.into_error(text))
        }
        Err(nom::Err::Incomplete(_)) => Err(Mismatch::at("", "the rest").into_error(text)),
    }
}

fn disjunction(rest: &str, depth: usize) -> Parsed<'_, Expression> {
    let conjunct = |rest| conjunction(rest, depth);
    let (rest, first) = conjunct(rest)?;
    let (rest, others) = many0(preceded(token("`||`", tag("||")), cut(conjunct))).parse(rest)?;
    Ok((
        rest,
        Expression::or(std::iter::once(first).chain(others).collect()),
    ))
}

fn conjunction(rest: &str, depth: usize) -> Parsed<'_, Expression> {
    let part = |rest| negation(rest, depth);
    let (rest, first) = part(rest)?;
    let (rest, others) = many0(preceded(token("`&&`", tag("&&")), cut(part))).parse(rest)?;
    Ok((
        rest,
        Expression::and(std::iter::once(first).chain(others).collect()),
    ))
}

fn negation(rest: &str, depth: usize) -> Parsed<'_, Expression> {
    let (rest, _) = multispace0(rest)?;
    if depth > MAX_DEPTH {
        return Err(nom::Err::Failure(Mismatch::at(
            rest,
            "less nesting (at most 32 deep)",
        )));
    }
    let opposite = preceded(char('!'), cut(|rest| negation(rest, depth + 1)));
    let group = delimited(
        char('('),
        cut(|rest| disjunction(rest, depth + 1)),
        cut(token("`&&`, `||` or `)`", char(')'))),
    );
    context(
        "a label, `has(`, `all()`, `!` or `(`",
        alt((
            map(opposite, |inner| Expression::Not(Box::new(inner))),
            group,
            operand,
        )),
    )
    .parse(rest)
}

fn operand(rest: &str) -> Parsed<'_, Expression> {
    let (after, word) = label(rest)?;
    let called = preceded(multispace0::<_, Mismatch<'_>>, char('(')).parse(after);
    match (word, called) {
        ("all", Ok((arguments, _))) => {
            value(Expression::All, cut(token("`)`", char(')')))).parse(arguments)
        }
        ("global", Ok((arguments, _))) => {
            value(Expression::Global, cut(token("`)`", char(')')))).parse(arguments)
        }
        ("has", Ok((arguments, _))) => {
            let key = delimited(
                multispace0,
                context("a label", label),
                token("`)`", char(')')),
            );
            map(cut(key), |key: &str| Expression::Has(key.to_owned())).parse(arguments)
        }
        _ => cut(|rest| comparison(rest, word)).parse(after),
    }
}

fn comparison<'a>(rest: &'a str, key: &str) -> Parsed<'a, Expression> {
    let key = || key.to_owned();
    let with = |first: &'static str| (tag(first), token("`with`", tag("with")));
    preceded(
        multispace0,
        context(
            "`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with`",
            alt((
                map(preceded(tag("=="), cut(literal)), |text| {
                    Expression::Equal(key(), text)
                }),
                map(preceded(tag("!="), cut(literal)), |text| {
                    Expression::NotEqual(key(), text)
                }),
                map(preceded(word("contains"), cut(literal)), |text| {
                    Expression::Contains(key(), text)
                }),
                map(preceded(with("starts"), cut(literal)), |text| {
                    Expression::StartsWith(key(), text)
                }),
                map(preceded(with("ends"), cut(literal)), |text| {
                    Expression::EndsWith(key(), text)
                }),
                map(preceded(word("in"), cut(set)), |values| {
                    Expression::In(key(), values)
                }),
                map(
                    preceded((tag("not"), token("`in`", word("in"))), cut(set)),
                    |values| Expression::NotIn(key(), values),
                ),
            )),
        ),
    )
    .parse(rest)
}

/// A word that no label character follows.
fn word<'a>(text: &'static str) -> impl Parser<&'a str, Output = &'a str, Error = Mismatch<'a>> {
    terminated(tag(text), not(take_while1(is_label_character)))
}

fn set(rest: &str) -> Parsed<'_, BTreeSet<String>> {
    let (rest, _) = token("`{`", char('{')).parse(rest)?;
    let (rest, first) = opt(literal).parse(rest)?;
    let more = preceded(token("`,`", char(',')), cut(literal));
    let (rest, others) = cond(first.is_some(), many0(more)).parse(rest)?;
    let (rest, _) = token("`,` or `}`", char('}')).parse(rest)?;
    Ok((
        rest,
        first
            .into_iter()
            .chain(others.into_iter().flatten())
            .collect(),
    ))
}

/// A text in single or double quotes; nothing in it is escaped, so it never holds the quote it stands in.
fn literal(rest: &str) -> Parsed<'_, String> {
    let quoted = |quote: char| {
        delimited(
            char(quote),
            take_while(move |c| c != quote),
            cut(context("a closing quote", char(quote))),
        )
    };
    let text = token("a text in quotes", alt((quoted('\''), quoted('"'))));
    map(text, str::to_owned).parse(rest)
}

fn label(rest: &str) -> Parsed<'_, &str> {
    context("a label", take_while1(is_label_character)).parse(rest)
}

fn is_label_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

/// What `inner` reads, after any white space; `expected` names it in errors.
fn token<'a, P>(
    expected: &'static str,
    inner: P,
) -> impl Parser<&'a str, Output = P::Output, Error = Mismatch<'a>>
where
    P: Parser<&'a str, Error = Mismatch<'a>>,
{
    preceded(multispace0, context(expected, inner))
}

impl<'a> Mismatch<'a> {
    fn at(rest: &'a str, expected: &'static str) -> Self {
        Self {
            rest,
            expected: vec![expected],
        }
    }

    fn into_error(self, text: &str) -> SelectorError {
        let before = text.len().saturating_sub(self.rest.len());
        let position = text
            .get(..before)
            .map_or(before, |read| read.chars().count())
            + 1;
        let expected = match self.expected.is_empty() {
            true => "something else".to_owned(),
            false => self.expected.join(", "),
        };
        SelectorError { position, expected }
    }
}

impl<'a> ParseError<&'a str> for Mismatch<'a> {
    fn from_error_kind(rest: &'a str, _: ErrorKind) -> Self {
        Self {
            rest,
            expected: Vec::new(),
        }
    }

    fn append(_: &'a str, _: ErrorKind, other: Self) -> Self {
        other
    }

    /// Of two alternatives the one that got further says what is wrong.
    fn or(mut self, other: Self) -> Self {
        match self.rest.len().cmp(&other.rest.len()) {
            std::cmp::Ordering::Less => self,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => {
                self.expected.extend(other.expected);
                self
            }
        }
    }
}

impl<'a> ContextError<&'a str> for Mismatch<'a> {
    fn add_context(rest: &'a str, expected: &'static str, inner: Self) -> Self {
        if inner.rest.len() < rest.len() {
            inner
        } else {
            Self::at(rest, expected)
        }
    }
}
