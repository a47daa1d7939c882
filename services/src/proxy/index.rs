//! Services and the slices of their endpoints as they are now; each change says whose answers it may change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::{EndpointSlice, Service};

/// The node that we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name: endpoints with this `nodeName` are local.
    pub node: String,
    /// Its label `topology.kubernetes.io/zone`; without one no hint for zones holds (semantics 124).
    pub zone: Option<String>,
    /// Its addresses: where a range of sources holds one of them, the node itself may ask (semantics 136).
    pub addresses: Vec<IpAddr>,
}

/// Names of Services that a change may concern.
pub type Touched = BTreeSet<NamespacedName>;

/// What the sources hold. Only what is now counts, never how it came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    place: Place,
    services: BTreeMap<NamespacedName, Arc<Service>>,
    /// By the Service that a slice's label names, then by the slice's own name.
    slices: BTreeMap<NamespacedName, BTreeMap<String, Arc<EndpointSlice>>>,
    /// Whose each slice is: a label may change.
    owners: BTreeMap<NamespacedName, NamespacedName>,
}

impl Index {
    /// Says which node this is. If that changes, it concerns every Service.
    pub fn set_place(&mut self, place: Place) -> Touched {
        if self.place == place {
            return Touched::new();
        }
        self.place = place;
        self.services.keys().cloned().collect()
    }

    /// Takes a Service as it is now.
    pub fn set_service(&mut self, service: Arc<Service>) -> Touched {
        let name = service.name.clone();
        let before = self.services.insert(name.clone(), service.clone());
        match before == Some(service) {
            true => Touched::new(),
            false => [name].into(),
        }
    }

    /// Forgets a Service that is no more.
    pub fn remove_service(&mut self, name: &NamespacedName) -> Touched {
        let removed = self.services.remove(name);
        removed.map(|_| name.clone()).into_iter().collect()
    }

    /// Takes a slice as it is now. It concerns the Service that it named before, too.
    pub fn set_slice(&mut self, slice: Arc<EndpointSlice>) -> Touched {
        let Some(owner) = owner(&slice) else {
            return self.remove_slice(&slice.name);
        };
        let moved = self
            .owners
            .get(&slice.name)
            .is_some_and(|old| *old != owner);
        let mut touched = match moved {
            true => self.remove_slice(&slice.name),
            false => Touched::new(),
        };
        self.owners.insert(slice.name.clone(), owner.clone());
        let slices = self.slices.entry(owner.clone()).or_default();
        let before = slices.insert(slice.name.name.clone(), slice.clone());
        if before != Some(slice) {
            touched.insert(owner);
        }
        touched
    }

    /// Forgets a slice that is no more.
    pub fn remove_slice(&mut self, name: &NamespacedName) -> Touched {
        let Some(owner) = self.owners.remove(name) else {
            return Touched::new();
        };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        [owner].into()
    }

    /// One Service and its slices alone.
    #[must_use]
    pub fn of_one(&self, name: &NamespacedName) -> Self {
        let service = self.services.get_key_value(name);
        let slices = self.slices.get_key_value(name);
        let slices = slices.map(|(name, slices)| (name.clone(), slices.clone()));
        let owned = slices.iter().flat_map(|(_, slices)| slices.values());
        Self {
            place: self.place.clone(),
            services: service
                .map(|(name, service)| (name.clone(), service.clone()))
                .into_iter()
                .collect(),
            owners: owned.map(|one| (one.name.clone(), name.clone())).collect(),
            slices: slices.into_iter().collect(),
        }
    }

    /// The node that we are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A Service that a proxy minds (semantics 117).
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<Service>> {
        self.services.get(name).filter(|one| one.is_proxied())
    }

    /// All Services that a proxy minds.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().filter(|one| one.is_proxied())
    }

    /// All Services, also those that a proxy does not mind.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A Service's slices, by their names.
    pub fn slices(&self, service: &NamespacedName) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.slices.get(service);
        slices
            .into_iter()
            .flat_map(|slices| slices.values().map(Arc::as_ref))
    }
}

/// The Service that a proxy looks for a slice's endpoints under (semantics 117, 119).
fn owner(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.service.as_ref().filter(|_| slice.is_proxied)?;
    Some(NamespacedName::new(&slice.name.namespace, name))
}

#[cfg(test)]
mod tests;
