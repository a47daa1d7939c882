//! What the speaker is to do, from the store: nodes, peers, filters and their secrets.

use std::collections::{BTreeMap, BTreeSet};

use api::resources::BgpConfiguration;
use api::{Key, Resource};
use ipnet::IpNet;

use super::Core;
use crate::speaker;

impl Core {
    pub(super) fn speaker_config(
        &self,
        elsewhere: &BTreeSet<IpNet>,
    ) -> Result<speaker::Compiled, String> {
        let node = self
            .own_node()
            .ok_or_else(|| self.node_missing().to_string())?;
        let nodes: Vec<_> = self.nodes().collect();
        let mut peers = Vec::new();
        let (mut filters, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        // By the order of kinds: policies, which are many, are passed over.
        let few = self.store.range(..Key::Namespace(String::new()));
        for (_, resource) in few {
            match resource {
                Resource::BgpPeer(peer) => peers.push(&**peer),
                Resource::BgpFilter(filter) => drop(filters.insert(filter.name.as_str(), filter)),
                Resource::Secret(secret) => {
                    secrets.insert(secret.name.name.as_str(), secret);
                }
                _ => {}
            }
        }
        let configuration = self.configuration();
        speaker::compile(&speaker::View {
            node,
            nodes: &nodes,
            peers: &peers,
            filters: &filters,
            secrets: &secrets,
            own: &self.blocks.own(),
            strays: &self.strays(),
            services: &self.announced_services(),
            elsewhere,
            configuration: &configuration,
        })
    }

    pub(super) fn configuration(&self) -> BgpConfiguration {
        match self.store.get(&Key::BgpConfiguration("default".to_owned())) {
            Some(Resource::BgpConfiguration(configuration)) => (**configuration).clone(),
            _ => BgpConfiguration::default(),
        }
    }
}

/// Whether a change of it may change what the speaker is to do.
pub(super) fn is_of_bgp(key: &Key) -> bool {
    matches!(
        key,
        Key::BgpConfiguration(_) | Key::BgpPeer(_) | Key::BgpFilter(_)
    )
}
