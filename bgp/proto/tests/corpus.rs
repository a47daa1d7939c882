//! Replays what fuzzing has found worth keeping, on stable, so that what was once found stays found.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    reason = "a test, and bodies it shares with the fuzz targets"
)]

#[path = "../../../fuzz/bodies/bfd_packet.rs"]
mod bfd_packet;
#[path = "../../../fuzz/bodies/bgp_input.rs"]
mod bgp_input;
#[path = "../../../fuzz/bodies/bgp_message.rs"]
mod bgp_message;
#[path = "../../../fuzz/bodies/bgp_messages.rs"]
mod bgp_messages;
#[path = "../../../fuzz/bodies/bgp_session.rs"]
mod bgp_session;
#[path = "../../../fuzz/bodies/bgp_speaker.rs"]
mod bgp_speaker;

/// Checks every file of a target's corpus; fewer than `at_least` mean that the corpus is not there.
fn replay(target: &str, at_least: usize, check: fn(&[u8])) {
    let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
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

/// A run of bytes drawn from a seed, so that a body is exercised beyond its corpus in each `cargo test`.
fn drawn(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| byte()).collect()
}

fn draw(seeds: u64, length: usize, check: fn(&[u8])) {
    // BODY_SEEDS=1000000 searches longer; a seed that failed is tried alone by BODY_SEED=seed.
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = number("BODY_SEEDS").unwrap_or(seeds);
    let seeds = number("BODY_SEED").map_or(0..seeds, |seed| seed..seed + 1);
    for seed in seeds {
        let bytes = drawn(seed, length);
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn every_file_of_the_corpus_holds() {
    replay("bgp_message", 70, bgp_message::check);
}

#[test]
fn every_file_of_the_corpus_of_bfd_holds() {
    replay("bfd_packet", 60, bfd_packet::check);
}

#[test]
fn every_file_of_the_corpus_of_sessions_holds() {
    replay("bgp_session", 50, bgp_session::check);
}

#[test]
fn every_file_of_the_corpus_of_speakers_holds() {
    replay("bgp_speaker", 50, bgp_speaker::check);
}

#[test]
fn bfd_holds_for_drawn_bytes() {
    draw(2_000, 300, bfd_packet::check);
}

#[test]
fn a_session_holds_for_drawn_bytes() {
    draw(2_000, 400, bgp_session::check);
}

#[test]
fn a_speaker_holds_for_drawn_bytes() {
    draw(100, 600, bgp_speaker::check);
}
