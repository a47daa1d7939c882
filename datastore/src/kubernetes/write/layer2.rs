//! The Leases by which nodes agree who answers for an address by ARP and neighbour discovery: one for each address, read by all
//! agents, written by who holds it or takes it. Deleted by who gives it up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use k8s_openapi::List;
use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::calls::{Calls, Retry};
use crate::kubernetes::Connection;
use crate::kubernetes::failure::Failure;
use crate::kubernetes::request::Answer;

/// The first part of the Leases' names.
const PREFIX: &str = "portolan-l2-";
/// The label that they bear.
const LABEL: &str = "portolan.io/layer2";
/// How long a watch lasts.
const WATCH: Duration = Duration::from_secs(540);
/// How many events wait for the reader before the watch waits for it.
const QUEUE: usize = 256;

/// Such a Lease as it was read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressLease {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// For how long from its last renewal on.
    pub duration: Duration,
    /// Its `resourceVersion`: of one kind they can be compared (KEP-5504).
    pub version: u64,
    uid: String,
    acquired: Option<Timestamp>,
    transitions: i32,
}

/// What the watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressLeaseEvent {
    /// All Leases that there are; what was told before and is not among them is gone.
    All(BTreeMap<IpAddr, AddressLease>),
    /// One has changed; none: it is gone.
    Changed(IpAddr, Option<AddressLease>),
}

/// Why a Lease was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseNotWritten {
    /// Another was faster: what it is now; none: it is gone.
    Conflict(Option<AddressLease>),
    /// The server refused, or cannot be reached.
    Failed(String),
}

/// Reads and writes them; cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressLeases {
    connection: Connection,
    calls: Calls,
    collection: String,
}

impl AddressLeases {
    pub(crate) fn new(connection: Connection) -> Self {
        let namespace = &connection.namespace;
        Self {
            collection: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            calls: Calls::new(connection.client.clone()),
            connection,
        }
    }

    /// Watches them until the receiver is dropped. Call it inside a tokio runtime.
    #[must_use]
    pub fn watch(&self) -> mpsc::Receiver<AddressLeaseEvent> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let this = self.clone();
        tokio::spawn(async move {
            let mut retry = Retry::default();
            while !sender.is_closed() {
                let pause = match this.follow(&sender, &mut retry).await {
                    Ok(()) => continue,
                    Err(failure) => {
                        tracing::warn!(%failure, "cannot read the Leases of addresses; trying again");
                        retry.failed(&failure).min(Duration::from_secs(5))
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }

    /// Lists them, then watches until that ends.
    async fn follow(
        &self,
        sender: &mpsc::Sender<AddressLeaseEvent>,
        retry: &mut Retry,
    ) -> Result<(), Failure> {
        let list = format!("{}?labelSelector={LABEL}", self.collection);
        let list: List<Object> = self.calls.get(&list).await?;
        retry.succeeded();
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let all = list.items.into_iter().filter_map(read).collect();
        if sender.send(AddressLeaseEvent::All(all)).await.is_err() {
            return Ok(());
        }
        loop {
            let path = format!(
                "{}?labelSelector={LABEL}&watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={version}",
                self.collection,
                WATCH.as_secs()
            );
            let mut answer = Answer::to(&self.connection.client, &path).await?;
            loop {
                let line = tokio::select! {
                    line = answer.line() => line?,
                    () = sender.closed() => return Ok(()),
                };
                let Some(line) = line else { break };
                let Some((event, reached)) = read_event(&line)? else {
                    continue;
                };
                version = reached;
                if let Some(event) = event
                    && sender.send(event).await.is_err()
                {
                    return Ok(());
                }
            }
        }
    }

    /// Makes this node the holder, or renews that it is: of the Lease as it was last seen, or of none.
    ///
    /// # Errors
    /// It has changed since, or cannot be written.
    pub async fn hold(
        &self,
        address: IpAddr,
        seen: Option<&AddressLease>,
        duration: Duration,
    ) -> Result<AddressLease, LeaseNotWritten> {
        let object = self.object(address, seen, duration, Timestamp::now());
        let written: Result<Object, Failure> = match seen {
            None => self.calls.create(&self.collection, &object).await,
            Some(_) => self.calls.replace(&self.path(address), &object).await,
        };
        match written {
            Ok(object) => read(object).map(|(_, lease)| lease).ok_or_else(|| {
                LeaseNotWritten::Failed("the server has answered something else".to_owned())
            }),
            Err(failure) => Err(self.why(address, &failure).await),
        }
    }

    /// Deletes the Lease as it was last seen: nobody holds the address.
    ///
    /// # Errors
    /// It has changed since, or cannot be deleted.
    pub async fn release(
        &self,
        address: IpAddr,
        seen: &AddressLease,
    ) -> Result<(), LeaseNotWritten> {
        let version = seen.version.to_string();
        let deleted = self
            .calls
            .delete(&self.path(address), &seen.uid, &version)
            .await;
        match deleted {
            Err(failure) if !failure.is_not_found() => Err(self.why(address, &failure).await),
            _ => Ok(()),
        }
    }

    async fn why(&self, address: IpAddr, failure: &Failure) -> LeaseNotWritten {
        // An update of what is gone is none, too.
        if !failure.is_conflict() && !failure.is_not_found() {
            return LeaseNotWritten::Failed(failure.to_string());
        }
        match self.calls.get::<Object>(&self.path(address)).await {
            Ok(object) => LeaseNotWritten::Conflict(read(object).map(|(_, lease)| lease)),
            Err(missing) if missing.is_not_found() => LeaseNotWritten::Conflict(None),
            Err(other) => LeaseNotWritten::Failed(other.to_string()),
        }
    }

    fn path(&self, address: IpAddr) -> String {
        format!("{}/{}", self.collection, name(address))
    }

    fn object(
        &self,
        address: IpAddr,
        seen: Option<&AddressLease>,
        duration: Duration,
        clock: Timestamp,
    ) -> Value {
        let node = &self.connection.node;
        let ours = seen.filter(|seen| seen.holder == *node);
        let acquired = ours.and_then(|seen| seen.acquired).unwrap_or(clock);
        let transitions = seen.map_or(0, |seen| match seen.holder == *node {
            true => seen.transitions,
            false => seen.transitions.saturating_add(1),
        });
        let mut object = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name(address),
                "namespace": self.connection.namespace,
                "labels": {LABEL: "", "app.kubernetes.io/managed-by": "portolan"},
            },
            "spec": {
                "holderIdentity": node,
                "leaseDurationSeconds": duration.as_secs(),
                "acquireTime": MicroTime(acquired),
                "renewTime": MicroTime(clock),
                "leaseTransitions": transitions,
            },
        });
        if let (Some(seen), Some(metadata)) = (seen, object.pointer_mut("/metadata")) {
            metadata["resourceVersion"] = seen.version.to_string().into();
            // The server makes a Lease of a write to one that is gone, unless it says which one it means.
            metadata["uid"] = seen.uid.as_str().into();
        }
        object
    }
}

/// `portolan-l2-ADDRESS`; of IPv6 all digits, and hyphens: a name has no colons.
fn name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{PREFIX}{address}"),
        IpAddr::V6(address) => {
            let groups = address.segments().map(|group| format!("{group:04x}"));
            format!("{PREFIX}{}", groups.join("-"))
        }
    }
}

fn address_of(name: &str) -> Option<IpAddr> {
    let text = name.strip_prefix(PREFIX)?;
    match text.parse() {
        Ok(address) => Some(IpAddr::V4(address)),
        Err(_) => text
            .replace('-', ":")
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6),
    }
}

fn read(object: Object) -> Option<(IpAddr, AddressLease)> {
    let spec = object.spec.unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok());
    let lease = AddressLease {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(seconds.unwrap_or(0)),
        version: object.metadata.resource_version?.parse().ok()?,
        uid: object.metadata.uid.unwrap_or_default(),
        acquired: spec.acquire_time.map(|MicroTime(at)| at),
        transitions: spec.lease_transitions.unwrap_or(0),
    };
    Some((address_of(&object.metadata.name?)?, lease))
}

/// What a line of a watch says, and the version that it has reached; nothing, if it is of no kind that is known.
fn read_event(line: &[u8]) -> Result<Option<(Option<AddressLeaseEvent>, String)>, Failure> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "type")]
        kind: String,
        object: Value,
    }
    let unreadable =
        |error: serde_json::Error| Failure::Unanswered(format!("this is no event: {error}"));
    let line: Line = serde_json::from_slice(line).map_err(unreadable)?;
    if line.kind == "ERROR" {
        let text = line.object.to_string();
        return Err(Failure::refused_in_words(None, text.as_bytes()));
    }
    let version = line
        .object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str);
    let Some(version) = version.map(str::to_owned) else {
        return Ok(None);
    };
    let is_gone = match line.kind.as_str() {
        "ADDED" | "MODIFIED" => false,
        "DELETED" => true,
        _ => return Ok(Some((None, version))),
    };
    let object: Object = serde_json::from_value(line.object).map_err(unreadable)?;
    let event = read(object)
        .map(|(address, lease)| AddressLeaseEvent::Changed(address, (!is_gone).then_some(lease)));
    Ok(Some((event, version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_say_the_address() {
        for text in ["192.0.2.7", "fd00::7", "fd00::", "2001:db8:1:2:3:4:5:6"] {
            let address: IpAddr = text.parse().expect("an address");
            let name = name(address);
            assert!(api::metadata::is_dns_subdomain(&name), "{name}");
            assert_eq!(address_of(&name), Some(address));
        }
        assert_eq!(name(IpAddr::from([192, 0, 2, 7])), "portolan-l2-192.0.2.7");
        assert_eq!(address_of("portolan-l2-web"), None);
        assert_eq!(address_of("portolan-status"), None);
    }

    #[test]
    fn lines_of_a_watch_are_read() {
        let line = |kind: &str, name: &str| {
            json!({"type": kind, "object": {
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "resourceVersion": "17", "uid": "u"},
                "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 30},
            }})
            .to_string()
        };
        let event = |kind: &str, name: &str| read_event(line(kind, name).as_bytes());
        let (told, version) = event("ADDED", "portolan-l2-192.0.2.7").unwrap().unwrap();
        assert_eq!(version, "17");
        let Some(AddressLeaseEvent::Changed(address, Some(lease))) = told else {
            panic!("{told:?}");
        };
        assert_eq!(address, IpAddr::from([192, 0, 2, 7]));
        assert_eq!(
            (
                lease.holder.as_str(),
                lease.version,
                lease.duration.as_secs()
            ),
            ("n1", 17, 30)
        );
        let (told, _) = event("DELETED", "portolan-l2-192.0.2.7").unwrap().unwrap();
        assert_eq!(told, Some(AddressLeaseEvent::Changed(address, None)));
        let (told, _) = event("BOOKMARK", "").unwrap().unwrap();
        assert_eq!(told, None);
        let (told, _) = event("ADDED", "portolan-l2-others").unwrap().unwrap();
        assert_eq!(told, None);
        let gone = json!({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}});
        assert!(read_event(gone.to_string().as_bytes()).is_err());
    }
}
