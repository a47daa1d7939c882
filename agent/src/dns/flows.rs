//! Which of some addresses live flows use.

use std::collections::BTreeSet;
use std::net::IpAddr;

use routes::conntrack::{Filter, list};
use tracing::warn;

/// Those of `addresses` that the kernel tracks a flow to. None if it cannot be asked: flows that are established go on
/// without.
pub(super) async fn used_of(mut addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    match list(Filter::default()).await {
        Ok(entries) => {
            let used: BTreeSet<IpAddr> = entries
                .iter()
                .flat_map(|entry| [entry.original.destination, entry.reply.source])
                .collect();
            addresses.retain(|address| used.contains(address));
            addresses
        }
        Err(error) => {
            warn!(%error, "cannot list flows: addresses of domain names end by their TTL alone");
            BTreeSet::new()
        }
    }
}
