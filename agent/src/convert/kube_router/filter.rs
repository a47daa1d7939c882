//! What a node's annotations say of the routes of its external peers, as a BGPFilter.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::communities;
use super::super::input::Input;
use super::super::output::Output;
use super::super::report::Place;
use super::settings::split;

const PREPEND_AS: &str = "kube-router.io/path-prepend.as";
const PREPEND_TIMES: &str = "kube-router.io/path-prepend.repeat-n";
const COMMUNITIES: &str = "kube-router.io/node.bgp.communities";
const REJECT: &str = "kube-router.io/node.bgp.customimportreject";

/// What a node changes or refuses.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// AS number and how often, as written.
    pub(super) prepend: Option<(u32, u64)>,
    pub(super) communities: Vec<String>,
    /// Words that are no communities.
    pub(super) no_communities: usize,
    pub(super) reject: Vec<IpNet>,
    /// One of the CIDRs is none: kube-router then rejects nothing.
    pub(super) reject_is_wrong: bool,
}

impl Routes {
    pub(super) fn of(node: &Input) -> Self {
        let number = |key| {
            node.annotation(key)
                .and_then(|text| text.trim().parse().ok())
        };
        let times: Option<u64> = number(PREPEND_TIMES);
        let prepend = match (node.annotation(PREPEND_AS), times) {
            (Some(text), Some(times)) => text.trim().parse().ok().map(|number| (number, times)),
            _ => None,
        };
        let words = node.annotation(COMMUNITIES).map(split).unwrap_or_default();
        let known: Vec<String> = words
            .iter()
            .filter_map(|word| communities::of_gobgp(word))
            .map(|community| community.to_string())
            .collect();
        let nets = node.annotation(REJECT).map(split).unwrap_or_default();
        let nets: Option<Vec<IpNet>> = nets.iter().map(|text| text.parse().ok()).collect();
        Self {
            prepend,
            no_communities: words.len() - known.len(),
            communities: known,
            reject_is_wrong: nets.is_none(),
            reject: nets.unwrap_or_default(),
        }
    }

    /// Whether peers of the node need a filter.
    pub(super) fn is_needed(&self) -> bool {
        self.changes() || !self.reject.is_empty()
    }

    fn changes(&self) -> bool {
        self.prepend.is_some_and(|(_, times)| times > 0) || !self.communities.is_empty()
    }

    /// Writes the filter. Only what the node originates is sent, as without it.
    pub(super) fn write(&self, node: &str, output: &mut Output) -> Place {
        let mut draft = output.draft("BGPFilter", &filter_name(node));
        for (list, v4) in [("importV4", true), ("importV6", false)] {
            let nets = self.reject.iter().filter(|net| net.addr().is_ipv4() == v4);
            let rule = |net: &IpNet| json!({"cidr": net.trunc().to_string(), "matchOperator": "In", "action": "Reject"});
            let rules: Vec<Value> = nets.map(rule).collect();
            if !rules.is_empty() {
                draft.set(list, rules);
            }
        }
        if self.changes() {
            let mut operations = Vec::new();
            if let Some((number, times @ 1..)) = self.prepend {
                operations.push(json!({"prependAS": {"asNumber": number, "times": times.min(10)}}));
            }
            let add = |text: &String| json!({"addCommunity": {"value": text}});
            operations.extend(self.communities.iter().map(add));
            for list in ["exportV4", "exportV6"] {
                let rules = json!([
                    {"source": "RemotePeers", "action": "Reject"},
                    {"action": "Accept", "operations": operations},
                ]);
                draft.set(list, rules);
            }
        }
        let place = draft.itself();
        output.add(draft);
        place
    }
}

/// The name of a node's filter.
pub(super) fn filter_name(node: &str) -> String {
    format!("kube-router-{node}")
}
