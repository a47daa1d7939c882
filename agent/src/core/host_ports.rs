//! Who of this node's attachments has which port of the node, and the rules that lead there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cni_spec::{PortMapping, PortProtocol};
use ipam::Holder;
use netfilter::{ChainName, InterfaceName, Protocol};
use services::host_port::{Claim, Compiled, HostPort, compile};

use super::Endpoint;
use crate::attachments::host_interface;

/// Claims that were lost or are being put in force, and what was compiled last.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    /// Host ends of those attached in this run whose links were not seen yet.
    fresh: BTreeSet<String>,
    /// What holders without a link lost to others.
    lost: BTreeSet<(Holder, Claim)>,
    broken: BTreeSet<ChainName>,
    /// What was compiled, and of what.
    last: (BTreeSet<HostPort>, Arc<Compiled>),
}

impl HostPorts {
    /// Takes what an attachment that is about to be asks for. Who has it and is live keeps it; who has it and has no link
    /// any more loses it.
    ///
    /// # Errors
    /// Which of the ports is held by whom.
    pub(super) fn claim<'a>(
        &mut self,
        holder: &Holder,
        ports: &[PortMapping],
        others: impl Iterator<Item = &'a Endpoint>,
        is_linked: impl Fn(&str) -> bool,
    ) -> Result<(), HostPortHeld> {
        let wanted: Vec<Claim> = ports.iter().map(claim).collect();
        let mut lost = BTreeSet::new();
        for other in others.filter(|other| other.holder != *holder) {
            let held = self.held_by(other);
            for one in held.filter(|one| wanted.iter().any(|wanted| wanted.clashes(one))) {
                if is_linked(&other.interface) || self.fresh.contains(&other.interface) {
                    return Err(HostPortHeld::of(&one, other));
                }
                lost.insert((other.holder.clone(), one));
            }
        }
        self.lost.extend(lost);
        self.lost.retain(|(loser, _)| loser != holder);
        self.fresh.insert(host_interface(holder));
        Ok(())
    }

    fn held_by<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = Claim> + 'a {
        let claims = endpoint.settings.ports.iter().map(claim);
        claims.filter(|one| !self.lost.contains(&(endpoint.holder.clone(), *one)))
    }

    /// A host end is there, or is not to be any more.
    pub(super) fn settle(&mut self, interface: &str) {
        self.fresh.remove(interface);
    }

    /// An attachment is gone.
    pub(super) fn forget(&mut self, holder: &Holder) {
        self.settle(&host_interface(holder));
        self.lost.retain(|(loser, _)| loser != holder);
    }

    /// Says which chains the kernel refuses.
    pub(super) fn set_broken(&mut self, broken: BTreeSet<ChainName>) {
        if self.broken != broken {
            self.broken = broken;
            self.last = (BTreeSet::new(), Arc::default());
        }
    }

    /// What is to be in the kernel: the same allocation if that is what it was. Of two who claim the same, which only a
    /// restart can find, the one with a link has it.
    pub(super) fn compile(
        &mut self,
        endpoints: &[Endpoint],
        is_linked: impl Fn(&str) -> bool,
        prefix: &InterfaceName,
    ) -> Arc<Compiled> {
        let mut with_ports: Vec<&Endpoint> = endpoints.iter().collect();
        with_ports.sort_by_key(|endpoint| !is_linked(&endpoint.interface));
        let mut taken: BTreeMap<(Protocol, u16), Vec<Claim>> = BTreeMap::new();
        let mut ports = BTreeSet::new();
        for endpoint in with_ports {
            let own: Vec<Claim> = self.held_by(endpoint).collect();
            for mapping in &endpoint.settings.ports {
                let claim = claim(mapping);
                let others = taken.entry((claim.protocol, claim.port)).or_default();
                let is_free = !others.iter().any(|other| other.clashes(&claim));
                if own.contains(&claim) && is_free {
                    ports.extend(led(endpoint, mapping));
                }
            }
            for claim in own {
                let others = taken.entry((claim.protocol, claim.port)).or_default();
                others.push(claim);
            }
        }
        if self.last.0 != ports {
            let compiled = compile(ports.iter().cloned(), prefix, &self.broken);
            self.last = (ports, Arc::new(compiled));
        }
        Arc::clone(&self.last.1)
    }
}

/// Where a mapping leads: to each of the pod's addresses, in its own family.
fn led(endpoint: &Endpoint, mapping: &PortMapping) -> Vec<HostPort> {
    let Ok(interface) = InterfaceName::new(&endpoint.interface) else {
        return Vec::new();
    };
    let addresses = endpoint.addresses.iter();
    let port = |pod: &std::net::IpAddr| HostPort {
        claim: claim(mapping),
        pod: *pod,
        pod_port: mapping.container_port,
        interface: interface.clone(),
    };
    addresses.map(port).collect()
}

fn claim(mapping: &PortMapping) -> Claim {
    Claim {
        protocol: match mapping.protocol {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
            PortProtocol::Sctp => Protocol::Sctp,
        },
        port: mapping.host_port,
        host_ip: mapping.host_ip,
    }
}

/// Whether flows that go elsewhere may live on: each packet of TCP that opens a connection makes a new flow.
pub(super) fn may_have_stale_flows(ports: &[PortMapping]) -> bool {
    ports.iter().any(|port| port.protocol != PortProtocol::Tcp)
}

/// What is not led because the kernel refuses it, for people.
pub(super) fn refused(compiled: &Compiled) -> Vec<String> {
    let text = |port: &HostPort| {
        format!(
            "host port {} does not lead to {}: the kernel refuses its rules",
            name(&port.claim),
            port.pod
        )
    };
    compiled.left_out.iter().map(text).collect()
}

fn name(claim: &Claim) -> String {
    let protocol = match claim.protocol {
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        _ => "TCP",
    };
    match claim.host_ip {
        Some(ip) => format!("{}/{protocol} of {ip}", claim.port),
        None => format!("{}/{protocol}", claim.port),
    }
}

/// A port, and who holds it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("host port {port} is held by {holder}: delete that one first, or use another port")]
pub(crate) struct HostPortHeld {
    port: String,
    holder: String,
}

impl HostPortHeld {
    fn of(claim: &Claim, holder: &Endpoint) -> Self {
        let container = &holder.holder.container_id;
        let holder = match &holder.pod {
            Some(pod) => format!("pod {pod} (container {container})"),
            None => format!("container {container}"),
        };
        Self {
            port: name(claim),
            holder,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use api::NamespacedName;

    use super::*;
    use crate::attachments::Settings;

    fn mapping(port: u16, host: &str) -> PortMapping {
        PortMapping {
            host_port: port,
            container_port: 80,
            protocol: PortProtocol::Tcp,
            host_ip: (!host.is_empty()).then(|| host.parse().unwrap()),
        }
    }

    fn endpoint(id: &str, address: &str, ports: &[PortMapping]) -> Endpoint {
        let holder = Holder {
            container_id: id.to_owned(),
            interface: "eth0".to_owned(),
        };
        Endpoint {
            interface: host_interface(&holder),
            holder,
            pod: Some(NamespacedName::new("shop", id)),
            uid: String::new(),
            addresses: vec![address.parse().unwrap()],
            settings: Settings {
                ports: ports.to_vec(),
                ..Settings::default()
            },
            freed: 0,
        }
    }

    fn try_claim(
        ports: &mut HostPorts,
        new: &Endpoint,
        others: &[Endpoint],
        links: &[&Endpoint],
    ) -> Result<(), HostPortHeld> {
        let is_linked = |name: &str| links.iter().any(|one| one.interface == name);
        ports.claim(&new.holder, &new.settings.ports, others.iter(), is_linked)
    }

    fn pods(ports: &mut HostPorts, all: &[Endpoint], links: &[&Endpoint]) -> Vec<IpAddr> {
        let is_linked = |name: &str| links.iter().any(|one| one.interface == name);
        let prefix = InterfaceName::new("ptl").unwrap();
        let compiled = ports.compile(all, is_linked, &prefix);
        compiled.led.iter().map(|port| port.pod).collect()
    }

    #[test]
    fn what_a_live_attachment_holds_is_refused_by_name_and_other_addresses_and_itself_are_not() {
        let old = endpoint("old", "10.244.1.5", &[mapping(8080, "")]);
        let new = endpoint("new", "10.244.1.6", &[mapping(8080, "10.0.0.1")]);
        let mut ports = HostPorts::default();
        let refused = try_claim(&mut ports, &new, std::slice::from_ref(&old), &[&old]);
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("8080/TCP") && text.contains("shop/old"),
            "{text}"
        );
        let mut ports = HostPorts::default();
        assert_eq!(
            try_claim(&mut ports, &old, std::slice::from_ref(&old), &[&old]),
            Ok(())
        );
        let apart = endpoint("apart", "10.244.1.7", &[mapping(8080, "10.0.0.2")]);
        let kept = [new, apart.clone()];
        assert_eq!(try_claim(&mut ports, &apart, &kept, &[&kept[0]]), Ok(()));
    }

    #[test]
    fn an_attachment_whose_link_is_being_made_keeps_what_it_holds() {
        let first = endpoint("first", "10.244.1.5", &[mapping(8080, "")]);
        let second = endpoint("second", "10.244.1.6", &[mapping(8080, "")]);
        let mut ports = HostPorts::default();
        try_claim(&mut ports, &first, &[], &[]).unwrap();
        let all = [first.clone()];
        assert!(try_claim(&mut ports, &second, &all, &[]).is_err());
        ports.forget(&first.holder);
        assert!(try_claim(&mut ports, &second, &[], &[]).is_ok());
    }

    #[test]
    fn a_holder_whose_link_is_gone_loses_its_port_to_the_new_one_at_once_and_after_a_restart() {
        let old = endpoint(
            "a-old",
            "10.244.1.5",
            &[mapping(8080, ""), mapping(9090, "")],
        );
        let new = endpoint("b-new", "10.244.1.6", &[mapping(8080, "")]);
        let all = [old.clone(), new.clone()];
        let mut ports = HostPorts::default();
        try_claim(&mut ports, &new, std::slice::from_ref(&old), &[]).unwrap();
        assert_eq!(
            pods(&mut ports, &all, &[]),
            [new.addresses[0], old.addresses[0]]
        );
        // Of the restarted agent, who has the link.
        let mut ports = HostPorts::default();
        let led = pods(&mut ports, &all, &[&new]);
        assert_eq!(led, [new.addresses[0], old.addresses[0]]);
        // Once the old one is gone and comes again, nothing is held against it.
        ports.forget(&old.holder);
        assert!(ports.lost.is_empty());
    }

    #[test]
    fn the_same_ports_are_the_same_allocation() {
        let one = endpoint("one", "10.244.1.5", &[mapping(8080, "")]);
        let mut ports = HostPorts::default();
        let prefix = InterfaceName::new("ptl").unwrap();
        let first = ports.compile(std::slice::from_ref(&one), |_| true, &prefix);
        let second = ports.compile(std::slice::from_ref(&one), |_| false, &prefix);
        assert!(Arc::ptr_eq(&first, &second));
        let none = ports.compile(&[], |_| true, &prefix);
        assert_eq!(*none, Compiled::default());
    }
}
