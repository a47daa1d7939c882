//! The CNI verbs: gives an attachment its addresses, has its chains and routes in force, makes its link; and takes it back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use api::NamespacedName;
use cni_spec::environment::{ARG_POD_NAME, ARG_POD_NAMESPACE, ARG_POD_UID};
use cni_spec::result::{Interface, IpConfig, Route};
use cni_spec::socket::{DESCRIPTORS, PENDING_DELETIONS, Request, Response};
use cni_spec::{AddResult, CniError, Command, ErrorCode};
use ipam::Holder;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use routes::{GATEWAY_V4, GATEWAY_V6, PodLink};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::cni_socket;
use crate::core::Endpoint;
use crate::message::Message;
use crate::{conntrack, firewall, routing};

/// The socket's name in the run folder.
pub(crate) const SOCKET: &str = "cni.sock";
/// Chains and routes must be in force within this, or ADD is rolled back.
const IN_FORCE: Duration = Duration::from_secs(20);
/// For how long ADD waits for the sources after a start.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
const SYNC_RETRY: Duration = Duration::from_millis(100);
/// How often deletions that the plugin wrote down are looked for.
const PENDING_PERIOD: Duration = Duration::from_secs(2);

/// Answers the plugin; cheap to clone, one a connection.
#[derive(Clone)]
pub(crate) struct Server {
    core: mpsc::Sender<Message>,
    firewall: watch::Receiver<firewall::Applied>,
    routing: watch::Receiver<routing::Applied>,
    cut: watch::Receiver<conntrack::Cut>,
    pending: PathBuf,
}

impl Server {
    /// Makes the server; `state_dir` is where the plugin leaves deletions that no agent was there to take.
    pub(crate) fn new(
        core: mpsc::Sender<Message>,
        firewall: watch::Receiver<firewall::Applied>,
        routing: watch::Receiver<routing::Applied>,
        cut: watch::Receiver<conntrack::Cut>,
        state_dir: &std::path::Path,
    ) -> Self {
        Self {
            core,
            firewall,
            routing,
            cut,
            pending: state_dir.join(PENDING_DELETIONS),
        }
    }

    /// Serves one connection.
    pub(crate) async fn serve(self, stream: UnixStream) {
        let (stream, request, descriptors) = match cni_socket::receive(stream).await {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "a CNI request could not be read");
                return;
            }
        };
        let command = request.command;
        let holder = holder(&request);
        let response = match self.answer(request, descriptors).await {
            Ok(response) => response,
            Err(error) => {
                warn!(?command, %error, "CNI");
                Response::Error(error)
            }
        };
        let attached = matches!(response, Response::Result(_));
        if let Err(error) = cni_socket::send(stream, response).await {
            warn!(%error, "a CNI answer could not be sent");
            // A plugin that gave up has told the runtime of a failure: the pod will not be used.
            if attached && let Err(error) = self.delete(&holder).await {
                warn!(%error, "an ADD that nobody waits for could not be rolled back; DEL will");
            }
        }
    }

    /// Carries out deletions that the plugin wrote down while no agent ran; runs for ever.
    pub(crate) async fn take_pending_deletions(self) {
        loop {
            for (file, request) in pending_deletions(&self.pending) {
                match self.delete(&holder(&request)).await {
                    Ok(()) => {
                        info!(
                            container = request.container_id,
                            "carried out a deletion that waited"
                        );
                        if let Err(error) = std::fs::remove_file(&file) {
                            warn!(%error, file = %file.display(), "cannot remove a pending deletion");
                        }
                    }
                    Err(error) => warn!(%error, "a deletion that waited failed; it is tried again"),
                }
            }
            tokio::time::sleep(PENDING_PERIOD).await;
        }
    }

    async fn answer(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Response, CniError> {
        match request.command {
            Command::Add => self.add(&request, descriptors).await.map(Response::Result),
            Command::Del => self
                .delete(&holder(&request))
                .await
                .map(|()| Response::Done),
            Command::Check => self
                .check(&request, descriptors)
                .await
                .map(|()| Response::Done),
            Command::Gc => self.collect(&request).await.map(|()| Response::Done),
            Command::Status => self.status().map(|()| Response::Done),
        }
    }

    async fn add(
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
                info!(pod = ?endpoint.pod, addresses = ?endpoint.addresses, "attached");
                Ok(result(request, &endpoint, &state))
            }
            Err(error) => {
                if let Err(second) = self.delete(&holder).await {
                    warn!(error = %second, "a failed ADD could not be rolled back; DEL will");
                }
                Err(error)
            }
        }
    }

    /// A deletion that waits for an earlier attachment of the same name must not hit the new one later.
    async fn take_pending_deletion_of(&self, request: &Request) -> Result<(), CniError> {
        let file = self.pending.join(request.pending_deletion_name());
        if !file.exists() {
            return Ok(());
        }
        self.delete(&holder(request)).await?;
        std::fs::remove_file(&file).map_err(|error| {
            CniError::new(ErrorCode::Io, "cannot remove a deletion that waited")
                .details(format!("{}: {error}", file.display()))
        })
    }

    /// Asks the core for addresses; waits a little for sources that are not in sync yet.
    async fn attach(
        &self,
        request: &Request,
        holder: &Holder,
    ) -> Result<(Endpoint, u64), CniError> {
        let deadline = tokio::time::Instant::now() + SYNC_PATIENCE;
        loop {
            let (reply, answer) = oneshot::channel();
            let message = Message::Attach {
                holder: holder.clone(),
                pod: pod(request),
                uid: request.args.get(ARG_POD_UID).cloned().unwrap_or_default(),
                fixed: request.config.requested_ips()?,
                reply,
            };
            match self.ask(message, answer).await? {
                Ok(attached) => return Ok(attached),
                Err(error) if error.later && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(SYNC_RETRY).await;
                }
                Err(error) => {
                    let code = if error.later {
                        ErrorCode::TryAgainLater
                    } else {
                        ErrorCode::Failed
                    };
                    return Err(CniError::new(code, "no address for this pod").details(error.text));
                }
            }
        }
    }

    /// Waits until no flow of an earlier holder of these addresses is left: the pod would inherit what that one was
    /// allowed (semantics 52). Where flows cannot be cut at all, policy still judges every new one.
    async fn flows_are_gone(&self, endpoint: &Endpoint) -> Result<(), CniError> {
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

    /// Chains first, then the link, then the route: the pod is isolated before its first packet.
    async fn bring_up(
        &self,
        endpoint: &Endpoint,
        generation: u64,
        netns: OwnedFd,
        netlink: OwnedFd,
    ) -> Result<routes::PodLinkState, CniError> {
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
        self.flows_are_gone(endpoint).await?;
        let link = pod_link(endpoint);
        let state = routes::create_pod_link(&link, netns, netlink)
            .await
            .map_err(|error| {
                CniError::new(ErrorCode::Failed, "cannot attach the pod").details(error.to_string())
            })?;
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
        let failed = self.routing.borrow().failed.clone();
        match failed
            .iter()
            .find(|(prefix, _)| own.iter().any(|ip| ip.to_string() == *prefix))
        {
            Some((prefix, why)) => Err(CniError::new(ErrorCode::Failed, "cannot route to the pod")
                .details(format!("{prefix}: {why}"))),
            None => Ok(state),
        }
    }

    /// Link first, so that no packet leaves any more when the chains go; nothing there is success.
    async fn delete(&self, holder: &Holder) -> Result<(), CniError> {
        let failed = |error: String| {
            CniError::new(ErrorCode::TryAgainLater, "cannot detach the pod").details(error)
        };
        let interface = crate::leases::host_interface(holder);
        routes::delete_link(&interface)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Detach {
            holder: holder.clone(),
            reply,
        };
        if let Some(endpoint) = self.ask(message, answer).await?.map_err(failed)? {
            info!(pod = ?endpoint.pod, addresses = ?endpoint.addresses, "detached");
        }
        Ok(())
    }

    async fn check(&self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<(), CniError> {
        let (_netns, netlink) = pair(descriptors)?;
        let wrong = |text: String| {
            CniError::new(
                ErrorCode::CheckFailed,
                "the attachment is not as it was made",
            )
            .details(text)
        };
        let (reply, answer) = oneshot::channel();
        let message = Message::Lookup {
            holder: holder(request),
            reply,
        };
        let Some(endpoint) = self.ask(message, answer).await? else {
            return Err(
                CniError::new(ErrorCode::UnknownContainer, "no such attachment")
                    .details(request.container_id.clone()),
            );
        };
        if let Some(previous) = request.config.previous_result()? {
            let held: BTreeSet<IpAddr> = endpoint.addresses.iter().copied().collect();
            let ours = previous.ips.iter().map(|ip| ip.address.addr());
            if let Some(other) = ours.into_iter().find(|ip| !held.contains(ip)) {
                return Err(wrong(format!(
                    "prevResult has {other}, which this pod does not hold"
                )));
            }
        }
        let link = pod_link(&endpoint);
        let problems = routes::check_pod_link(&link, netlink)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(wrong(problems.join("; ")))
        }
    }

    /// Detaches all that the runtime does not name.
    async fn collect(&self, request: &Request) -> Result<(), CniError> {
        let Some(valid) = &request.config.valid_attachments else {
            return Err(CniError::new(
                ErrorCode::InvalidConfig,
                "GC without a list of valid attachments",
            )
            .details("cni.dev/valid-attachments is absent; an empty list would delete all"));
        };
        let keep: BTreeSet<Holder> = valid
            .iter()
            .map(|one| Holder {
                container_id: one.container_id.clone(),
                interface: one.ifname.clone(),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        let mut failures = Vec::new();
        for endpoint in self.ask(Message::Endpoints(reply), answer).await? {
            if !keep.contains(&endpoint.holder)
                && let Err(error) = self.delete(&endpoint.holder).await
            {
                failures.push(error.to_string());
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(CniError::new(ErrorCode::Failed, "not all was collected").details(failures.join("; ")))
    }

    /// Answers from what is known: the runtime asks every few seconds.
    fn status(&self) -> Result<(), CniError> {
        let firewall = self.firewall.borrow();
        let not_available = |why: &str| {
            Err(CniError::new(ErrorCode::NotAvailable, "pods cannot be attached now").details(why))
        };
        match &firewall.error {
            Some(error) => not_available(error),
            None if firewall.generation == 0 => not_available("the sources are not in sync yet"),
            None => Ok(()),
        }
    }

    async fn ask<T>(&self, message: Message, answer: oneshot::Receiver<T>) -> Result<T, CniError> {
        let stopping = || CniError::new(ErrorCode::TryAgainLater, "the agent is stopping");
        self.core.send(message).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

fn pod_link(endpoint: &Endpoint) -> PodLink {
    PodLink {
        host_interface: endpoint.interface.clone(),
        pod_interface: endpoint.holder.interface.clone(),
        addresses: endpoint.addresses.clone(),
        ..PodLink::default()
    }
}

fn holder(request: &Request) -> Holder {
    Holder {
        container_id: request.container_id.clone(),
        interface: request.interface.clone(),
    }
}

/// Which pod the runtime says this is; both names or none.
fn pod(request: &Request) -> Option<NamespacedName> {
    let namespace = request.args.get(ARG_POD_NAMESPACE)?;
    let name = request.args.get(ARG_POD_NAME)?;
    Some(NamespacedName::new(namespace.clone(), name.clone()))
}

fn pair(descriptors: Vec<OwnedFd>) -> Result<(OwnedFd, OwnedFd), CniError> {
    match <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) {
        Ok([netns, netlink]) => Ok((netns, netlink)),
        Err(others) => Err(
            CniError::new(ErrorCode::Io, "the plugin passed no descriptors").details(format!(
                "{} instead of {DESCRIPTORS}: are plugin and agent of one version?",
                others.len()
            )),
        ),
    }
}

fn result(request: &Request, endpoint: &Endpoint, state: &routes::PodLinkState) -> AddResult {
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let mut result = request
        .config
        .previous_result()
        .ok()
        .flatten()
        .unwrap_or_default();
    let first = u32::try_from(result.interfaces.len()).unwrap_or(0);
    result.interfaces.push(Interface {
        name: endpoint.interface.clone(),
        mac: mac(state.host_mac),
        mtu: Some(state.mtu),
        ..Interface::default()
    });
    result.interfaces.push(Interface {
        name: endpoint.holder.interface.clone(),
        mac: mac(state.pod_mac),
        mtu: Some(state.mtu),
        sandbox: request.netns.clone().unwrap_or_default(),
        ..Interface::default()
    });
    for address in &endpoint.addresses {
        let (gateway, everywhere): (IpAddr, IpNet) = match address {
            IpAddr::V4(_) => (GATEWAY_V4.into(), Ipv4Net::default().into()),
            IpAddr::V6(_) => (GATEWAY_V6.into(), Ipv6Net::default().into()),
        };
        result.ips.push(IpConfig {
            address: IpNet::from(*address),
            gateway: Some(gateway),
            // The index of the pod's end: a runtime takes the pod's address from there.
            interface: Some(first + 1),
        });
        result.routes.push(Route::new(everywhere, Some(gateway)));
    }
    result
}

fn pending_deletions(folder: &std::path::Path) -> Vec<(PathBuf, Request)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let parse = |path: PathBuf| {
        if path.extension().is_none_or(|end| end != "json") {
            return None;
        }
        match serde_json::from_slice(&std::fs::read(&path).ok()?) {
            Ok(request) => Some((path, request)),
            Err(error) => {
                warn!(%error, file = %path.display(), "not a pending deletion");
                None
            }
        }
    };
    entries
        .filter_map(|entry| parse(entry.ok()?.path()))
        .collect()
}
