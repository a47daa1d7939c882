//! What this node announces of Services: what the BGPConfiguration and its Node say, and the prefixes that follow.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::ServiceRange;
use ipnet::IpNet;
use services::proxy::announce::{Range, Ranges, Settings, Unfit};
use services::stray_guard;

use super::{Services, place};
use crate::core::Core;
use crate::service::Announced;

impl Core {
    /// Has Services known on this node, so that their addresses can be announced, whoever serves them.
    pub(crate) fn announce_services(&mut self) {
        self.services.get_or_insert_with(Services::known);
    }

    pub(super) fn announce_settings(&self) -> Settings {
        let configuration = self.configuration();
        Settings {
            ranges: Ranges {
                cluster: ranges(&configuration.service_cluster_ips),
                external: ranges(&configuration.service_external_ips),
                load_balancer: ranges(&configuration.service_load_balancer_ips),
            },
            unfit: self.own_node().and_then(Unfit::of),
        }
    }

    /// The ranges and addresses that this node announces, as of the last [`Self::compile_services`].
    pub(in crate::core) fn announced_services(&self) -> BTreeSet<IpNet> {
        let services = self.services.as_ref();
        services.map_or_else(BTreeSet::new, |services| services.announcements.prefixes())
    }

    /// Of each range that this node announces something of, one prefix.
    pub(crate) fn announced_examples(&self) -> Vec<IpNet> {
        let announced = self.announced_services();
        let ranges = self.announce_settings().ranges.all();
        let of = |range: &IpNet| {
            // What is in a range comes after it and before the next that isn't.
            let from = announced.range(*range..);
            let mut inside = from.take_while(|prefix| range.contains(*prefix));
            inside.next().copied()
        };
        let examples: BTreeSet<IpNet> = ranges.iter().filter_map(of).collect();
        examples.into_iter().collect()
    }

    /// What tells of one Service who announces it.
    pub(super) fn announced_of(&self, name: &NamespacedName) -> Option<Announced> {
        let services = self.services.as_ref()?;
        let nodes = self
            .nodes()
            .map(|node| (place(&node.name, Some(node)), Unfit::of(node)));
        Some(Announced {
            service: services.announcements.elsewhere(name, &services.index)?,
            nodes: nodes.collect(),
        })
    }

    /// What drops packets to addresses of Services that meet none: the same allocation if that is what it was.
    pub(in crate::core) fn guard_services(&mut self) -> Arc<stray_guard::Compiled> {
        let nodes: BTreeSet<IpAddr> = match &self.services {
            Some(services) if services.announcements.announces() => self
                .nodes()
                .flat_map(|node| node.addresses.clone())
                .collect(),
            _ => BTreeSet::new(),
        };
        let Some(services) = &mut self.services else {
            return Arc::default();
        };
        let guarded = services.announcements.guarded(&nodes);
        if guarded != services.guarded {
            services.strays = Arc::new(stray_guard::compile(&guarded));
            services.guarded = guarded;
        }
        services.strays.clone()
    }

    /// Why nothing is announced although the BGPConfiguration says what to announce.
    pub(in crate::core) fn silence_of_services(&self) -> Option<String> {
        let is_asked_for = !self.announce_settings().ranges.all().is_empty();
        (is_asked_for && self.services.is_none()).then(|| {
            "BGPConfiguration default names ranges of Services, and this agent does not read Services: start it with `services` or \
             `load-balancer` in --features"
                .to_owned()
        })
    }
}

fn ranges(written: &[ServiceRange]) -> Vec<Range> {
    let ranges = written.iter().map(|range| Range {
        cidr: range.cidr,
        is_aggregated: range.is_aggregated,
    });
    ranges.collect()
}
