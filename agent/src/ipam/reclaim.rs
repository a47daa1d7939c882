//! Takes back what no runtime will: attachments whose pod is gone, and host ends that nobody holds.
//!
//! containerd calls neither GC nor CHECK (semantics 115), and a reboot takes every namespace along but no lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipam::Holder;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::absence::{Absence, HostEnd};
use crate::cni::Server;
use crate::core::Endpoint;
use crate::message::Message;

/// How often is looked, unless the grace is shorter.
const PERIOD: Duration = Duration::from_secs(5);
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

/// What was taken back in this run, and what may be soon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reclaimed {
    /// Attachments that were released.
    pub(crate) attachments: u64,
    /// Host ends that were deleted.
    pub(crate) host_ends: u64,
    /// Since when attachments have been without their host end.
    pub(crate) absent: BTreeMap<Holder, Instant>,
}

/// Looks for ever; the first time once the present state is in force.
pub(crate) async fn run_task(server: Server, grace: Duration) {
    if server.wait_in_force().await.is_err() {
        return;
    }
    let mut absence = Absence::default();
    loop {
        if let Err(error) = round(&server, &mut absence, grace).await {
            warn!(error, "cannot look for attachments whose pods are gone");
        }
        tokio::time::sleep((grace / 4).clamp(SHORTEST_PERIOD, PERIOD)).await;
    }
}

async fn round(server: &Server, absence: &mut Absence, grace: Duration) -> Result<(), String> {
    let report = &server.reclaimed;
    // Attachments first: a link made since is then explained by none, and is not due for long.
    let attachments = attachments(server).await?;
    let host_ends = host_ends().await?;
    let now = Instant::now();
    absence.look(now, &attachments, &host_ends, |holder| {
        server.is_busy(holder)
    });
    report.send_modify(|state| state.absent.clone_from(absence.holders()));
    let due = absence.due(now, grace);
    for holder in due.holders {
        if release(server, &holder, grace).await {
            report.send_modify(|state| state.attachments += 1);
        }
    }
    for host_end in due.host_ends {
        if delete(server, &host_end, grace).await {
            report.send_modify(|state| state.host_ends += 1);
        }
    }
    Ok(())
}

async fn attachments(server: &Server) -> Result<Vec<(Holder, String)>, String> {
    let (reply, answer) = oneshot::channel();
    let asked = server.ask(Message::Endpoints(reply), answer).await;
    let endpoints = asked.map_err(|error| error.to_string())?;
    let pair = |endpoint: Endpoint| (endpoint.holder, endpoint.interface);
    Ok(endpoints.into_iter().map(pair).collect())
}

async fn host_ends() -> Result<BTreeSet<HostEnd>, String> {
    let links = routes::pod_links().await;
    let links = links.map_err(|error| error.to_string())?;
    let host_end = |link: routes::LinkInfo| HostEnd {
        name: link.name,
        index: link.index,
        up: link.up,
    };
    Ok(links.into_iter().map(host_end).collect())
}

/// Detaches one whose host end is gone still, now that no other request is about it.
async fn release(server: &Server, holder: &Holder, grace: Duration) -> bool {
    let _entered = server.enter(holder).await;
    let name = crate::attachments::host_interface(holder);
    match host_ends().await {
        Ok(links) if links.iter().any(|link| link.name == name) => return false,
        Ok(_) => {}
        Err(error) => {
            warn!(
                error,
                "an attachment whose pod is gone is kept until links can be read"
            );
            return false;
        }
    }
    match server.delete(holder).await {
        Ok(()) => {
            info!(
                container = holder.container_id,
                interface = name,
                "released an attachment: its host end has been gone for {grace:?}, and no runtime said so"
            );
            true
        }
        Err(error) => {
            warn!(%error, container = holder.container_id, "an attachment whose pod is gone cannot be released; it is tried again");
            false
        }
    }
}

/// Deletes one that still belongs to nobody; by its index, so that one made since under the same name stays.
async fn delete(server: &Server, host_end: &HostEnd, grace: Duration) -> bool {
    match attachments(server).await {
        Ok(all) if all.iter().all(|(_, name)| *name != host_end.name) => {}
        Ok(_) | Err(_) => return false,
    }
    match routes::delete_link_at(host_end.index, &host_end.name).await {
        Ok(was_there) => {
            if was_there {
                let name = &host_end.name;
                info!(
                    interface = name,
                    "deleted a host end that no attachment has had for {grace:?}"
                );
            }
            was_there
        }
        Err(error) => {
            warn!(%error, "a host end of no attachment cannot be deleted; it is tried again");
            false
        }
    }
}
