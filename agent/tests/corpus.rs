//! Replays what fuzzing has found worth keeping, on stable, so that what was once found stays found.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test"
)]

#[path = "../../fuzz/bodies/convert.rs"]
mod convert;

/// Fewer files than were committed mean that the corpus is not there.
const AT_LEAST: usize = 40;

#[test]
fn every_file_of_the_convert_corpus_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/convert");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| convert::check(&bytes));
        assert!(outcome.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count >= AT_LEAST, "only {count} files in {folder}");
}
