//! Addresses of load balancers, as the core has to do with them: in a cluster it hands on what they depend on; in a directory,
//! where no status says them, it works them out and serves Services with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::Service;
use api::{Change, Event, NamespacedName};

use super::Core;
use crate::load_balancer::{Allocator, Note, State};

/// Where addresses are worked out.
#[derive(Debug)]
pub(super) enum Balancing {
    /// By a task of its own, which is told of these changes.
    Beside {
        notes: Vec<Note>,
        /// The Services that it knows of: of others nothing has to be said.
        known: BTreeSet<NamespacedName>,
    },
    /// Here.
    Here(Box<Here>),
}

/// What is worked out here.
#[derive(Debug, Default)]
pub(super) struct Here {
    allocator: Allocator,
    is_stale: bool,
    /// What Services are served with that have other addresses in their manifests.
    given: BTreeMap<NamespacedName, Vec<IpAddr>>,
    /// What followed last, if nobody has taken it yet.
    news: Option<Arc<State>>,
}

impl Balancing {
    pub(super) fn beside() -> Self {
        Self::Beside {
            notes: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    pub(super) fn here() -> Self {
        Self::Here(Box::default())
    }

    fn take(&mut self, note: Note) {
        match self {
            Self::Beside { notes, known } => {
                match &note {
                    Note::Service(name, Some(_)) => drop(known.insert(name.clone())),
                    Note::Service(name, None) if !known.remove(name) => return,
                    _ => {}
                }
                notes.push(note);
            }
            Self::Here(here) => {
                if let Note::Service(name, _) = &note {
                    // It is served as its manifest says, until the next working out.
                    here.is_stale |= here.given.remove(name).is_some();
                }
                here.is_stale |= here.allocator.note(note);
            }
        }
    }
}

impl Here {
    /// The Services that are to be served otherwise than they are.
    fn work_out(&mut self) -> Vec<Arc<Service>> {
        if !std::mem::take(&mut self.is_stale) {
            return Vec::new();
        }
        let state = self.allocator.allocate();
        let mut changed = Vec::new();
        self.given.retain(|name, _| {
            let is_ours = state.allocated.contains_key(name);
            if !is_ours {
                changed.extend(self.allocator.service(name).cloned());
            }
            is_ours
        });
        for (name, allocation) in &state.allocated {
            let Some(service) = self.allocator.service(name) else {
                continue;
            };
            let served = self.given.get(name).unwrap_or(&service.load_balancer_ips);
            if *served != allocation.addresses {
                changed.push(Arc::new(Service {
                    load_balancer_ips: allocation.addresses.clone(),
                    ..(**service).clone()
                }));
                self.given
                    .insert(name.clone(), allocation.addresses.clone());
            }
        }
        self.news = Some(Arc::new(state));
        changed
    }
}

impl Core {
    /// Has addresses given to Services of type LoadBalancer. `is_cluster`: there are statuses that say them.
    pub(crate) fn balance_services(&mut self, is_cluster: bool) {
        self.balancing = Some(match is_cluster {
            true => Balancing::beside(),
            false => Balancing::here(),
        });
    }

    pub(super) fn note_balancing(&mut self, change: &Change) {
        if let Some(balancing) = &mut self.balancing {
            Note::of(change)
                .into_iter()
                .for_each(|note| balancing.take(note));
        }
    }

    pub(super) fn note_sync_of_balancing(&mut self, event: &Event) {
        if let (Some(balancing), Event::InSync) = (&mut self.balancing, event) {
            balancing.take(Note::InSync);
        }
    }

    /// What is to be told to the task beside, since the last call.
    pub(crate) fn balancing_notes(&mut self) -> Vec<Note> {
        match &mut self.balancing {
            Some(Balancing::Beside { notes, .. }) => std::mem::take(notes),
            _ => Vec::new(),
        }
    }

    /// What was worked out here since the last call.
    pub(crate) fn balancing_news(&mut self) -> Option<Arc<State>> {
        match &mut self.balancing {
            Some(Balancing::Here(here)) => here.news.take(),
            _ => None,
        }
    }

    /// Serves Services with the addresses that are worked out here.
    pub(super) fn serve_balanced(&mut self) {
        if let (Some(Balancing::Here(here)), Some(services)) =
            (&mut self.balancing, &mut self.services)
        {
            for service in here.work_out() {
                services.replace(service);
            }
        }
    }
}
