//! What the agent says, wherever its source is.

use std::sync::Arc;

use api::crd::BgpNodeStatusStatus;
use api::resources::{BgpNodeStatus, WireGuardKeys};
use ipnet::IpNet;

use super::directory::DirectoryWriter;
use super::{AllocatedAddresses, EventRecord, NodeHealth, ObjectCondition, PodStatus};
use crate::blocks::Claim;
use crate::{Error, kubernetes};

/// Says what one node has to say; cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    target: Target,
}

#[derive(Clone, Debug)]
enum Target {
    Directory(DirectoryWriter),
    Kubernetes(kubernetes::Writer),
}

impl StatusWriter {
    pub(crate) fn of_directory(writer: DirectoryWriter) -> Self {
        let target = Target::Directory(writer);
        Self { target }
    }

    pub(crate) fn of_cluster(writer: kubernetes::Writer) -> Self {
        let target = Target::Kubernetes(writer);
        Self { target }
    }

    /// Says that these are the node's pods now. What is said already is not written again; in a cluster the kubelet says
    /// it.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still whole.
    pub async fn publish(&self, pods: Vec<PodStatus>) -> Result<(), Error> {
        match &self.target {
            Target::Directory(writer) => writer.publish(pods).await,
            Target::Kubernetes(_) => Ok(()),
        }
    }

    /// Says what the node's BGP speaker does now, for people: the status of its BGPNodeStatus. Nobody reads it back.
    ///
    /// # Errors
    /// It cannot be written; what was said before still stands.
    pub async fn publish_bgp(&self, status: BgpNodeStatusStatus) -> Result<(), Error> {
        match &self.target {
            Target::Directory(writer) => writer.publish_bgp(status).await,
            Target::Kubernetes(writer) => writer.publish_bgp(status).await,
        }
    }

    /// Says these are the node's WireGuard keys now. They come back as a change to everybody.
    ///
    /// # Errors
    /// They cannot be written, or nobody knows whether they were: it must be tried again.
    pub async fn publish_keys(&self, keys: &WireGuardKeys) -> Result<(), Error> {
        let keys = BgpNodeStatus::write_keys(keys);
        match &self.target {
            Target::Directory(writer) => writer.publish_keys(keys).await,
            Target::Kubernetes(writer) => writer.publish_keys(keys).await,
        }
    }

    /// Says all that is wrong with objects on this node now, for people: what is not said any more is gone (in a cluster:
    /// is not repeated). Nobody reads it back. At most 1000 are kept, and one that says how many more there are. The same
    /// again is not written again.
    ///
    /// # Errors
    /// It cannot be written; what was said before still stands.
    pub async fn publish_events(&self, events: Vec<EventRecord>) -> Result<(), Error> {
        match &self.target {
            Target::Directory(writer) => writer.publish_events(events).await,
            Target::Kubernetes(writer) => writer.publish_events(events).await,
        }
    }

    /// Says whether the node's network is up. A directory has nobody who would mind.
    ///
    /// # Errors
    /// It cannot be written; what was said before still stands.
    pub async fn publish_node(&self, health: NodeHealth) -> Result<(), Error> {
        match &self.target {
            Target::Directory(_) => Ok(()),
            Target::Kubernetes(writer) => writer.publish_node(health).await,
        }
    }

    /// Says all conditions of all objects of our kinds as they are now. In a directory the events say it.
    ///
    /// # Errors
    /// They cannot be written; what was said before still stands.
    pub async fn publish_conditions(&self, conditions: Vec<ObjectCondition>) -> Result<(), Error> {
        match &self.target {
            Target::Directory(_) => Ok(()),
            Target::Kubernetes(writer) => writer.publish_conditions(conditions).await,
        }
    }

    /// Says which Service is to have which addresses of a load balancer: of all agents that say so one writes it. In a
    /// directory nobody has to: every agent comes to the same.
    pub fn publish_addresses(&self, allocated: Arc<AllocatedAddresses>) {
        match &self.target {
            Target::Directory(_) => {}
            Target::Kubernetes(writer) => writer.publish_addresses(allocated),
        }
    }

    /// Makes a block this node's, unless another node was first. Of all nodes exactly one succeeds. The block comes back
    /// as a change to everybody; it is this node's from the answer on.
    ///
    /// # Errors
    /// The claim cannot be written: nothing is claimed.
    pub async fn claim_block(&self, cidr: IpNet) -> Result<Claim, Error> {
        match &self.target {
            Target::Directory(writer) => writer.claim_block(cidr).await,
            Target::Kubernetes(writer) => writer.claim_block(cidr).await,
        }
    }

    /// Gives a block of this node back. One that is nobody's is no error.
    ///
    /// # Errors
    /// It is another node's, or cannot be removed.
    pub async fn release_block(&self, cidr: IpNet) -> Result<(), Error> {
        match &self.target {
            Target::Directory(writer) => writer.release_block(cidr).await,
            Target::Kubernetes(writer) => writer.release_block(cidr).await,
        }
    }
}
