//! What must hold of the reader of tracked flows for any bytes; run by libFuzzer, and on stable over the committed corpus.

use routes::conntrack::ConntrackEntry;

/// Reads bytes as a flow. Panics when what is read, written and read again is another flow: it would be another
/// one that is deleted.
pub fn check(data: &[u8]) {
    let Some(entry) = ConntrackEntry::read(data) else {
        return;
    };
    assert_eq!(
        entry.original.source.is_ipv4(),
        entry.reply.destination.is_ipv4()
    );
    let mut body = Vec::new();
    entry.write(&mut body);
    assert_eq!(ConntrackEntry::read(&body), Some(entry));
}
