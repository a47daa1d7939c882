//! The verbs against states made up here: what they say, and what they say when the kernel differs.

mod explain;
mod list;
mod scale;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ::policy::{Compiled, Endpoint, FamilyRules, Index};
use api::{Change, NamespacedName};
use netfilter::{
    ActualSets, ChainName, Family, HookPosition, Rule, Saved, SavedHook, SavedRule, SavedText,
    Table,
};

use super::state::Known;
use crate::firewall::Held;

const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}
---
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {kubernetes.io/metadata.name: team}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.0.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec:
  nodeName: n1
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]
status: {podIPs: [{ip: 10.0.1.2}, {ip: 'fd00:1::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cache, labels: {app: cache}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: n2, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: team, name: tester, labels: {app: tester}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.9}, {ip: 'fd00:1::9'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: cache-from-web}
spec:
  podSelector: {matchLabels: {app: cache}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 6379}, {port: 7000, endPort: 7010}]
    - from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.66/32]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web-egress}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-metadata}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
    - name: nobody
      action: Deny
      to: [{networks: [169.254.169.254/32]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  tier: Baseline
  priority: 5
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: team}}}
  ingress:
    - name: same team
      action: Accept
      from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: team}}}]
    - action: Deny
      from: [{namespaces: {}}]
";

/// A text that is wanted, indented as the code around it.
struct Wanted(&'static str);

impl Wanted {
    fn assert_eq(&self, said: &str) {
        let lines = self.0.trim_start_matches('\n').lines();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let filled = lines.clone().filter(|line| !line.trim().is_empty());
        let common = filled.map(indent).min().unwrap_or_default();
        let mut text = String::new();
        for line in lines {
            text.push_str(line.get(common..).unwrap_or_default());
            text.push('\n');
        }
        // The last line is what stands before the closing quote.
        assert_eq!(said, text.strip_suffix('\n').unwrap_or_default());
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// This node is n1: web, cache and tester are attached here, and the kernel holds what was compiled.
fn known(more: &str) -> Known {
    let mut index = Index::new();
    let text = format!("{CLUSTER}{more}");
    let (objects, faults) = datastore::read_manifest("cluster.yaml", &text);
    assert_eq!(faults, []);
    for (key, value) in objects {
        let value = Some(value);
        index.handle(&Change { key, value });
    }
    let endpoint = |namespace: &str, name: &str, addresses: &[&str]| Endpoint {
        pod: NamespacedName::new(namespace, name),
        uid: String::new(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    };
    index.set_endpoints(BTreeMap::from([
        (
            "ptlweb".to_owned(),
            endpoint("shop", "web", &["10.0.1.2", "fd00:1::2"]),
        ),
        (
            "ptlcache".to_owned(),
            endpoint("shop", "cache", &["10.0.1.3"]),
        ),
        (
            "ptltester".to_owned(),
            endpoint("team", "tester", &["10.0.1.9", "fd00:1::9"]),
        ),
    ]));
    let compiled = index.compile();
    Known {
        node: "n1".to_owned(),
        objects: index.objects().clone(),
        settings: index.settings().clone(),
        problems: compiled.problems.iter().map(ToString::to_string).collect(),
        held: Ok(held(&compiled)),
        compiled,
    }
}

fn own() -> BTreeSet<IpAddr> {
    BTreeSet::from([ip("127.0.0.1"), ip("192.168.0.1")])
}

/// The kernel as it is once all was written; each rule has counted its place in its chain.
fn held(compiled: &Arc<Compiled>) -> Held {
    Held {
        v4: saved(&compiled.v4),
        v6: saved(&compiled.v6),
        sets: sets(compiled),
    }
}

fn saved(rules: &FamilyRules) -> Saved {
    let rule = |(place, rule): (u64, &Rule)| SavedRule {
        rule: SavedText::Rule(rule.clone()),
        packets: place,
        bytes: place * 60,
    };
    let mut saved = Saved::default();
    for (table, of_table) in &rules.rules.tables {
        for (name, rules) in &of_table.chains {
            let rules = (1..).zip(rules.iter()).map(rule).collect();
            saved.chains.insert((*table, name.clone()), rules);
        }
        for position in [HookPosition::First, HookPosition::Last] {
            let hooks = of_table.hooks.iter();
            let here = hooks.filter(|hook| hook.position == position);
            saved.hooks.extend(here.map(|hook| SavedHook {
                table: *table,
                chain: hook.chain.name().to_owned(),
                number: 1,
                of: 1,
                rule: rule((1, &hook.rule)),
            }));
        }
    }
    saved
}

fn sets(compiled: &Compiled) -> ActualSets {
    let mut text = String::new();
    for set in compiled.v4.sets.values().chain(compiled.v6.sets.values()) {
        let kind = match set.kind() {
            netfilter::SetKind::HashIp => "hash:ip",
            netfilter::SetKind::HashNet => "hash:net",
            netfilter::SetKind::HashNetIface => "hash:net,iface",
            netfilter::SetKind::HashIpPort => "hash:ip,port",
        };
        let family = match set.family() {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        writeln!(text, "create {} {kind} family {family}", set.name()).unwrap();
        for member in set.members() {
            writeln!(text, "add {} {member}", set.name()).unwrap();
        }
    }
    netfilter::parse_sets(&text).unwrap()
}

/// The chains of the filter table whose names start so.
fn chains_of(known: &Known, start: &str) -> Vec<ChainName> {
    let held = known.held.as_ref().unwrap();
    let keys = held.v4.chains.keys();
    keys.filter(|(table, name)| *table == Table::Filter && name.as_str().starts_with(start))
        .map(|(_, name)| name.clone())
        .collect()
}
