//! What policy verbs are answered from: the state that was published, and what of it the kernel holds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::policy::{Compiled, Endpoint, Objects, Settings};
use netfilter::InterfaceName;
use tokio::sync::watch;

use crate::firewall::{self, Held, read_held};

/// How long a verb waits until what was published is in force.
const IN_FORCE: Duration = Duration::from_secs(3);

/// Copies of all that a verb needs.
pub(crate) struct PolicyState {
    pub(crate) node: String,
    pub(crate) in_sync: bool,
    pub(crate) objects: Objects,
    pub(crate) settings: Settings,
    /// As `status` lists them: the object, a colon, what is wrong.
    pub(crate) problems: Vec<String>,
    pub(crate) desired: watch::Receiver<firewall::Desired>,
    pub(crate) applied: watch::Receiver<firewall::Applied>,
}

/// The state with what the kernel holds of it, or why that is not known.
pub(crate) struct Known {
    pub(crate) node: String,
    pub(crate) objects: Objects,
    pub(crate) settings: Settings,
    pub(crate) problems: Vec<String>,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) held: Result<Held, String>,
}

impl Known {
    /// The host end by which an address is attached here.
    pub(crate) fn endpoint(&self, address: IpAddr) -> Option<(&InterfaceName, &Endpoint)> {
        let mut endpoints = self.objects.endpoints.iter();
        endpoints.find(|(_, endpoint)| endpoint.addresses.contains(&address))
    }

    /// What is wrong with an object.
    pub(crate) fn problems_of(&self, key: &api::Key) -> Vec<String> {
        let start = format!("{key}: ");
        let problems = self.problems.iter();
        let own = problems.filter_map(|problem| problem.strip_prefix(&start));
        own.map(str::to_owned).collect()
    }
}

impl PolicyState {
    /// Reads the kernel, once what was published is in force. `Err`: another state was published meanwhile, and what was
    /// read may be of that one.
    pub(super) async fn with_kernel(mut self) -> Result<Known, Known> {
        let compiled = self.desired.borrow_and_update().compiled.clone();
        let held = self.read().await;
        let now = self.desired.borrow_and_update().compiled.clone();
        let same = Arc::ptr_eq(&now, &compiled) || now == compiled;
        let known = Known {
            node: self.node,
            objects: self.objects,
            settings: self.settings,
            problems: self.problems,
            compiled,
            held,
        };
        if same { Ok(known) } else { Err(known) }
    }

    async fn read(&mut self) -> Result<Held, String> {
        let goal = self.desired.borrow().generation;
        let in_force = self.applied.wait_for(|state| state.generation >= goal);
        // If it is not in force in time, what is there is told all the same: it differs, and that is to be seen.
        let _ = tokio::time::timeout(IN_FORCE, in_force).await;
        let (backend, error) = {
            let applied = self.applied.borrow();
            (applied.backend, applied.error.clone())
        };
        let Some(backend) = backend else {
            let why = "this agent enforces no policy: it runs without --features policy";
            return Err(error.unwrap_or_else(|| why.to_owned()));
        };
        read_held(backend).await.map_err(|error| error.to_string())
    }
}
