//! CNI ADD: addresses, chains in force, the link, its routes; or all of it taken back.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cni_spec::socket::Request;
use cni_spec::{AddResult, CniError, ErrorCode};
use ipam::Holder;
use ipnet::IpNet;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::identity::{self, holder, pair};
use super::result;
use super::server::Server;
use crate::core::Endpoint;
use crate::message::{Message, When};

/// Chains and routes must be in force within this, or ADD is rolled back.
const IN_FORCE: Duration = Duration::from_secs(20);
/// For how long a refused route may be tried again: three times.
const ROUTE_RETRIES: Duration = Duration::from_secs(2);
/// For how long ADD waits for the sources after a start.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
const SYNC_RETRY: Duration = Duration::from_millis(100);

impl Server {
    pub(super) async fn add(
        &self,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<AddResult, CniError> {
        let (netns, netlink) = pair(descriptors)?;
        let holder = holder(request);
        self.take_pending_deletion_of(request).await?;
        let (endpoint, generation) = self.attach(request, &holder).await?;
        let made = self.bring_up(&endpoint, generation, netns, netlink).await;
        match made {
            Ok(state) => {
                let state = self.with_mtu_of_now(&endpoint, state).await;
                info!(pod = ?endpoint.pod, addresses = ?endpoint.addresses, "attached");
                Ok(result::of(request, &endpoint, &state))
            }
            Err(error) => {
                if let Err(second) = self.delete(&holder).await {
                    warn!(error = %second, "a failed ADD could not be rolled back; DEL will");
                }
                Err(error)
            }
        }
    }

    /// Asks the core for addresses; waits a little for sources that are not in sync yet.
    pub(super) async fn attach(
        &self,
        request: &Request,
        holder: &Holder,
    ) -> Result<(Endpoint, u64), CniError> {
        let asked = identity::asked(request, holder)?;
        let deadline = tokio::time::Instant::now() + SYNC_PATIENCE;
        loop {
            let (reply, answer) = oneshot::channel();
            let message = Message::Attach {
                asked: Box::new(asked.clone()),
                reply,
            };
            match self.ask(message, answer).await? {
                Ok(attached) => return Ok(attached),
                Err(error)
                    if error.when == When::Soon && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(SYNC_RETRY).await;
                }
                Err(error) if error.when == When::PodUnknown => {
                    self.read_pod(&asked, deadline).await?;
                }
                Err(error) => {
                    let (code, message) = match error.when {
                        When::Soon | When::PodUnknown => {
                            (ErrorCode::TryAgainLater, "no address for this pod yet")
                        }
                        When::Later => {
                            (ErrorCode::TryAgainLater, "this pod cannot be attached yet")
                        }
                        When::Unknown => (ErrorCode::Failed, "no address for this pod"),
                    };
                    return Err(CniError::new(code, message).details(error.text));
                }
            }
        }
    }

    /// Waits until no flow of an earlier holder of these addresses is left: the pod would inherit what that one was
    /// allowed (semantics 52). Where flows cannot be cut at all, policy still judges every new one.
    pub(super) async fn flows_are_gone(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        // After a restart, the first look at all flows is waited for: who had the addresses before is not known.
        let freed = endpoint.freed.max(1);
        let mut cut = self.cut.clone();
        let gone = cut.wait_for(|state| state.generation >= freed || state.error.is_some());
        let failed = || {
            let message = "flows of an earlier pod of the address are still there";
            CniError::new(ErrorCode::TryAgainLater, message)
        };
        match tokio::time::timeout(IN_FORCE, gone).await {
            Ok(Ok(state)) => {
                if let Some(error) = &state.error {
                    warn!(error, addresses = ?endpoint.addresses, "attached without a look at old flows");
                }
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(failed()),
        }
    }

    /// Whether the kernel has taken the rules of all of the pod's host ports; they are in force.
    fn host_ports_lead_here(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        let in_force = self.firewall.borrow().host_ports.clone();
        let is_own = |interface: &str| interface == endpoint.interface;
        let mut refused = in_force.left_out.iter();
        match refused.find(|port| is_own(port.interface.as_str())) {
            None => Ok(()),
            Some(port) => Err(CniError::new(
                ErrorCode::Failed,
                "the kernel refuses the rules of a host port",
            )
            .details(format!("{} leads to {}", port.claim.port, port.pod))),
        }
    }

    /// The link is made while chains are written, and carries nothing until they are in force; then comes the route: the
    /// pod is isolated before its first packet.
    pub(super) async fn bring_up(
        &self,
        endpoint: &Endpoint,
        generation: u64,
        netns: OwnedFd,
        netlink: OwnedFd,
    ) -> Result<routes::PodLinkState, CniError> {
        let start = Instant::now();
        let link = self.new_link(endpoint);
        let making = routes::make_pod_link(&link, netns, netlink);
        let (made, in_force) = tokio::join!(making, self.in_force(endpoint, generation));
        in_force?;
        let chains = start.elapsed();
        // Where the chains did not come, who called takes back what was made.
        let state = match made {
            Ok(made) => routes::raise_pod_link(made).await,
            Err(error) => Err(error),
        }
        .map_err(|error| {
            CniError::new(ErrorCode::Failed, "cannot attach the pod").details(error.to_string())
        })?;
        let link = start.elapsed();
        self.route(endpoint).await?;
        debug!(?chains, ?link, route = ?start.elapsed(), interface = endpoint.interface, "in force after");
        Ok(state)
    }

    /// Waits until the pod's chains are in the kernel, and nothing of an earlier pod of its addresses is.
    async fn in_force(&self, endpoint: &Endpoint, generation: u64) -> Result<(), CniError> {
        let mut firewall = self.firewall.clone();
        let chains = firewall.wait_for(|state| state.generation >= generation || state.is_blocked);
        let is_in_force = match tokio::time::timeout(IN_FORCE, chains).await {
            Ok(Ok(state)) => state.generation >= generation,
            Ok(Err(_)) | Err(_) => false,
        };
        if !is_in_force {
            let why = self.firewall.borrow().error.clone().unwrap_or_default();
            return Err(CniError::new(
                ErrorCode::TryAgainLater,
                "policy could not be put in force",
            )
            .details(why));
        }
        self.host_ports_lead_here(endpoint)?;
        self.flows_are_gone(endpoint).await
    }

    /// Has the pod's addresses lead to its link, and waits until they do.
    async fn route(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Link {
            interface: endpoint.interface.clone(),
            there: true,
            reply,
        };
        let generation = self.ask(message, answer).await?;
        let mut routing = self.routing.clone();
        let routed = routing.wait_for(|state| state.generation >= generation);
        if tokio::time::timeout(IN_FORCE, routed).await.is_err() {
            return Err(CniError::new(
                ErrorCode::TryAgainLater,
                "the pod's routes are not in the kernel",
            ));
        }
        let own: Vec<IpNet> = endpoint
            .addresses
            .iter()
            .map(|ip| IpNet::from(*ip))
            .collect();
        let is_own = |prefix: &str| own.iter().any(|ip| ip.to_string() == prefix);
        // One refused while the link was being made anew is tried again soon.
        let routed = routing.wait_for(|state| !state.failed.iter().any(|(one, _)| is_own(one)));
        let _ = tokio::time::timeout(ROUTE_RETRIES, routed).await;
        let failed = self.routing.borrow().failed.clone();
        match failed.iter().find(|(prefix, _)| is_own(prefix)) {
            Some((prefix, why)) => Err(CniError::new(ErrorCode::Failed, "cannot route to the pod")
                .details(format!("{prefix}: {why}"))),
            None => Ok(()),
        }
    }
}
