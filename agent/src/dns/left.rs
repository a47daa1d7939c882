//! What an earlier run left in the kernel's sets of domain names.

use netfilter::{ActualSets, parse_sets};
use tracing::warn;

use crate::exec::run;

/// Reads sets back, with the addresses in them. What cannot be read is as good as lost: answers bring it back.
pub(crate) async fn read_left() -> ActualSets {
    let listing = run("ipset", &["save"], None).await;
    let listing = listing.map_err(|error| error.to_string());
    let sets = listing.and_then(|text| parse_sets(&text).map_err(|error| error.to_string()));
    sets.unwrap_or_else(|error| {
        warn!(%error, "addresses of domain names that an earlier run left are not known");
        ActualSets::default()
    })
}
