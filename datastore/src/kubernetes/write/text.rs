//! Words for people in objects of the API: bounded.

/// The longest note of an Event, and the longest message that is written anywhere, in octets.
pub(crate) const LONGEST: usize = 1024;

/// A text of at most [`LONGEST`] octets; `…` stands for what is left out.
pub(crate) fn shortened(text: &str) -> String {
    cut(text, LONGEST, "…")
}

/// A text of at most so many octets, cut at a character.
pub(crate) fn cut(text: &str, most: usize, ending: &str) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub(ending.len()));
    let (kept, _) = text.split_at(end);
    format!("{kept}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character_and_fits() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(LONGEST);
        let cut = shortened(&long);
        assert!(cut.len() <= LONGEST && cut.len() > LONGEST - 4 && cut.ends_with('…'));
    }
}
