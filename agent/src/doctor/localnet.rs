//! The check of who may send to what listens on the node's loopback alone: kube-proxy opens it and leaves it open (semantics 152).

use std::fs;

use super::catalog::ROUTE_LOCALNET;
use super::finding::Finding;
use super::listing::Listing;
use super::scene::Scene;

/// What a rule that guards it has for a destination.
const LOOPBACK: &str = "-d 127.0.0.0/8";

/// Uplinks by which the kernel takes packets for 127.0.0.0/8.
pub(super) fn open(scene: &Scene) -> Vec<String> {
    let is_on = |interface: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
        fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
    };
    // ip-sysctl: the larger of `all` and the interface's own counts.
    let is_for_all = is_on("all");
    let uplinks = scene.uplinks().into_iter();
    uplinks
        .filter(|uplink| is_for_all || is_on(uplink))
        .collect()
}

/// Switches it off, for all and for each: a name may have dots, so that slashes part the words.
fn close(open: &[String]) -> String {
    let names = std::iter::once("all").chain(open.iter().map(String::as_str));
    let commands = names.map(|name| format!("sysctl -w net/ipv4/conf/{name}/route_localnet=0"));
    commands.collect::<Vec<_>>().join("; ")
}

/// Judges.
pub(super) fn judge(open: &[String], listings: &Result<Vec<Listing>, String>) -> Finding {
    if open.is_empty() {
        return ROUTE_LOCALNET.ok("no uplink takes packets for 127.0.0.0/8");
    }
    let names = open.join(", ");
    let listings = match listings {
        Ok(listings) => listings,
        Err(why) => return ROUTE_LOCALNET.skipped(format!("rules cannot be read: {why}")),
    };
    let chains = listings.iter().flat_map(|listing| &listing.chains);
    // Of pods' interfaces alone is not of the uplinks'.
    let is_guard = |rule: &String| {
        let is_for_it = rule.contains(LOOPBACK) && !rule.contains(&format!("! {LOOPBACK}"));
        is_for_it && rule.ends_with("-j DROP") && !rule.contains("-i ")
    };
    let mut guarding = chains.filter(|chain| chain.rules.iter().any(is_guard));
    if let Some(chain) = guarding.next() {
        return ROUTE_LOCALNET.ok(format!("{names}: {} drops what comes in", chain.name));
    }
    ROUTE_LOCALNET.warning(
        format!("{names}: packets for 127.0.0.0/8 are taken, and no rule drops them"),
        "kube-proxy switches route_localnet on so that node ports answer at 127.0.0.1, and drops others' packets by a rule of its own \
         (KUBE-FIREWALL); once the rule is gone, hosts of the same network reach what listens on this node's loopback alone",
        close(open),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::listing::tests::nft;
    use super::*;

    #[test]
    fn rule_152_an_open_loopback_is_a_warning_unless_a_rule_drops_what_comes() {
        let verdict = |open: &[&str], rule: &str| {
            let open: Vec<String> = open.iter().map(|one| (*one).to_owned()).collect();
            let rules = format!("*filter\n:KUBE-FIREWALL - [0:0]\n{rule}COMMIT\n");
            judge(&open, &Ok(vec![nft(&rules)])).verdict
        };
        let guard = "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n";
        let of_pods = "-A KUBE-FIREWALL -d 127.0.0.0/8 -i ptl+ -j DROP\n";
        assert_eq!(verdict(&[], ""), Verdict::Ok);
        assert_eq!(verdict(&["eth0"], ""), Verdict::Warning);
        assert_eq!(verdict(&["eth0"], of_pods), Verdict::Warning);
        assert_eq!(verdict(&["eth0"], guard), Verdict::Ok);
        assert_eq!(
            judge(&["eth0".to_owned()], &Err("x".to_owned())).verdict,
            Verdict::Skipped
        );
    }
}
