//! MetalLB's BGPAdvertisement: which addresses go to which peers, as rules of a BGPFilter for each peer.

use std::collections::{BTreeMap, BTreeSet};

use api::Labels;
use api::resources::Community;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::communities;
use super::super::input::{Input, Reader, at};
use super::super::output::Output;
use super::super::report::Place;
use super::super::selectors;
use super::pool;

const SERVICES: &str = "the agents read Services where their --features name `services`, or `load-balancer` beside another proxy";
const WHOLE: &str =
    "a range that is aggregated is announced whether or not a Service has an address of it";
const BY_HAND: &str = "write the ranges into serviceLoadBalancerIPs of the BGPConfiguration: they are announced by every node that may, for every Service";
/// The most ranges that one becomes.
const MOST_RANGES: usize = 64;

/// The name of the filter of a peer.
pub(super) fn filter_name(peer: &str) -> String {
    format!("metallb-{peer}")
}

/// What one advertisement says to a peer of the addresses of one CIDR, by CIDR and length.
type Rules = BTreeMap<(IpNet, u8), (u32, BTreeSet<Community>)>;

/// The rules for what a peer is sent: IPv4's and IPv6's.
pub(super) fn exports(cluster: &Cluster<'_>, peer: &str) -> [Vec<Value>; 2] {
    let mut rules = Rules::new();
    for advert in cluster.all(super::GROUP, "BGPAdvertisement") {
        if !reaches(advert, peer) || narrowed(advert).is_some() {
            continue;
        }
        let local_pref = advert.get("spec.localPref").and_then(Value::as_u64);
        let local_pref = u32::try_from(local_pref.unwrap_or(0)).unwrap_or(0);
        let known: BTreeSet<Community> = resolved(cluster, advert)
            .into_iter()
            .filter_map(|(_, found)| found)
            .collect();
        for net in pools(cluster, advert).into_iter().flat_map(pool::all) {
            let length = aggregation(advert, &net);
            if length < net.prefix_len() {
                continue;
            }
            let rule = rules.entry((net, length)).or_default();
            rule.0 = rule.0.max(local_pref);
            rule.1.extend(&known);
        }
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for ((net, length), (local_pref, communities)) in rules {
        let mut operations = Vec::new();
        if local_pref > 0 {
            operations.push(json!({"setLocalPref": {"value": local_pref}}));
        }
        let add = |one: &Community| json!({"addCommunity": {"value": one.to_string()}});
        operations.extend(communities.iter().map(add));
        let mut rule = json!({
            "cidr": net.to_string(), "matchOperator": "In", "action": "Accept",
            "prefixLength": {"min": length, "max": length},
        });
        if let (false, Value::Object(fields)) = (operations.is_empty(), &mut rule) {
            fields.insert("operations".to_owned(), operations.into());
        }
        match net {
            IpNet::V4(_) => v4.push(rule),
            IpNet::V6(_) => v6.push(rule),
        }
    }
    for list in [&mut v4, &mut v6] {
        list.push(json!({"action": "Reject"}));
    }
    [v4, v6]
}

fn texts<'a>(input: &'a Input, field: &str) -> Vec<&'a str> {
    let list = input.get(field).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn is_there(input: &Input, field: &str) -> bool {
    input
        .get(field)
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
}

fn reaches(advert: &Input, peer: &str) -> bool {
    !is_there(advert, "spec.peers") || texts(advert, "spec.peers").contains(&peer)
}

/// What makes an advertisement too narrow for a filter to say.
fn narrowed(advert: &Input) -> Option<&'static str> {
    ["spec.nodeSelectors", "spec.serviceSelectors"]
        .into_iter()
        .find(|field| is_there(advert, field))
}

/// The pools of an advertisement: those named and those selected; all if it says neither.
fn pools<'a>(cluster: &Cluster<'a>, advert: &Input) -> Vec<&'a Input> {
    let names = texts(advert, "spec.ipAddressPools");
    let by_label = advert
        .get("spec.ipAddressPoolSelectors")
        .and_then(Value::as_array);
    let by_label: Vec<_> = by_label
        .into_iter()
        .flatten()
        .map(selectors::parse)
        .collect();
    let wanted = |pool: &&Input| {
        let labels: Option<BTreeMap<String, String>> = pool
            .get("metadata.labels")
            .and_then(|labels| serde_json::from_value(labels.clone()).ok());
        let labels = Labels::from(labels.unwrap_or_default());
        (names.is_empty() && by_label.is_empty())
            || names.contains(&pool.name.as_str())
            || by_label
                .iter()
                .flatten()
                .any(|selector| selector.matches(&labels))
    };
    cluster
        .all(super::GROUP, "IPAddressPool")
        .filter(wanted)
        .collect()
}

fn aggregation(advert: &Input, net: &IpNet) -> u8 {
    let (field, longest) = match net {
        IpNet::V4(_) => ("spec.aggregationLength", 32),
        IpNet::V6(_) => ("spec.aggregationLengthV6", 128),
    };
    let written = advert.get(field).and_then(Value::as_u64);
    written
        .and_then(|length| u8::try_from(length).ok())
        .filter(|length| *length <= longest)
        .unwrap_or(longest)
}

/// Each of its communities, and what it is: by value, or by name in a Community.
fn resolved<'a>(cluster: &Cluster<'_>, advert: &'a Input) -> Vec<(&'a str, Option<Community>)> {
    let named = |wanted: &str| {
        let all = cluster.all(super::GROUP, "Community");
        let entries = all.filter_map(|one| one.get("spec.communities")?.as_array());
        let found = entries
            .flatten()
            .find(|entry| at(entry, "name").and_then(Value::as_str) == Some(wanted))?;
        communities::of_metallb(at(found, "value")?.as_str()?)
    };
    let all = texts(advert, "spec.communities").into_iter();
    all.map(|text| (text, named(text).or_else(|| communities::of_metallb(text))))
        .collect()
}

/// The ranges of `serviceLoadBalancerIPs` that an advertisement asks for; why there are none.
fn ranges(cluster: &Cluster<'_>, advert: &Input) -> Result<Vec<Value>, String> {
    if let Some(field) = narrowed(advert) {
        return Err(format!("{field} cannot be said: {BY_HAND}"));
    }
    let mut ranges = Vec::new();
    for net in pools(cluster, advert).into_iter().flat_map(pool::all) {
        let length = aggregation(advert, &net);
        if length == net.max_prefix_len() {
            ranges.push(json!({"cidr": net.to_string(), "aggregation": "Disabled"}));
            continue;
        }
        let parts = net.subnets(length).into_iter().flatten();
        let parts: Vec<IpNet> = parts.take(MOST_RANGES + 1).collect();
        if parts.is_empty() || parts.len() > MOST_RANGES {
            return Err(format!(
                "its aggregation length makes no or too many ranges of {net}: {BY_HAND}"
            ));
        }
        let whole = |part: &IpNet| json!({"cidr": part.to_string(), "aggregation": "Enabled"});
        ranges.extend(parts.iter().map(whole));
    }
    match ranges.is_empty() {
        true => Err("no IPAddressPool that was read is of it".to_owned()),
        false => Ok(ranges),
    }
}

/// Has its pools' addresses announced.
fn announce(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    const FIELD: &str = "(announcement)";
    const OURS: &str = "serviceLoadBalancerIPs";
    let more = match ranges(cluster, reader.input) {
        Ok(ranges) => ranges,
        Err(why) => return reader.none(FIELD, &why),
    };
    let is_whole = more.iter().any(|range| range["aggregation"] == "Enabled");
    let known = output.configured(OURS).and_then(Value::as_array);
    let mut all = known.cloned().unwrap_or_default();
    for range in more {
        if !all.contains(&range) {
            all.push(range);
        }
    }
    match output.replace(OURS, all.into()) {
        Ok(to) if is_whole => reader.changed(FIELD, vec![to], &format!("{WHOLE}; {SERVICES}")),
        Ok(to) => reader.carried_so(FIELD, vec![to], SERVICES),
        Err(why) => reader.none(FIELD, &why),
    }
}

pub(super) fn convert(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    reader.common(None);
    announce(reader, cluster, output);
    let input = reader.input;
    let to: Vec<Place> = cluster
        .all(super::GROUP, "BGPPeer")
        .filter(|peer| reaches(input, &peer.name))
        .map(|peer| Place {
            kind: "BGPFilter",
            name: filter_name(&peer.name),
            field: "spec.exportV4".to_owned(),
        })
        .collect();
    let narrowed = narrowed(input);
    let said = narrowed.is_none() && !to.is_empty();
    let why = match narrowed {
        Some(field) => format!(
            "{field} cannot be said in a BGPFilter, so the advertisement is in none: {BY_HAND}"
        ),
        None => "no BGPPeer that was read is told of it".to_owned(),
    };
    for field in ["nodeSelectors", "serviceSelectors"] {
        let field = format!("spec.{field}");
        if !reader.list(&field).is_empty() {
            let why =
                format!("a filter holds for all nodes of its peer and for all Services; {BY_HAND}");
            reader.none(&field, &why);
        }
    }
    let known = resolved(cluster, input);
    for (field, text) in reader.texts("spec.communities") {
        let community = known.iter().find(|(name, _)| *name == text);
        match community.and_then(|(_, found)| *found) {
            Some(_) if said => reader.carried_so(&field, to.clone(), ""),
            Some(_) => reader.none(&field, &why),
            None => reader.none(
                &field,
                "no Community that was read has this name, and it is no aa:nn or large:aa:nn:mm",
            ),
        }
    }
    for field in [
        "aggregationLength",
        "aggregationLengthV6",
        "localPref",
        "ipAddressPools",
        "ipAddressPoolSelectors",
        "peers",
    ] {
        let field = format!("spec.{field}");
        match reader.get(&field) {
            None => {}
            Some(Value::Array(list)) if list.is_empty() => reader.not_needed(&field, "it is empty"),
            Some(_) if said => reader.carried_so(&field, to.clone(), ""),
            Some(_) => reader.none(&field, &why),
        }
    }
}
