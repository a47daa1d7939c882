//! What must hold of converting a text, whatever it is; run by libFuzzer, and on stable over the committed corpus.

use agent::convert::{Counts, Outcome, convert};

/// Converts the bytes. Panics when something does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(conversion) = convert(text, "portolan") else {
        return;
    };
    for object in &conversion.objects {
        let field = |name: &str| object.value[name].as_str().unwrap_or_default();
        let parsed = api::parse(field("kind"), field("apiVersion"), object.value.clone());
        assert!(matches!(parsed, Ok(Some(_))), "{parsed:?}");
        assert!(
            object
                .comment
                .iter()
                .all(|line| !line.contains(char::is_control))
        );
    }
    for report in &conversion.report {
        assert!(
            !report.object.contains(char::is_control),
            "{}",
            report.object
        );
        for entry in &report.fields {
            // A line of a report is one line, and steers no terminal.
            assert!(!entry.field.contains(char::is_control), "{}", entry.field);
            assert!(!entry.note.contains(char::is_control), "{}", entry.note);
            let needs_note = entry.outcome != Outcome::Carried;
            assert!(!needs_note || !entry.note.is_empty(), "{entry:?}");
            // What was carried somewhere stands there.
            if let (Outcome::Carried | Outcome::Changed, Some(to)) =
                (entry.outcome, entry.to.first())
            {
                let there = conversion.objects.iter().any(|object| {
                    object.value["kind"] == to.kind && object.value["metadata"]["name"] == *to.name
                });
                assert!(there, "{entry:?}");
            }
        }
    }
    assert_eq!(conversion.counts, Counts::of(&conversion.report));
    let again = convert(text, "portolan").expect("it was read before");
    assert!(again.objects == conversion.objects && again.report == conversion.report);
}
