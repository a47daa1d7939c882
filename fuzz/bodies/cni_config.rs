//! What must hold of the reader of CNI configurations; run by libFuzzer, and on stable over the committed corpus.

use cni_spec::NetworkConfig;

/// Reads bytes as a configuration; written again, it reads as the same. Panics when that does not hold.
pub fn check(data: &[u8]) {
    let Ok(config) = NetworkConfig::parse(data) else {
        return;
    };
    let _ = config.previous_result();
    let _ = config.pod_annotations();
    let is_good = config.check_capabilities().is_ok();
    if is_good {
        check_capabilities(&config);
    }
    if let Ok(Some(name)) = config.ipam_plugin() {
        assert!(
            !name.contains('/') && name != ".." && !name.is_empty(),
            "{name}"
        );
    }
    let written = serde_json::to_vec(&config).expect("a configuration can be written");
    let again = NetworkConfig::parse(&written);
    assert_eq!(
        again.as_ref().ok(),
        Some(&config),
        "{}",
        String::from_utf8_lossy(&written)
    );
}

/// What holds of capabilities that are not refused.
fn check_capabilities(config: &NetworkConfig) {
    let ports = config.port_mappings().expect("it was checked");
    assert!(
        ports
            .iter()
            .all(|one| one.host_port > 0 && one.container_port > 0)
    );
    if let Some(limits) = config.bandwidth().expect("it was checked") {
        assert_eq!(limits.ingress_rate == 0, limits.ingress_burst == 0);
        assert_eq!(limits.egress_rate == 0, limits.egress_burst == 0);
    }
    if let Some([first, ..]) = config.requested_mac().expect("it was checked") {
        assert_eq!(first & 1, 0);
    }
    for set in config.ip_ranges().expect("it was checked") {
        assert!(!set.is_empty());
        for range in set {
            let ends = [range.range_start, range.range_end];
            assert!(ends.iter().flatten().all(|end| range.subnet.contains(end)));
        }
    }
    config.requested_ips().expect("it was checked");
    config
        .dns_over(cni_spec::Dns::default())
        .expect("it was checked");
}
