//! What must hold of the reader of DNS answers for any bytes; run by libFuzzer, and on stable over the committed corpus.

use policy::DnsAnswer;

/// Reads the bytes as a message. What is read has names of a host's octets only, in lower case. Panics when not.
pub fn check(data: &[u8]) {
    let Ok(Some(answer)) = DnsAnswer::read(data) else {
        return;
    };
    let octet = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let names = answer.records.iter().map(|record| &record.owner);
    for name in names.chain([&answer.question]) {
        assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
        assert!(name.chars().all(octet), "{name:?}");
        assert!(
            name.split('.').all(|label| (1..=63).contains(&label.len())),
            "{name:?}"
        );
    }
}
