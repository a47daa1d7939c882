//! Replays what fuzzing has found worth keeping, on stable, so that what was once found stays found.
#![allow(missing_docs, clippy::unwrap_used, unreachable_pub, reason = "a test")]

#[path = "../../../fuzz/bodies/cni_config.rs"]
mod cni_config;
#[path = "../../../fuzz/bodies/cni_request.rs"]
mod cni_request;
#[path = "../../../fuzz/bodies/cni_result.rs"]
mod cni_result;

/// Replays a corpus; fewer files than were committed mean that it is not there.
fn replay(name: &str, at_least: usize, check: fn(&[u8])) {
    let folder = format!("{}/../../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
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
fn every_configuration_of_the_corpus_holds() {
    replay("cni_config", 40, cni_config::check);
}

#[test]
fn every_result_of_the_corpus_holds() {
    replay("cni_result", 20, cni_result::check);
}

#[test]
fn every_request_of_the_corpus_holds() {
    replay("cni_request", 10, cni_request::check);
}
