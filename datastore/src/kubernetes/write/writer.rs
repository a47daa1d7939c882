//! The cluster's side of the status writer.

use api::Key;
use api::crd::BgpNodeStatusStatus;
use ipnet::IpNet;

use crate::blocks::Claim;
use crate::kubernetes::{Connection, Facts};
use crate::{Error, EventRecord, NodeHealth, ObjectCondition};

/// Writes what one node has to say; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    connection: Connection,
    facts: Facts,
}

#[expect(clippy::unused_async, reason = "the writes are still to come")]
impl Writer {
    pub(crate) fn new(connection: Connection, facts: Facts) -> Self {
        Self { connection, facts }
    }

    fn not_yet<T>(&self, what: &str) -> Result<T, Error> {
        Err(Error::Cluster {
            what: what.to_owned(),
            why: format!(
                "this build does not write to the cluster yet ({} objects known; node {}: {:?})",
                self.facts.keys().len(),
                self.connection.node,
                self.facts.get(&Key::Node(self.connection.node.clone()))
            ),
        })
    }

    pub(crate) async fn publish_bgp(&self, _: BgpNodeStatusStatus) -> Result<(), Error> {
        self.not_yet("write BGPNodeStatus")
    }

    pub(crate) async fn publish_events(&self, _: Vec<EventRecord>) -> Result<(), Error> {
        self.not_yet("write Events")
    }

    pub(crate) async fn publish_node(&self, _: NodeHealth) -> Result<(), Error> {
        self.not_yet("write Node")
    }

    pub(crate) async fn publish_conditions(&self, _: Vec<ObjectCondition>) -> Result<(), Error> {
        self.not_yet("write conditions")
    }

    pub(crate) async fn claim_block(&self, _: IpNet) -> Result<Claim, Error> {
        self.not_yet("create IPAMBlock")
    }

    pub(crate) async fn release_block(&self, _: IpNet) -> Result<(), Error> {
        self.not_yet("delete IPAMBlock")
    }
}
