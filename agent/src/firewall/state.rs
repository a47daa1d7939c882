//! What the task is told, and what it reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netfilter::{Family, IpSet, Ruleset, SetName};
use policy::Compiled;
use services::{egress, host_port, stray_guard, tunnel_guard};

use super::latency::Histogram;

/// At most so many stamps wait; when more changes come, the oldest ones tell enough.
const MOST_STAMPS: usize = 64;

/// When the oldest change that a generation holds came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) generation: u64,
    pub(crate) at: Instant,
}

/// What serves Services by iptables, or says what IPVS may have of them; nothing at all where this agent does neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceRules {
    pub(crate) v4: Arc<Ruleset>,
    pub(crate) v6: Arc<Ruleset>,
    /// Where IPVS leads: of both families.
    pub(crate) sets: BTreeMap<SetName, Arc<IpSet>>,
}

/// What is to be in the kernel, and which state of the inputs it stands for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desired {
    /// Grows with every publication; 0 means nothing published yet.
    pub(crate) generation: u64,
    /// Sets and chains of policy, both families.
    pub(crate) compiled: Arc<Compiled>,
    /// Those of host ports; nothing where there is none.
    pub(crate) host_ports: Arc<host_port::Compiled>,
    /// Those of what pods send outside; nothing where no pool asks for it.
    pub(crate) egress: Arc<egress::Compiled>,
    /// Those that keep strangers out of tunnels; nothing where no pool has a tunnel.
    pub(crate) tunnels: Arc<tunnel_guard::Compiled>,
    /// Those that drop what is for addresses of Services and meets none; nothing where none are announced.
    pub(crate) strays: Arc<stray_guard::Compiled>,
    /// Those that serve Services; nothing without that feature.
    pub(crate) services: Arc<ServiceRules>,
    /// Whether Services are served, by rules or else: then it is to be known who else does.
    pub(crate) serves_services: bool,
    /// Of this generation and of those before it that are not in the kernel.
    pub(crate) waiting: Vec<Stamp>,
}

impl Desired {
    /// What is to be in a family's tables, in the order of the ways into it: a port of the host is not a Service's, and who is
    /// refused by a Service that has no endpoints is so before policy is asked (semantics 150).
    pub(super) fn rules(&self, family: Family) -> [&Ruleset; 6] {
        let Self {
            compiled: policy,
            host_ports: ports,
            egress,
            tunnels,
            strays,
            services,
            ..
        } = self;
        let (ports, served, strays) = match family {
            Family::V4 => (&ports.v4.rules, &*services.v4, &strays.v4.rules),
            Family::V6 => (&ports.v6.rules, &*services.v6, &strays.v6.rules),
        };
        // To IPVS Services' addresses are this host's, all of whose addresses host ports would take.
        let [first, second] = match services.sets.is_empty() {
            true => [ports, served],
            false => [served, ports],
        };
        let [policy, egress, tunnels] = match family {
            Family::V4 => [&policy.v4.rules, &egress.v4.rules, &tunnels.v4.rules],
            Family::V6 => [&policy.v6.rules, &egress.v6.rules, &tunnels.v6.rules],
        };
        // Policy's last rule lets through what it has allowed.
        [first, second, strays, policy, egress, tunnels]
    }

    fn all_sets(&self) -> [&BTreeMap<SetName, Arc<IpSet>>; 11] {
        let Self {
            compiled: policy,
            host_ports,
            egress,
            tunnels,
            strays,
            services,
            ..
        } = self;
        [
            &services.sets,
            &policy.v4.sets,
            &policy.v6.sets,
            &host_ports.v4.sets,
            &host_ports.v6.sets,
            &egress.v4.sets,
            &egress.v6.sets,
            &tunnels.v4.sets,
            &tunnels.v6.sets,
            &strays.v4.sets,
            &strays.v6.sets,
        ]
    }

    /// All sets, both families.
    pub(super) fn sets(&self) -> BTreeMap<SetName, Arc<IpSet>> {
        let all = self.all_sets().into_iter().flatten();
        all.map(|(name, set)| (name.clone(), set.clone())).collect()
    }

    /// How many sets that are, both families.
    pub(super) fn set_count(&self) -> usize {
        self.all_sets().iter().map(|sets| sets.len()).sum()
    }

    /// Whether something is to be there without policy, too.
    pub(super) fn has_more_than_policy(&self) -> bool {
        let has_nat = !self.host_ports.led.is_empty() || !self.egress.sources.is_empty();
        has_nat || !self.tunnels.is_empty() || !self.strays.is_empty() || self.serves_services
    }

    /// The next state after `self`, of which `applied` is the newest generation in the kernel.
    pub(crate) fn follow(&mut self, mut next: Self, applied: u64) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|stamp| stamp.generation > applied);
        waiting.append(&mut next.waiting);
        waiting.truncate(MOST_STAMPS);
        *self = Self { waiting, ..next };
    }
}

/// What the task reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// The newest generation that is wholly in the kernel.
    pub(crate) generation: u64,
    /// The host ports of that generation.
    pub(crate) host_ports: Arc<host_port::Compiled>,
    /// Why the newest try failed.
    pub(crate) error: Option<String>,
    /// The error is one that only the host's owner can end: nothing is written until then.
    pub(crate) is_blocked: bool,
    /// Which iptables back end is written to.
    pub(crate) backend: Option<&'static str>,
    /// A sign of another proxy of Services (a chain, a table, a device): while there is one, none of ours are written.
    pub(crate) other_proxy: Option<String>,
    /// What is not needed any more waits to be removed.
    pub(crate) has_leftover: bool,
    /// How long the last write took.
    pub(crate) last_duration: Duration,
    /// How many times something was written.
    pub(crate) writes: u64,
    /// Sets of ours, both families.
    pub(crate) sets: usize,
    /// Chains of ours, both families.
    pub(crate) chains: usize,
    /// How many times a check found our rules changed by another.
    pub(crate) repairs: u64,
    /// How many times the kernel was read back.
    pub(crate) read_backs: u64,
    /// How long each write took.
    pub(crate) apply: Histogram,
    /// From a change's arrival to its being in force.
    pub(crate) event_to_kernel: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(generation: u64, at: Instant) -> Desired {
        Desired {
            generation,
            waiting: vec![Stamp { generation, at }],
            ..Desired::default()
        }
    }

    #[test]
    fn a_change_keeps_its_stamp_until_it_is_in_the_kernel() {
        let start = Instant::now();
        let mut state = Desired::default();
        for generation in 1..=3 {
            state.follow(desired(generation, start), 1);
        }
        let waiting: Vec<u64> = state.waiting.iter().map(|stamp| stamp.generation).collect();
        assert_eq!((state.generation, waiting), (3, vec![2, 3]));
        for generation in 4..200 {
            state.follow(desired(generation, start), 1);
        }
        assert_eq!(state.waiting.len(), MOST_STAMPS);
        assert_eq!(state.waiting[0].generation, 2);
    }
}
