//! Replays what fuzzing has found worth keeping, on stable, so that what was once found stays found.
#![allow(missing_docs, clippy::unwrap_used, unreachable_pub, reason = "a test")]

#[path = "../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../fuzz/bodies/selector.rs"]
mod selector;

/// Fewer files than were committed mean that the corpus is not there.
fn replay(corpus: &str, at_least: usize, check: fn(&[u8])) {
    let folder = format!("{}/../fuzz/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count >= at_least, "only {count} files in {folder}");
}

#[test]
fn every_file_of_the_selector_corpus_holds() {
    replay("selector", 30, selector::check);
}

#[test]
fn every_file_of_the_manifest_corpus_holds() {
    replay("manifest", 50, manifest::check);
}
