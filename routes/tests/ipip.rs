//! The IPIP device against a real kernel that lacks its driver; with it, see `tests/vm`.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

mod lab;

use std::collections::BTreeSet;

use lab::{in_netns, ip};
use routes::{Error, IPIP, Ipip, apply_ipip, delete_ipip};

fn wanted() -> Ipip {
    Ipip {
        local: "192.0.2.1".parse().unwrap(),
        mtu: 1480,
        addresses: BTreeSet::from(["10.48.1.0".parse().unwrap()]),
    }
}

#[test]
fn anothers_interface_of_the_name_is_left_alone_and_told_of() {
    in_netns(|| async {
        ip(&format!("link add {IPIP} type veth peer name other"));
        let error = apply_ipip(&wanted()).await.unwrap_err();
        assert!(matches!(error, Error::TunnelClash { .. }), "{error}");
        assert!(error.to_string().contains("rename it"), "{error}");
        assert!(!delete_ipip().await.unwrap());
        assert!(ip(&format!("link show {IPIP}")).contains(IPIP));
    });
}

#[test]
fn a_kernel_without_the_driver_is_told_of_with_what_loads_it() {
    in_netns(|| async {
        match apply_ipip(&wanted()).await {
            Ok(report) => {
                // This kernel has it.
                assert!(report.made && report.failed.is_empty(), "{report:?}");
                assert!(delete_ipip().await.unwrap());
            }
            Err(error) => {
                assert!(error.to_string().contains("`modprobe ipip`"), "{error}");
                assert!(!delete_ipip().await.unwrap());
            }
        }
    });
}
