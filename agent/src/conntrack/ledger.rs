//! What is to be cut, kept until it is: which states are in force, what they changed, who is gone. No kernel in here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use ipnet::IpNet;
use netfilter::{InterfaceName, Protocol};
use policy::{Compiled, Dirty, Endpoint};
use services::host_port::{self, HostPort};
use services::proxy::model::Served;

/// States that are known and not yet in force; more are coalesced, since the newest is what will be.
const MOST_PENDING: usize = 64;

/// Services with a UDP port, as this node serves them.
pub(crate) type UdpServices = BTreeMap<NamespacedName, Arc<Served>>;

/// A state of policy and of who is on this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goal {
    /// As the firewall counts: 0 means nothing published yet.
    pub(crate) generation: u64,
    /// Sets and chains of both families.
    pub(crate) compiled: Arc<Compiled>,
    /// Ports of the node that lead to pods.
    pub(crate) host_ports: Arc<host_port::Compiled>,
    /// The pods of this node.
    pub(crate) endpoints: Arc<BTreeMap<InterfaceName, Endpoint>>,
    /// This node's Pod CIDRs.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Parts of them that pods of other nodes hold.
    pub(crate) elsewhere: BTreeSet<IpNet>,
    /// Services with a UDP port.
    pub(crate) services: Arc<UdpServices>,
}

impl Goal {
    /// Who holds which address.
    fn held(&self) -> BTreeSet<(IpAddr, &InterfaceName)> {
        let endpoints = self.endpoints.iter();
        endpoints
            .flat_map(|(interface, endpoint)| {
                let addresses = endpoint.addresses.iter();
                addresses.map(move |address| (*address, interface))
            })
            .collect()
    }

    /// Host ports that did not lead so before: older flows may go elsewhere. TCP's go by themselves, as each connection
    /// begins with a packet that makes a new flow.
    fn new_ports(&self, before: Option<&Self>) -> BTreeSet<HostPort> {
        let known = before.map(|before| &before.host_ports);
        if known.is_some_and(|known| Arc::ptr_eq(known, &self.host_ports)) {
            return BTreeSet::new();
        }
        let is_new = |port: &&HostPort| !known.is_some_and(|known| known.led.contains(*port));
        let led = self.host_ports.led.iter();
        led.filter(|port| port.claim.protocol != Protocol::Tcp)
            .filter(is_new)
            .cloned()
            .collect()
    }
}

/// A look at conntrack that is due.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// What is in force.
    pub(crate) goal: Goal,
    /// What it may judge otherwise than what was in force before.
    pub(crate) dirty: Dirty,
    /// Addresses that their holders gave up since; someone else may hold them now.
    pub(crate) gone: BTreeSet<IpAddr>,
    /// Host ports that lead to where they did not.
    pub(crate) ports: BTreeSet<HostPort>,
    /// Those Services of whose UDP ports some may lead elsewhere.
    pub(crate) services: Vec<Arc<Served>>,
}

/// Gathers what changes until a look is made; what a failed look was for stays due.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Whether the chains are really in the kernel; else nobody's flows are judged by them.
    is_enforced: bool,
    pending: BTreeMap<u64, Goal>,
    in_force: Option<Goal>,
    dirty: Dirty,
    gone: BTreeSet<IpAddr>,
    ports: BTreeSet<HostPort>,
    /// Services that are known and not yet in force, by generation.
    unserved: BTreeMap<u64, Arc<UdpServices>>,
    /// Those in force by our own rules.
    served: Option<Arc<UdpServices>>,
    /// Of these, those whose flows are to be looked at.
    changed: BTreeSet<NamespacedName>,
}

impl Ledger {
    /// Starts with one whole look due at the first state in force: policy may have changed while the agent was away.
    pub(crate) fn new(is_enforced: bool) -> Self {
        Self {
            is_enforced,
            pending: BTreeMap::new(),
            in_force: None,
            dirty: Dirty::default(),
            gone: BTreeSet::new(),
            ports: BTreeSet::new(),
            unserved: BTreeMap::new(),
            served: None,
            changed: BTreeSet::new(),
        }
    }

    /// Takes a state that is published. Tell it before the firewall can report it as applied.
    pub(crate) fn handle_goal(&mut self, goal: Goal) {
        let known = self.in_force.as_ref().map_or(0, |known| known.generation);
        if goal.generation <= known {
            return;
        }
        self.unserved
            .insert(goal.generation, Arc::clone(&goal.services));
        if self.unserved.len() > MOST_PENDING {
            self.unserved.pop_first();
        }
        self.pending.insert(goal.generation, goal);
        if self.pending.len() > MOST_PENDING {
            self.pending.pop_first();
        }
    }

    /// Hears which generation is in the kernel. One that was never seen here is passed over: an older state would cut
    /// what is allowed by now, and the next one makes up for it.
    pub(crate) fn handle_applied(&mut self, generation: u64) {
        let Some(goal) = self.pending.remove(&generation) else {
            return;
        };
        self.pending = self.pending.split_off(&generation);
        self.ports.extend(goal.new_ports(self.in_force.as_ref()));
        match &self.in_force {
            None => self.dirty.everything = self.is_enforced,
            Some(before) => {
                let now = goal.held();
                let left = before.held();
                let left = left.difference(&now);
                self.gone.extend(left.map(|(address, _)| *address));
                if self.is_enforced && !Arc::ptr_eq(&before.compiled, &goal.compiled) {
                    let changed = Dirty::between(&before.compiled, &goal.compiled);
                    self.dirty.merge(changed);
                }
            }
        }
        self.in_force = Some(goal);
    }

    /// Hears that our rules serve Services as of a generation; `None`: they serve none, as another proxy is here. Its flows
    /// are its own, and once it has gone all are looked at. As with [`Self::handle_applied`], what was never seen here is
    /// passed over.
    pub(crate) fn handle_served(&mut self, generation: Option<u64>) {
        let Some(generation) = generation else {
            self.served = None;
            self.changed.clear();
            return;
        };
        let Some(now) = self.unserved.get(&generation).cloned() else {
            return;
        };
        self.unserved = self.unserved.split_off(&generation);
        let before = self.served.replace(Arc::clone(&now));
        if before
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(before, &now))
        {
            return;
        }
        let known = |name| before.as_ref().and_then(|before| before.get(name));
        let changed = now
            .iter()
            .filter(|(name, service)| !known(name).is_some_and(|old| Arc::ptr_eq(old, service)));
        self.changed.extend(changed.map(|(name, _)| name.clone()));
    }

    /// Whether a look is due.
    pub(crate) fn is_due(&self) -> bool {
        let of_pods = self.dirty.is_clean() && self.gone.is_empty() && self.ports.is_empty();
        self.in_force.is_some() && !(of_pods && self.changed.is_empty())
    }

    /// Takes the look that is due; whoever takes it makes it, or gives it back.
    pub(crate) fn take(&mut self) -> Option<Work> {
        if !self.is_due() {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        let served = self.served.as_ref();
        let services = changed
            .iter()
            .filter_map(|name| served?.get(name).cloned())
            .collect();
        Some(Work {
            goal: self.in_force.clone()?,
            services,
            dirty: std::mem::take(&mut self.dirty),
            gone: std::mem::take(&mut self.gone),
            ports: std::mem::take(&mut self.ports),
        })
    }

    /// Takes back what could not be looked at.
    pub(crate) fn give_back(&mut self, work: Work) {
        self.dirty.merge(work.dirty);
        self.gone.extend(work.gone);
        self.ports.extend(work.ports);
        // Those that are here still: as they are by then.
        let names = work.services.iter();
        let names = names.filter_map(|service| service.ports.first());
        self.changed
            .extend(names.map(|port| port.name.service.clone()));
    }

    /// The newest state in force whose flows were all looked at, given that nothing is under way.
    pub(crate) fn settled(&self) -> u64 {
        let in_force = self.in_force.as_ref().filter(|_| !self.is_due());
        in_force.map_or(0, |goal| goal.generation)
    }
}

#[cfg(test)]
mod tests {
    use api::NamespacedName;
    use netfilter::{Family, IpSet, SetKind, SetName};
    use policy::FamilyRules;

    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A state with a pod on each address given, and a set whose members tell states apart.
    fn goal(generation: u64, members: &[&str], pods: &[(&str, &str)]) -> Goal {
        let name = SetName::hashed(Family::V4, "p", &["members"]);
        let mut set = IpSet::new(name.clone(), Family::V4, SetKind::HashIp);
        members.iter().for_each(|member| set.insert_ip(at(member)));
        let v4 = FamilyRules {
            sets: BTreeMap::from([(name, Arc::new(set))]),
            ..FamilyRules::default()
        };
        let compiled = Compiled {
            v4,
            ..Compiled::default()
        };
        let endpoints = pods.iter().map(|(interface, address)| {
            let endpoint = Endpoint {
                pod: NamespacedName::new("shop", "web"),
                uid: String::new(),
                addresses: vec![at(address)],
            };
            (InterfaceName::new(interface).unwrap(), endpoint)
        });
        Goal {
            generation,
            compiled: Arc::new(compiled),
            endpoints: Arc::new(endpoints.collect()),
            ..Goal::default()
        }
    }

    /// A ledger whose first state is in force and looked at.
    fn settled(first: Goal) -> Ledger {
        let mut ledger = Ledger::new(true);
        let generation = first.generation;
        ledger.handle_goal(first);
        ledger.handle_applied(generation);
        ledger.take().unwrap();
        assert_eq!(ledger.settled(), generation);
        ledger
    }

    #[test]
    fn the_first_state_in_force_asks_for_a_whole_look_and_the_same_again_for_none() {
        let mut ledger = Ledger::new(true);
        let first = goal(1, &["10.0.0.1"], &[]);
        ledger.handle_goal(first.clone());
        assert!(!ledger.is_due() && ledger.take().is_none(), "not in force");
        ledger.handle_applied(1);
        assert!(ledger.take().unwrap().dirty.everything);
        ledger.handle_goal(Goal {
            generation: 2,
            ..first
        });
        ledger.handle_applied(2);
        assert!(ledger.take().is_none());
        assert_eq!(ledger.settled(), 2);
    }

    #[test]
    fn states_passed_over_while_busy_are_made_up_for() {
        let mut ledger = settled(goal(1, &["10.0.0.1"], &[]));
        ledger.handle_goal(goal(2, &["10.0.0.1", "10.0.0.2"], &[]));
        ledger.handle_applied(2);
        ledger.handle_goal(goal(3, &["10.0.0.1"], &[]));
        ledger.handle_applied(3);
        let work = ledger.take().unwrap();
        assert_eq!(work.goal.generation, 3);
        assert_eq!(work.dirty.addresses, BTreeSet::from([at("10.0.0.2")]));
        // A failed look stays due, with what came meanwhile.
        ledger.handle_goal(goal(4, &["10.0.0.9", "10.0.0.1"], &[]));
        ledger.handle_applied(4);
        ledger.give_back(work);
        let work = ledger.take().unwrap();
        assert_eq!(work.goal.generation, 4);
        let expected = BTreeSet::from([at("10.0.0.2"), at("10.0.0.9")]);
        assert_eq!(work.dirty.addresses, expected);
    }

    #[test]
    fn a_state_that_was_never_seen_here_is_waited_out() {
        let mut ledger = settled(goal(1, &[], &[]));
        ledger.handle_goal(goal(2, &["10.0.0.1"], &[]));
        ledger.handle_goal(goal(4, &["10.0.0.2"], &[]));
        ledger.handle_applied(3);
        assert!(!ledger.is_due());
        ledger.handle_applied(4);
        assert_eq!(ledger.take().unwrap().goal.generation, 4);
        // What is older than what is in force never comes back.
        ledger.handle_goal(goal(2, &["10.0.0.1"], &[]));
        ledger.handle_applied(2);
        assert!(!ledger.is_due());
    }

    #[test]
    fn an_address_given_up_is_gone_also_if_another_pod_holds_it_now() {
        let pods = [("ptla", "10.0.0.1"), ("ptlb", "10.0.0.2")];
        let mut ledger = settled(goal(1, &[], &pods));
        let same = |goal: Goal, ledger: &Ledger| Goal {
            compiled: ledger.in_force.as_ref().unwrap().compiled.clone(),
            ..goal
        };
        let next = same(goal(2, &[], &[("ptlc", "10.0.0.1"), pods[1]]), &ledger);
        ledger.handle_goal(next);
        ledger.handle_applied(2);
        let work = ledger.take().unwrap();
        assert_eq!(work.gone, BTreeSet::from([at("10.0.0.1")]));
        assert!(work.dirty.is_clean());
    }

    #[test]
    fn without_policy_in_the_kernel_only_addresses_given_up_ask_for_a_look() {
        let mut ledger = Ledger::new(false);
        ledger.handle_goal(goal(1, &["10.0.0.1"], &[("ptla", "10.0.0.1")]));
        ledger.handle_applied(1);
        assert!(ledger.take().is_none());
        ledger.handle_goal(goal(2, &["10.0.0.2"], &[]));
        ledger.handle_applied(2);
        let work = ledger.take().unwrap();
        assert!(work.dirty.is_clean());
        assert_eq!(work.gone, BTreeSet::from([at("10.0.0.1")]));
    }

    #[test]
    fn a_host_port_that_leads_elsewhere_asks_for_a_look_once_and_tcps_for_none() {
        let port = |protocol, pod: &str| HostPort {
            claim: host_port::Claim {
                protocol,
                port: 53,
                host_ip: None,
            },
            pod: at(pod),
            pod_port: 53,
            interface: InterfaceName::new("ptla").unwrap(),
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let mut ledger = settled(goal(1, &[], &[]));
        let compiled = ledger.in_force.as_ref().unwrap().compiled.clone();
        let tell = |ledger: &mut Ledger, generation, ports: &[HostPort]| {
            let host_ports = host_port::Compiled {
                led: ports.iter().cloned().collect(),
                ..host_port::Compiled::default()
            };
            ledger.handle_goal(Goal {
                compiled: compiled.clone(),
                host_ports: Arc::new(host_ports),
                ..goal(generation, &[], &[])
            });
            ledger.handle_applied(generation);
            ledger.take().map(|work| work.ports)
        };
        let ports = [port(tcp, "10.0.0.1"), port(udp, "10.0.0.1")];
        assert_eq!(tell(&mut ledger, 2, &ports[..1]), None);
        let new = BTreeSet::from([ports[1].clone()]);
        assert_eq!(tell(&mut ledger, 3, &ports), Some(new));
        assert_eq!(tell(&mut ledger, 4, &ports), None);
        let elsewhere = port(udp, "10.0.0.2");
        let new = BTreeSet::from([elsewhere.clone()]);
        assert_eq!(tell(&mut ledger, 5, &[elsewhere]), Some(new));
        assert_eq!(ledger.settled(), 5);
    }

    /// Services of these names, each an allocation of its own.
    fn serving(generation: u64, services: &UdpServices) -> Goal {
        Goal {
            services: Arc::new(services.clone()),
            ..goal(generation, &[], &[])
        }
    }

    fn service(name: &str) -> (NamespacedName, Arc<Served>) {
        let name = NamespacedName::new("shop", name);
        let mut model = services::proxy::model::Model::default();
        let mut index = services::proxy::index::Index::default();
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": name.name},
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 53, "protocol": "UDP"}]},
        });
        let Some((_, api::Resource::Service(service))) =
            api::parse("Service", "v1", manifest).unwrap()
        else {
            panic!("no Service");
        };
        let touched = index.set_service(Arc::from(service));
        model.refresh(&index, &touched);
        (name.clone(), Arc::clone(model.service(&name).unwrap()))
    }

    /// The names of those whose flows are to be looked at.
    fn due(ledger: &mut Ledger) -> Vec<String> {
        let work = ledger.take();
        let services = work.iter().flat_map(|work| &work.services);
        services
            .map(|service| service.ports[0].name.service.name.clone())
            .collect()
    }

    #[test]
    fn rule_140_services_are_looked_at_once_they_are_in_force_all_at_first_and_then_those_that_changed()
     {
        let mut ledger = Ledger::new(false);
        let mut services: UdpServices = ["a", "b"].map(service).into();
        ledger.handle_goal(serving(1, &services));
        ledger.handle_applied(1);
        assert!(!ledger.is_due(), "not in force");
        ledger.handle_served(Some(1));
        let work = ledger.take().unwrap();
        assert_eq!(work.services.len(), 2);
        // After a failure they are looked at as they are by then.
        ledger.give_back(work);
        services.extend([service("b"), service("c")]);
        ledger.handle_goal(serving(2, &services));
        ledger.handle_applied(2);
        ledger.handle_served(Some(2));
        assert_eq!(due(&mut ledger), ["a", "b", "c"]);
        services.extend([service("c")]);
        services.remove(&NamespacedName::new("shop", "a"));
        ledger.handle_goal(serving(3, &services));
        ledger.handle_applied(3);
        ledger.handle_served(Some(3));
        assert_eq!(due(&mut ledger), ["c"]);
        assert_eq!(ledger.settled(), 3);
    }

    #[test]
    fn rule_140_flows_of_another_proxy_are_its_own_and_all_are_looked_at_when_it_has_gone() {
        let mut ledger = Ledger::new(false);
        let services: UdpServices = ["a", "b"].map(service).into();
        for generation in 1..=2 {
            ledger.handle_goal(serving(generation, &services));
            ledger.handle_applied(generation);
            ledger.handle_served(None);
            assert!(!ledger.is_due());
        }
        // Nothing else has changed meanwhile.
        ledger.handle_served(Some(2));
        assert_eq!(due(&mut ledger), ["a", "b"]);
        ledger.handle_served(Some(2));
        assert!(!ledger.is_due());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut ledger = settled(goal(1, &[], &[]));
        for generation in 2..1000 {
            ledger.handle_goal(goal(generation, &[], &[]));
        }
        assert_eq!(ledger.pending.len(), MOST_PENDING);
        ledger.handle_applied(999);
        assert!(ledger.pending.is_empty());
        assert_eq!(ledger.settled(), 999);
    }
}
