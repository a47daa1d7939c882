//! Which answers of the DNS are held: those of the resolvers that count, to the pods that a policy with domain names
//! selects.

use api::resources::{ClusterNetworkPolicy, ClusterPeer};
use netfilter::{
    Action, ChainName, CtState, Family, IpSet, Match, Protocol, Rule, SetDirection, SetKind,
    SetName,
};

use crate::part::Part;
use crate::people::subject_labels;
use crate::{Direction, DomainNameSettings, Endpoint, Objects, Pods};

const DNS: u16 = 53;

/// The rules that send held answers to [`chain`]: a resolver's, on the reply side of the pod's own query. Of TCP that is
/// all that the resolver says: where a connection begins tells where a message begins.
pub(crate) fn rules(family: Family, enters_pod: &Match) -> Vec<Rule> {
    let reply = [
        Match::CtState([CtState::Established].into()),
        Match::CtReply,
    ];
    said_to_pods(family, enters_pod, &reply)
}

/// What the node itself sends to a pod: answers of a resolver in the node's own network namespace. Conntrack is not asked:
/// NodeLocal DNSCache has its packets untracked, and nobody but the node sends from the node's addresses here. All else is
/// none of our business.
pub(crate) fn output(family: Family, enters_pod: &Match) -> (ChainName, Vec<Rule>) {
    let mut rules = said_to_pods(family, enters_pod, &[Match::SourceLocal]);
    rules.push(Rule::new([], Action::Return));
    (ChainName::fixed("OUTPUT"), rules)
}

fn said_to_pods(family: Family, enters_pod: &Match, how: &[Match]) -> Vec<Rule> {
    let set = |name, direction| Match::Set {
        name,
        direction,
        negated: false,
    };
    let rule = |protocol| {
        let mut conditions = vec![
            enters_pod.clone(),
            Match::Protocol(protocol),
            Match::SourcePort(DNS),
            set(resolvers(family), SetDirection::Source),
            set(pods(family), SetDirection::Destination),
        ];
        conditions.extend_from_slice(how);
        Rule::new(conditions, Action::Goto(name()))
    };
    [Protocol::Udp, Protocol::Tcp].map(rule).into()
}

/// The chain that holds: the packet is marked as accepted, for what follows our chains, and waits for the agent. Where
/// none listens it goes on.
pub(crate) fn chain(settings: &DomainNameSettings, accepted: u32) -> (ChainName, Vec<Rule>) {
    let mark = Action::SetMark {
        value: accepted,
        mask: accepted,
    };
    let queue = Action::Nfqueue {
        queue: settings.queue,
    };
    let rules = [mark, queue, Action::Return];
    let rules = rules.map(|action| Rule::new([], action));
    (name(), rules.into())
}

fn name() -> ChainName {
    ChainName::fixed("DNS")
}

/// The resolvers, and the pods.
pub(crate) fn sets(family: Family, settings: &DomainNameSettings, objects: &Objects) -> [IpSet; 2] {
    let mut all = IpSet::new(resolvers(family), family, SetKind::HashIp);
    for address in &settings.resolvers {
        all.insert_ip(*address);
    }
    let (namespace, selector) = &settings.cluster_dns;
    let known = objects.pods.get(namespace).into_iter();
    let cluster = known
        .flat_map(Pods::iter)
        .filter(|pod| !pod.host_network && !pod.finished && selector.matches(&pod.labels));
    for pod in cluster {
        let own = objects.endpoints.values().filter(|one| one.pod == pod.name);
        let local = own.flat_map(|endpoint| &endpoint.addresses);
        local
            .chain(&pod.pod_ips)
            .for_each(|address| all.insert_ip(*address));
    }
    let mut learning = IpSet::new(pods(family), family, SetKind::HashIp);
    let policies = objects.cluster_policies.values();
    let parts: Vec<Part> = policies
        .filter(|policy| gives_names(policy))
        .filter_map(|policy| Part::of_cluster(policy, Direction::Egress))
        .collect();
    for endpoint in objects.endpoints.values() {
        if parts.iter().any(|part| selects(objects, part, endpoint)) {
            let addresses = endpoint.addresses.iter();
            addresses.for_each(|address| learning.insert_ip(*address));
        }
    }
    [all, learning]
}

fn gives_names(policy: &ClusterNetworkPolicy) -> bool {
    let mut peers = policy.egress.iter().flat_map(|rule| &rule.peers);
    peers.any(|peer| matches!(peer, ClusterPeer::DomainNames(_)))
}

fn selects(objects: &Objects, part: &Part, endpoint: &Endpoint) -> bool {
    let Some(labels) = subject_labels(objects, endpoint) else {
        return false;
    };
    let namespace = objects.namespaces.get(&endpoint.pod.namespace);
    let of_namespace = namespace.map(|namespace| &namespace.labels);
    let subject = part.subject.as_ref();
    subject.is_some_and(|choice| choice.chooses(&endpoint.pod.namespace, of_namespace, labels))
}

fn resolvers(family: Family) -> SetName {
    SetName::fixed(family, "resolvers")
}

fn pods(family: Family) -> SetName {
    SetName::fixed(family, "dns-pods")
}

#[cfg(test)]
mod tests {
    use netfilter::{Builtin, Table};

    use super::*;
    use crate::{Index, Settings};

    #[test]
    fn what_the_node_itself_sends_is_looked_at_only_where_answers_are_held() {
        let names = DomainNameSettings {
            queue: 1,
            cluster_dns: ("kube-system".to_owned(), api::LabelSelector::default()),
            resolvers: ["169.254.20.10".parse().unwrap()].into(),
        };
        for domain_names in [None, Some(names)] {
            let held = domain_names.is_some();
            let settings = Settings {
                domain_names,
                ..Settings::default()
            };
            let compiled = Index::with_settings(settings).compile();
            let filter = &compiled.v4.rules.tables[&Table::Filter];
            let mut hooks = filter.hooks.iter();
            assert_eq!(hooks.any(|hook| hook.chain == Builtin::Output), held);
            let output = filter.chains.get(&ChainName::fixed("OUTPUT"));
            let waiting = output.map(|rules| {
                let waits = |rule: &&Rule| *rule.action() == Action::Goto(name());
                rules.iter().filter(waits).count()
            });
            assert_eq!(waiting, held.then_some(2), "UDP and TCP");
        }
    }
}
