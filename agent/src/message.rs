//! What the sockets ask of the core, and replies that wait for a publication.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::NamespacedName;
use api::resources::Pod;
use ipam::Holder;
use ipnet::IpNet;
use netfilter::{ChainName, SetName};
use tokio::sync::oneshot;

use crate::core::{Asked, Endpoint, Seen};
use crate::drops::DropsAnswer;
use crate::ipam::IpamState;
use crate::layer2::Layer2Report;
use crate::load_balancer::State;
use crate::policy::PolicyState;
use crate::report::Report;
use crate::service::{HealthReport, ServiceState};
use crate::service_proxy::ProxyMode;

/// What the sockets ask of the core.
pub(crate) enum Message {
    /// The present state for people.
    Report(oneshot::Sender<Report>),
    /// The way to the speaker, if one runs.
    Speaker(oneshot::Sender<Option<bgp_speaker::Handle>>),
    /// Wait until what the source holds now is in the kernel.
    Sync {
        timeout: Duration,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// The source has been read again: which generation holds that state?
    Barrier(oneshot::Sender<u64>),
    /// Give an attachment its addresses.
    Attach { asked: Box<Asked>, reply: Attached },
    /// A pod that an ADD asked for was read, as the source had not told it.
    PodRead(Box<Pod>),
    /// A host end is there (or gone): which generation has its routes?
    Link {
        interface: String,
        there: bool,
        reply: oneshot::Sender<u64>,
    },
    /// All host ends have been looked at, if they could be.
    Links(Option<Seen>),
    /// Take an attachment's addresses back.
    Detach {
        holder: Holder,
        reply: oneshot::Sender<Result<Option<Endpoint>, String>>,
    },
    /// One attachment.
    Lookup {
        holder: Holder,
        reply: oneshot::Sender<Option<Endpoint>>,
    },
    /// The DNS has answered a pod: which generation holds the addresses?
    DnsAnswer {
        answer: policy::DnsAnswer,
        reply: oneshot::Sender<u64>,
    },
    /// Of the addresses that were about to end, those that live flows use.
    LiveFlows(BTreeSet<IpAddr>),
    /// Denied packets that were seen, from a number on; the error says why there are none.
    Drops {
        since: u64,
        reply: oneshot::Sender<Result<DropsAnswer, String>>,
    },
    /// Somebody wants new WireGuard keys; the error says why there are none.
    RotateKeys(oneshot::Sender<Result<(), String>>),
    /// The kernel refuses these and no others: all else is to be enforced without them.
    Broken {
        sets: BTreeSet<SetName>,
        chains: BTreeSet<ChainName>,
    },
    /// This block cannot be claimed: another node has it.
    BlockTaken(IpNet),
    /// What policy verbs ask: as it is once it is published.
    Policy(oneshot::Sender<PolicyState>),
    /// Copies of what is known of Services; of one also how it is announced.
    Services(Option<NamespacedName>, oneshot::Sender<Box<Serving>>),
    /// Copies of what is known of addresses.
    Ipam(oneshot::Sender<Box<IpamState>>),
    /// Whether one more attachment would get its addresses, or why not.
    Room(oneshot::Sender<Result<(), String>>),
    /// All attachments.
    Endpoints(oneshot::Sender<Vec<Endpoint>>),
}

/// Services, and how this agent serves them.
pub(crate) struct Serving {
    /// What is known of them; none without the feature.
    pub(crate) state: Option<ServiceState>,
    /// By what they are served.
    pub(crate) mode: Option<ProxyMode>,
    /// Why none are, although they should be.
    pub(crate) not_served: Option<String>,
    /// What became of ports for health checks.
    pub(crate) health: HealthReport,
    /// Who has which address of a load balancer; none without that feature.
    pub(crate) balanced: Option<Arc<State>>,
    /// Who answers ARP and neighbour discovery for addresses.
    pub(crate) layer2: Layer2Report,
}

/// Who waits for an attachment, and for the generation with its chains.
pub(crate) type Attached = oneshot::Sender<Result<(Endpoint, u64), Refused>>;

/// Why an attachment gets no addresses.
pub(crate) struct Refused {
    /// When it may go well.
    pub(crate) when: When,
    /// Why.
    pub(crate) text: String,
}

/// When what was refused may go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Soon enough to wait for it.
    Soon,
    /// Once something else has gone or come: the runtime is to try again.
    Later,
    /// Once the pod that is asked for has been read.
    PodUnknown,
    /// Not before somebody changes something.
    Unknown,
}

/// A reply that waits for the publication of what it caused.
pub(crate) enum Reply {
    Generation(oneshot::Sender<u64>),
    Policy(oneshot::Sender<PolicyState>),
    Attached(Box<Endpoint>, Attached),
}

impl Reply {
    /// Answers, now that the state with this generation is published; `state` makes what policy verbs are told.
    pub(crate) fn answer(self, generation: u64, state: impl Fn() -> PolicyState) {
        // Who went away needs no answer.
        match self {
            Self::Generation(reply) => drop(reply.send(generation)),
            Self::Policy(reply) => drop(reply.send(state())),
            Self::Attached(endpoint, reply) => drop(reply.send(Ok((*endpoint, generation)))),
        }
    }
}
