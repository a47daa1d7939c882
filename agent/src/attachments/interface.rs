//! The name of an attachment's interface on the host.

use ipam::Holder;
use routes::LINK_PREFIX;
use sha2::{Digest, Sha256};

/// The host end's name of an attachment: `ptl` and 11 hex digits of a hash (interface names hold 15 characters).
pub(crate) fn host_interface(holder: &Holder) -> String {
    let mut hash = Sha256::new();
    hash.update(holder.container_id.as_bytes());
    hash.update([0]);
    hash.update(holder.interface.as_bytes());
    let mut name = LINK_PREFIX.to_owned();
    for byte in hash.finalize().iter().take(6) {
        name.push_str(&format!("{byte:02x}"));
    }
    name.truncate(LINK_PREFIX.len() + 11);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_and_differ() {
        let holder = |id: &str| Holder {
            container_id: id.to_owned(),
            interface: "eth0".to_owned(),
        };
        let names: Vec<_> = ["a", "b", "c"].map(|id| host_interface(&holder(id))).into();
        assert!(
            names
                .iter()
                .all(|name| name.len() == 14 && name.starts_with("ptl"))
        );
        assert_ne!(names[0], names[1]);
    }
}
