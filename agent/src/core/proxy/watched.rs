//! What of Services the tasks beside the rules need: whose UDP flows may be stale, and whose health is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use services::proxy::index::Touched;
use services::proxy::model::Model;
use services::proxy::stale_flows::has_udp;

use crate::conntrack::UdpServices;
use crate::service::HealthChecks;

/// Each is the same allocation as long as nothing of it changes: most Services have neither.
#[derive(Clone, Debug, Default)]
pub(in crate::core) struct Watched {
    /// Those with a UDP port.
    pub(in crate::core) udp: Arc<UdpServices>,
    /// Those with a port for health checks.
    pub(in crate::core) health: Arc<HealthChecks>,
}

impl Watched {
    /// Follows a change of the model.
    pub(super) fn update(&mut self, model: &Model, changed: &Touched) {
        for name in changed {
            let served = model.service(name);
            let udp = served.filter(|served| has_udp(served)).cloned();
            set(&mut self.udp, name, udp);
            let health = served.and_then(|served| served.health.clone());
            set(&mut self.health, name, health);
        }
    }
}

fn set<K: Clone + Ord, V: Clone + PartialEq>(
    map: &mut Arc<BTreeMap<K, V>>,
    key: &K,
    value: Option<V>,
) {
    if map.get(key) == value.as_ref() {
        return;
    }
    let map = Arc::make_mut(map);
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    };
}
