//! Answers `portolan ipam`: the core's copies held against the kernel; and takes attachments back by hand.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ::ipam::Holder;
use tokio::sync::{mpsc, oneshot};

use super::state::{IpamState, Seen};
use super::view::{Attachment, IpamAnswer, IpamQuestion, ReleasedView};
use super::{check, show};
use crate::attachments::host_interface;
use crate::cni::Server;
use crate::message::Message;

/// Answers one question; `server` is none where no pods are attached.
///
/// # Errors
/// In words that say what to do.
pub(crate) async fn answer(
    core: &mpsc::Sender<Message>,
    server: Option<&Server>,
    question: IpamQuestion,
) -> Result<IpamAnswer, String> {
    let state = ask(core).await?;
    match question {
        IpamQuestion::Show { address, pod } => {
            let seen = seen(&state, server, false).await?;
            let asked = (address, pod.as_deref());
            let view = show::show(&state, &seen, seconds(), asked);
            if view.addresses.is_empty() && (address.is_some() || pod.is_some()) {
                let what = address.map(|ip| ip.to_string()).or(pod);
                let what = what.unwrap_or_default();
                return Err(format!(
                    "nobody here holds an address of {what}: `portolan ipam show` lists all"
                ));
            }
            Ok(IpamAnswer::Show(view))
        }
        IpamQuestion::Check => {
            let seen = seen(&state, server, true).await?;
            let view = check::check(&state, &seen, Instant::now());
            Ok(IpamAnswer::Check(view))
        }
        IpamQuestion::Release { what, force } => {
            let server =
                server.ok_or("this agent attaches no pods: it runs without --features cni")?;
            release(&state, server, &what, force)
                .await
                .map(IpamAnswer::Released)
        }
    }
}

async fn ask(core: &mpsc::Sender<Message>) -> Result<IpamState, String> {
    let stopping = || "the agent is stopping".to_owned();
    let (reply, state) = oneshot::channel();
    let sent = core.send(Message::Ipam(reply)).await;
    sent.map_err(|_| stopping())?;
    state.await.map(|state| *state).map_err(|_| stopping())
}

/// Looks at links, and at routes and files where they count.
async fn seen(
    state: &IpamState,
    server: Option<&Server>,
    routes_too: bool,
) -> Result<Seen, String> {
    let names = |links: Vec<routes::LinkInfo>| links.into_iter().map(|link| link.name).collect();
    let failed = |error: routes::Error| format!("the kernel cannot be read: {error}");
    let mut seen = Seen {
        host_ends: names(routes::pod_links().await.map_err(failed)?),
        ..Seen::default()
    };
    if let Some(server) = server {
        seen.pending = server.pending_deletions();
        seen.absent = server.reclaimed.borrow().absent.clone();
        let holders = state.ipam.leases().map(|lease| &lease.holder);
        seen.busy = holders
            .filter(|holder| server.is_busy(holder))
            .cloned()
            .collect();
    }
    if routes_too {
        seen.shapers = names(routes::shapers().await.map_err(failed)?);
        let table = routes::RouteTable::open().await.map_err(failed)?;
        let single = table.routes().filter(|route| {
            route.in_kernel && route.prefix.prefix_len() == route.prefix.max_prefix_len()
        });
        seen.routes = single.map(|route| route.prefix.addr()).collect();
    }
    Ok(seen)
}

/// Detaches as the runtime's DEL would.
async fn release(
    state: &IpamState,
    server: &Server,
    what: &Attachment,
    force: bool,
) -> Result<ReleasedView, String> {
    let holder = holder(state, what)?;
    let lease = state.ipam.lease(&holder);
    let lease = lease.ok_or_else(|| {
        format!(
            "no attachment of container {}, interface {}: `portolan ipam show` lists all",
            holder.container_id, holder.interface
        )
    })?;
    let _entered = server.enter(&holder).await;
    let host_end = host_interface(&holder);
    let links = routes::pod_links().await;
    let links = links.map_err(|error| format!("the kernel cannot be read: {error}"))?;
    if !force && links.iter().any(|link| link.name == host_end) {
        let pod = lease
            .pod
            .as_ref()
            .map_or_else(|| holder.container_id.clone(), ToString::to_string);
        return Err(format!(
            "{pod} is attached: its host end {host_end} is there; delete the pod, or cut it off with --force"
        ));
    }
    server
        .delete(&holder)
        .await
        .map_err(|error| error.to_string())?;
    Ok(ReleasedView {
        addresses: lease.addresses.clone(),
        pod: lease.pod.as_ref().map(ToString::to_string),
        container_id: holder.container_id,
        interface: holder.interface,
    })
}

fn holder(state: &IpamState, what: &Attachment) -> Result<Holder, String> {
    match what {
        Attachment::Holder { holder } => Ok(holder.clone()),
        Attachment::Address { address } => {
            let holder = state.ipam.holder_of(*address).cloned();
            holder.ok_or_else(|| {
                format!("nobody here holds {address}: `portolan ipam show` lists all")
            })
        }
    }
}

/// Since 1970.
fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
