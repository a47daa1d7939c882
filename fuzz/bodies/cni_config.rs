//! What must hold of the reader of CNI configurations; run by libFuzzer, and on stable over the committed corpus.

use cni_spec::NetworkConfig;

/// Reads bytes as a configuration; written again, it reads as the same. Panics when that does not hold.
pub fn check(data: &[u8]) {
    let Ok(config) = NetworkConfig::parse(data) else {
        return;
    };
    let _ = config.previous_result();
    let _ = config.requested_ips();
    let written = serde_json::to_vec(&config).expect("a configuration can be written");
    let again = NetworkConfig::parse(&written);
    assert_eq!(
        again.as_ref().ok(),
        Some(&config),
        "{}",
        String::from_utf8_lossy(&written)
    );
}
