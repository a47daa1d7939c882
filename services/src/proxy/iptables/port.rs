//! What one port of a Service has in one family: its own chains, and its rules in those that all share.

use std::net::SocketAddr;
use std::time::Duration;

use api::resources;
use ipnet::IpNet;
use netfilter::{Action, ChainName, InterfaceMatch, Match, Note, PortRange, Protocol, Rule, Table};

use super::super::endpoints::Endpoint;
use super::super::model::{Answer, Answers, Frontend, FrontendKind, Scope, ServicePort};
use super::super::protocol_word;
use super::base::mark_masquerade;
use super::dispatch::{Key, Role};
use super::{EndpointChains, Leads, Options, Part, served};

/// The names of a port's chains.
struct Names<'a> {
    port: &'a ServicePort,
    /// `namespace/name:port`.
    text: String,
}

impl<'a> Names<'a> {
    fn of(port: &'a ServicePort) -> Self {
        let text = port.name.to_string();
        Self { port, text }
    }

    fn chain(&self, kind: &'static str) -> ChainName {
        let protocol = protocol_word(self.port.name.protocol);
        ChainName::of_service(kind, &[&self.text, protocol])
    }

    fn of_scope(&self, scope: Scope) -> ChainName {
        self.chain(match scope {
            Scope::Cluster => "KUBE-SVC-",
            Scope::Local => "KUBE-SVL-",
        })
    }

    fn external(&self) -> ChainName {
        self.chain("KUBE-EXT-")
    }

    fn firewall(&self) -> ChainName {
        self.chain("KUBE-FW-")
    }

    fn endpoint(&self, endpoint: SocketAddr) -> ChainName {
        let protocol = protocol_word(self.port.name.protocol);
        ChainName::of_service("KUBE-SEP-", &[&self.text, protocol, &endpoint.to_string()])
    }

    fn note(&self, more: &str) -> Note {
        Note::new(&format!("{}{more}", self.text))
    }
}

pub(super) fn protocol(of: resources::Protocol) -> Protocol {
    match of {
        resources::Protocol::Tcp => Protocol::Tcp,
        resources::Protocol::Udp => Protocol::Udp,
        resources::Protocol::Sctp => Protocol::Sctp,
    }
}

/// Adds a port to what its Service has.
pub(super) fn add(part: &mut Part, port: &ServicePort, options: &Options) {
    let names = Names::of(port);
    for frontend in &port.frontends {
        part.rules.extend(shared(&names, frontend, options));
    }
    let mut scopes = Vec::new();
    let inside = port
        .frontends
        .iter()
        .find(|one| one.kind == FrontendKind::ClusterIp)
        // What IPVS leads is marked by sets.
        .filter(|_| options.leads == Leads::Chains || served::is_split_inside(port, options));
    if let (Some(_), Answer::Forward { to, .. }) = (inside, port.internal.other) {
        scopes.push(to);
    }
    let is_outside = |one: &Frontend| one.kind != FrontendKind::ClusterIp;
    if port.choice.has_any && port.frontends.iter().any(is_outside) {
        if has_firewall(port) {
            put(part, Table::Nat, names.firewall(), firewall(&names));
            if options.leads == Leads::Ipvs {
                let judged = judging_firewall(&names);
                put(part, Table::Mangle, names.firewall(), judged);
            }
        }
        if options.leads == Leads::Chains || served::is_split(port, options) {
            scopes.extend(led_outside(port, options));
            put(
                part,
                Table::Nat,
                names.external(),
                external(&names, options),
            );
        } else {
            part.chains.remove(&(Table::Nat, names.firewall()));
        }
    }
    scopes.sort();
    scopes.dedup();
    for scope in scopes {
        let rules = balance(&names, scope, inside, options);
        put(part, Table::Nat, names.of_scope(scope), rules);
        for one in port.endpoints(scope) {
            if has_chain(port, one, options) {
                let name = names.endpoint(one.address);
                let rules = endpoint(&names, one.address);
                put(part, Table::Nat, name, rules);
            }
        }
    }
    if options.leads == Leads::Ipvs {
        served::add(part, port, options);
    }
}

/// Whose chains senders of what is not a cluster IP are led to.
fn led_outside(port: &ServicePort, options: &Options) -> impl Iterator<Item = Scope> {
    let Answers {
        own_pod,
        node,
        other,
    } = port.external;
    // IPVS leads all others.
    let other = Some(other).filter(|_| options.leads == Leads::Chains);
    let answers = [Some(own_pod), Some(node), other];
    answers.into_iter().filter_map(|answer| match answer {
        Some(Answer::Forward { to, .. }) => Some(to),
        _ => None,
    })
}

/// Whether an endpoint needs a chain of its own. It does where it may ask itself through this node: a pod of another node is
/// masqueraded here anyway, or not led to itself.
fn has_chain(port: &ServicePort, endpoint: &Endpoint, options: &Options) -> bool {
    let may_ask_itself = endpoint.is_local || endpoint.node.is_none();
    options.endpoint_chains == EndpointChains::All || port.affinity.is_some() || may_ask_itself
}

fn put(part: &mut Part, table: Table, name: ChainName, rules: Vec<Rule>) {
    part.chains.insert((table, name), rules.into());
}

/// Whether some may not ask the load balancer's addresses. Where nobody can be asked, all are refused alike.
pub(super) fn has_firewall(port: &ServicePort) -> bool {
    let is_balanced = |one: &Frontend| one.kind == FrontendKind::LoadBalancer;
    !port.sources.is_empty() && port.frontends.iter().any(is_balanced)
}

/// The conditions by which packets for a frontend are known, and its place in a shared chain.
fn at(port: &ServicePort, frontend: &Frontend) -> (Vec<Match>, Key) {
    let protocol = protocol(port.name.protocol);
    let number = frontend.port;
    let mut conditions = vec![
        Match::Protocol(protocol),
        Match::DestinationPorts(vec![PortRange::new(number, number)]),
    ];
    match frontend.address {
        Some(address) => {
            conditions.push(Match::Destination(address.into()));
            (conditions, Key::address(address, number, protocol))
        }
        None => (conditions, Key::port(protocol, number)),
    }
}

/// A frontend's rules in the chains that all share.
fn shared(names: &Names<'_>, frontend: &Frontend, options: &Options) -> Vec<(Role, (Key, Rule))> {
    let port = names.port;
    let (conditions, key) = at(port, frontend);
    let mut rules = Vec::new();
    let mut add = |role: Role, more: &[Match], action: Action, note: &str| {
        let conditions = conditions.iter().chain(more).cloned();
        let rule = Rule::new(conditions, action).noted(names.note(note));
        rules.push((role, (key, rule)));
    };
    let answer = port.answers(frontend.kind).other;
    let (refused_in, more): (Role, &[Match]) = match frontend.kind {
        FrontendKind::ClusterIp => (Role::Refused, &[]),
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => (Role::RefusedOutside, &[]),
        FrontendKind::NodePort => (Role::RefusedOutside, &[Match::DestinationLocal]),
    };
    match answer {
        Answer::Reject => add(
            refused_in,
            more,
            Action::Reject(port.family),
            " has no endpoints",
        ),
        Answer::Drop => add(refused_in, more, Action::Drop, " has no local endpoints"),
        Answer::Forward { .. } => {}
    }
    let is_led = match frontend.kind {
        FrontendKind::ClusterIp => matches!(answer, Answer::Forward { .. }),
        // Even where the outside is dropped: this node and its pods ask the cluster.
        _ => port.choice.has_any,
    };
    if !is_led {
        return rules;
    }
    if frontend.kind == FrontendKind::LoadBalancer && has_firewall(port) {
        let note = format!(" traffic not accepted by {}", names.firewall());
        let judged = match options.leads {
            // Whoever may ask was led away before.
            Leads::Chains => Action::Drop,
            Leads::Ipvs => Action::Jump(names.firewall()),
        };
        add(Role::Firewall, &[], judged, &note);
    }
    let is_ipvs = options.leads == Leads::Ipvs;
    let is_inside = frontend.kind == FrontendKind::ClusterIp;
    let is_split = match is_inside {
        true => served::is_split_inside(port, options),
        false => served::is_split(port, options),
    };
    if is_ipvs && !is_split {
        return rules;
    }
    let (role, to, note) = match frontend.kind {
        FrontendKind::ClusterIp => {
            let to = match answer {
                Answer::Forward { to, .. } => to,
                Answer::Reject | Answer::Drop => return rules,
            };
            (Role::Services, names.of_scope(to), " cluster IP")
        }
        FrontendKind::ExternalIp => (Role::Services, names.external(), " external IP"),
        FrontendKind::LoadBalancer if has_firewall(port) => {
            (Role::Services, names.firewall(), " loadbalancer IP")
        }
        FrontendKind::LoadBalancer => (Role::Services, names.external(), " loadbalancer IP"),
        FrontendKind::NodePort => (Role::NodePorts, names.external(), ""),
    };
    let of_pods = [Match::InInterface(of_pods(options))];
    let who: &[Match] = if is_ipvs && is_inside { &of_pods } else { &[] };
    add(role, who, Action::Jump(to), note);
    rules
}

fn masquerade(conditions: Vec<Match>) -> Rule {
    Rule::new(conditions, Action::Jump(mark_masquerade()))
}

fn of_pods(options: &Options) -> InterfaceMatch {
    InterfaceMatch::Prefix(options.pod_interfaces.clone())
}

/// From outside: semantics 130.
fn external(names: &Names<'_>, options: &Options) -> Vec<Rule> {
    let external = &names.port.external;
    let mut rules = Vec::new();
    let to = |answer| match answer {
        Answer::Forward { to, masquerade } => Some((names.of_scope(to), masquerade)),
        Answer::Reject | Answer::Drop => None,
    };
    let is_one = external.own_pod == external.other && external.node == external.other;
    if is_one && options.leads == Leads::Ipvs {
        if let Some((chain, masquerades)) = to(external.own_pod) {
            let from_pod = || vec![Match::InInterface(of_pods(options))];
            if masquerades {
                let note = names.note_of("masquerade pod traffic for", "external destinations");
                rules.push(masquerade(from_pod()).noted(note));
            }
            let note = names.note_of("pod traffic for", "external destinations");
            rules.push(Rule::new(from_pod(), Action::Jump(chain)).noted(note));
        }
    } else if is_one {
        if let Some((_, true)) = to(external.other) {
            let note = names.note_of("masquerade traffic for", "external destinations");
            rules.push(masquerade(vec![]).noted(note));
        }
    } else {
        if let Some((chain, _)) = to(external.own_pod) {
            let from_pod = Match::InInterface(of_pods(options));
            let note = names.note_of("pod traffic for", "external destinations");
            rules.push(Rule::new([from_pod], Action::Jump(chain)).noted(note));
        }
        if let Some((chain, _)) = to(external.node) {
            let note = names.note_of("masquerade LOCAL traffic for", "external destinations");
            rules.push(masquerade(vec![Match::SourceLocal]).noted(note));
            let note = names.note_of("route LOCAL traffic for", "external destinations");
            rules.push(Rule::new([Match::SourceLocal], Action::Jump(chain)).noted(note));
        }
    }
    let last = match (options.leads, to(external.other)) {
        (Leads::Chains, Some((chain, _))) => Action::Goto(chain),
        _ => Action::Return,
    };
    rules.push(Rule::new([], last));
    rules
}

impl Names<'_> {
    fn note_of(&self, before: &str, after: &str) -> Note {
        Note::new(&format!("{before} {} {after}", self.text))
    }
}

/// Semantics 136. Who comes to the end is not led, and then dropped in the filter table.
fn firewall(names: &Names<'_>) -> Vec<Rule> {
    let from = |range: &IpNet| {
        let to = Action::Goto(names.external());
        Rule::new([Match::Source(*range)], to).noted(names.note(" loadbalancer IP"))
    };
    let mut rules: Vec<Rule> = names.port.sources.iter().map(from).collect();
    let note = names.note_of("other traffic to", "will be dropped by KUBE-PROXY-FIREWALL");
    rules.push(Rule::new([], Action::Return).noted(note));
    rules
}

/// The same before anybody is led: who comes to the end is dropped.
fn judging_firewall(names: &Names<'_>) -> Vec<Rule> {
    let from = |range: &IpNet| {
        let range = Match::Source(*range);
        Rule::new([range], Action::Return).noted(names.note(" loadbalancer IP"))
    };
    let mut rules: Vec<Rule> = names.port.sources.iter().map(from).collect();
    let note = names.note_of("other traffic to", "is dropped");
    rules.push(Rule::new([], Action::Drop).noted(note));
    rules
}

/// One of the endpoints: first that which the client had, then any by chance.
fn balance(
    names: &Names<'_>,
    scope: Scope,
    inside: Option<&Frontend>,
    options: &Options,
) -> Vec<Rule> {
    let port = names.port;
    let mut rules = Vec::new();
    if let (
        Some(frontend),
        Answer::Forward {
            to,
            masquerade: true,
        },
    ) = (inside, port.internal.other)
        && to == scope
    {
        let (mut conditions, _) = at(port, frontend);
        let of_no_pod = InterfaceMatch::NotPrefix(options.pod_interfaces.clone());
        conditions.push(Match::InInterface(of_no_pod));
        rules.push(masquerade(conditions).noted(names.note(" cluster IP")));
    }
    let endpoints = port.endpoints(scope);
    let note = |address: SocketAddr| names.note(&format!(" -> {address}"));
    if let Some(seconds) = port.affinity.map(seconds) {
        rules.extend(endpoints.iter().map(|one| {
            let chain = names.endpoint(one.address);
            let remembered = recent(port, chain.clone(), Some(seconds));
            Rule::new([remembered], Action::Jump(chain)).noted(note(one.address))
        }));
    }
    let mut left = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    for one in endpoints {
        let chance = Match::one_of(left);
        let rule = if has_chain(port, one, options) {
            let chain = names.endpoint(one.address);
            // The last is sure; nothing comes back from it, so that it may end the chain.
            let lead = match chance {
                Some(_) => Action::Jump(chain),
                None => Action::Goto(chain),
            };
            Rule::new(chance, lead)
        } else {
            let of_protocol = Match::Protocol(protocol(port.name.protocol));
            Rule::new(
                chance.into_iter().chain([of_protocol]),
                translate(one.address),
            )
        };
        rules.push(rule.noted(note(one.address)));
        left = left.saturating_sub(1);
    }
    rules
}

fn seconds(affinity: Duration) -> u32 {
    u32::try_from(affinity.as_secs()).unwrap_or(u32::MAX)
}

/// Semantics 137. The list has the chain's name, which no change of others moves.
fn recent(port: &ServicePort, list: ChainName, seconds: Option<u32>) -> Match {
    Match::Recent {
        list,
        family: port.family,
        seconds,
    }
}

/// One endpoint: semantics 129, 137.
fn endpoint(names: &Names<'_>, to: SocketAddr) -> Vec<Rule> {
    let port = names.port;
    let itself = Match::Source(to.ip().into());
    let mut conditions = vec![Match::Protocol(protocol(port.name.protocol))];
    if port.affinity.is_some() {
        conditions.push(recent(port, names.endpoint(to), None));
    }
    vec![
        masquerade(vec![itself]).noted(names.note("")),
        Rule::new(conditions, translate(to)).noted(names.note("")),
    ]
}

fn translate(to: SocketAddr) -> Action {
    Action::Dnat {
        address: to.ip(),
        port: to.port(),
    }
}
