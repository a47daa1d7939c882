//! Whether this node should be sent packets for Services: its rules are as they are to be, and it is not about to go.

use std::time::{Duration, Instant};

use api::resources::Leaving;
use tokio::sync::watch;

use super::in_force::InForce;
use crate::{firewall, service_proxy};

/// For how long a change may be on its way to the kernel before load balancers are told to go elsewhere: as kube-proxy, twice
/// the time in which it writes everything anew.
const TOO_LONG: Duration = Duration::from_secs(60);

/// What is known of it, for whoever is asked.
#[derive(Clone)]
pub(crate) struct Soundness {
    pub(crate) desired: watch::Receiver<firewall::Desired>,
    pub(crate) in_force: InForce,
    /// Why this node is about to go, if it is.
    pub(crate) leaving: watch::Receiver<Option<Leaving>>,
}

/// How it is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sound {
    /// Why rules are not in force.
    pub(crate) behind: Option<String>,
    /// Why the node is about to go.
    pub(crate) leaving: Option<Leaving>,
}

impl Sound {
    /// Whether what is asked of this node is done (what a Service's own health check asks).
    pub(crate) fn rules_are_in_force(&self) -> bool {
        self.behind.is_none()
    }

    /// Whether new connections should come here, or why not.
    pub(crate) fn wants_connections(&self) -> Result<(), String> {
        let leaving = self.leaving.map(|leaving| match leaving {
            Leaving::Deleted => "this node's Node is being deleted".to_owned(),
            Leaving::ScaledDown => "the cluster autoscaler is about to delete this node".to_owned(),
        });
        self.behind.clone().or(leaving).map_or(Ok(()), Err)
    }
}

impl Soundness {
    /// Since when the oldest change waits that the kernel does not hold, rules and else.
    fn waits_since(&self) -> Option<Instant> {
        let applied = self.in_force.firewall.borrow().generation;
        let served = applied.min(self.in_force.proxy.borrow().generation);
        let desired = self.desired.borrow();
        let waiting = desired.waiting.iter();
        let waiting = waiting.filter(|stamp| stamp.generation > served);
        waiting.map(|stamp| stamp.at).min()
    }

    /// As it is now.
    pub(crate) fn now(&self) -> Sound {
        let waiting = self.waits_since();
        let applied = self.in_force.firewall.borrow();
        let proxy = self.in_force.proxy.borrow();
        Sound {
            behind: behind((&applied, &proxy), waiting, Instant::now()),
            leaving: *self.leaving.borrow(),
        }
    }
}

/// `waiting`: since when the oldest change waits that is not in the kernel.
fn behind(
    (applied, proxy): (&firewall::Applied, &service_proxy::Applied),
    waiting: Option<Instant>,
    now: Instant,
) -> Option<String> {
    // Where another broke what serves Services, no change waits: what counts then is since when it cannot be mended.
    let waiting = waiting.into_iter().chain(proxy.failing_since).min();
    if let Some(sign) = &applied.other_proxy {
        return Some(format!("Services are left to another proxy ({sign})"));
    }
    if applied.generation == 0 || proxy.generation == 0 {
        return Some("the first rules are not in the kernel".to_owned());
    }
    let since = now.saturating_duration_since(waiting?);
    (since > TOO_LONG).then(|| {
        let error = applied.error.as_deref().or(proxy.error.as_deref());
        let why = error.unwrap_or("it takes long");
        format!(
            "a change has not been in the kernel for {} s: {why}",
            since.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(generation: u64) -> firewall::Applied {
        firewall::Applied {
            generation,
            ..firewall::Applied::default()
        }
    }

    #[test]
    fn rule_138_rules_are_in_force_once_written_and_unless_a_change_waits_for_a_minute() {
        let proxy = service_proxy::Applied {
            generation: 1,
            ..service_proxy::Applied::default()
        };
        let behind =
            |applied: &firewall::Applied, waiting, now| behind((applied, &proxy), waiting, now);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(behind(&applied(0), None, start).unwrap().contains("first"));
        assert_eq!(behind(&applied(1), None, start), None);
        assert_eq!(behind(&applied(1), Some(start), at(60)), None);
        let failed = firewall::Applied {
            error: Some("no memory".to_owned()),
            ..applied(1)
        };
        let why = behind(&failed, Some(start), at(61)).unwrap();
        assert!(why.contains("61 s: no memory"), "{why}");
        let other = firewall::Applied {
            other_proxy: Some("KUBE-SERVICES".to_owned()),
            ..applied(1)
        };
        assert!(behind(&other, None, start).is_some());
    }

    /// In the modes nftables and IPVS the firewall has done its part long before what serves is in the kernel.
    #[test]
    fn rule_138_what_serves_without_iptables_is_asked_for_its_lateness_too() {
        let start = Instant::now();
        let (fast, wanted) = (applied(2), desired(start));
        let mut goal = firewall::Desired::default();
        let slow = service_proxy::Applied {
            generation: 1,
            ..service_proxy::Applied::default()
        };
        // As the shell publishes: the stamp stays until both are done.
        goal.follow(wanted, fast.generation.min(slow.generation));
        goal.follow(
            firewall::Desired {
                generation: 3,
                ..firewall::Desired::default()
            },
            fast.generation.min(slow.generation),
        );
        let (_goals, desired) = watch::channel(goal);
        let (_rules, firewall) = watch::channel(fast.clone());
        let (_proxies, proxy) = watch::channel(slow.clone());
        let soundness = Soundness {
            desired,
            in_force: InForce { firewall, proxy },
            leaving: watch::channel(None).1,
        };
        assert_eq!(soundness.waits_since(), Some(start));
        let late = start + TOO_LONG + Duration::from_secs(1);
        let said = behind((&fast, &slow), soundness.waits_since(), late).unwrap();
        assert!(said.contains("61 s: it takes long"), "{said}");
        // Nothing waits, and what is there cannot be mended.
        let broken = service_proxy::Applied {
            generation: 2,
            error: Some("no memory".to_owned()),
            failing_since: Some(start),
            ..service_proxy::Applied::default()
        };
        let said = behind((&fast, &broken), None, late).unwrap();
        assert!(said.contains("no memory"), "{said}");
        assert_eq!(behind((&fast, &broken), None, start), None);
    }

    fn desired(at: Instant) -> firewall::Desired {
        firewall::Desired {
            generation: 2,
            waiting: vec![firewall::Stamp { generation: 2, at }],
            ..firewall::Desired::default()
        }
    }

    #[test]
    fn rule_139_a_node_that_goes_wants_no_connections_and_answers_those_it_has() {
        for leaving in [Leaving::Deleted, Leaving::ScaledDown] {
            let sound = Sound {
                behind: None,
                leaving: Some(leaving),
            };
            assert!(sound.rules_are_in_force());
            assert!(sound.wants_connections().unwrap_err().contains("delete"));
        }
    }
}
