//! What must hold of the selector parser for any text; run by libFuzzer, and on stable over the committed corpus.

use api::selector::Selector;

/// Parses a text; what was understood reads back as the same, and can be asked. Panics when that does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(selector) = Selector::parse(text) else {
        return;
    };
    let canonical = selector.to_string();
    // Quoting may lengthen a text beyond what is read.
    if canonical.len() <= api::selector::MAX_LENGTH {
        let again = Selector::parse(&canonical);
        assert_eq!(
            again.as_ref(),
            Ok(&selector),
            "{text:?} became {canonical:?}"
        );
    }
    selector.matches(&Default::default());
}
