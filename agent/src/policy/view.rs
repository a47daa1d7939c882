//! The questions of `portolan policy` and their answers, as they go over the agent's socket and as `-o json` prints them.

use serde::{Deserialize, Serialize};

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase")]
pub(crate) enum PolicyQuestion {
    List,
    Show {
        pod: String,
    },
    Explain {
        from: String,
        to: String,
    },
    Try {
        /// The name of the manifest, for messages and its form.
        file: String,
        text: String,
        /// As if its objects were removed.
        delete: bool,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PolicyAnswer {
    List(ListView),
    Show(Box<ShowView>),
    Explain(ExplainView),
    Try(Box<TryView>),
}

/// All policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListView {
    /// The node whose agent answers.
    pub(crate) node: String,
    /// In the order in which they are asked.
    pub(crate) policies: Vec<PolicyRow>,
    /// Why there are no counters.
    pub(crate) kernel_error: Option<String>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyRow {
    pub(crate) tier: String,
    pub(crate) priority: Option<u16>,
    pub(crate) name: String,
    pub(crate) directions: Vec<String>,
    /// Pods of this node that it selects.
    pub(crate) local_pods: usize,
    /// Pods of the cluster that it selects.
    pub(crate) pods: usize,
    pub(crate) packets: Option<Packets>,
    pub(crate) problems: Vec<String>,
}

/// New connections' packets on this node since the rules were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Packets {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) passed: u64,
}

/// What is about one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShowView {
    /// The node whose agent answers.
    pub(crate) node: String,
    pub(crate) pod: String,
    /// Where it runs, if that is known.
    pub(crate) runs_on: Option<String>,
    /// The host end of its interface; none: it is not attached here.
    pub(crate) interface: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) named_ports: Vec<NamedPort>,
    /// Ingress, then egress.
    pub(crate) directions: Vec<DirectionView>,
    /// Why there are no counters.
    pub(crate) kernel_error: Option<String>,
}

/// A container's name for a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
}

/// What a pod gets, or sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DirectionView {
    pub(crate) direction: String,
    /// Whether a NetworkPolicy isolates it.
    pub(crate) isolated: bool,
    pub(crate) policies: Vec<PolicyShown>,
    /// The pod's own chain, and those shared by all pods with the same policies (IPv4, IPv6).
    pub(crate) endpoint_chain: Option<String>,
    pub(crate) group_chains: Vec<String>,
    /// Packets of this pod that policies were asked about.
    pub(crate) packets_asked: Option<u64>,
    /// Packets that a NetworkPolicy isolated from and none allowed, of all pods with the same policies.
    pub(crate) packets_isolated: Option<u64>,
}

/// A policy that selects the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyShown {
    pub(crate) tier: String,
    pub(crate) priority: Option<u16>,
    pub(crate) name: String,
    /// False for the baseline tier of a pod that a NetworkPolicy isolates.
    pub(crate) asked: bool,
    pub(crate) rules: Vec<RuleShown>,
    pub(crate) problems: Vec<String>,
}

/// A rule and what the kernel counted for it, of all pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuleShown {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) action: String,
    pub(crate) text: String,
    pub(crate) packets: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

/// Whether a connection passes, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplainView {
    /// The node whose agent answers.
    pub(crate) node: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) families: Vec<FlowView>,
    /// Why the kernel was not asked.
    pub(crate) kernel_error: Option<String>,
}

impl ExplainView {
    /// Whether the policies and the kernel say different things.
    pub(crate) fn differs(&self) -> bool {
        self.families.iter().any(|flow| flow.differs)
    }
}

/// A connection between two addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlowView {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) protocol: String,
    pub(crate) port: Option<u16>,
    /// What the policies say, both sides.
    pub(crate) allowed: bool,
    /// Egress, then ingress.
    pub(crate) sides: Vec<SideView>,
    /// What this node's kernel does; none if neither end is a pod of this node.
    pub(crate) kernel: Option<KernelView>,
    /// The policies and this node's kernel say different things.
    pub(crate) differs: bool,
}

/// What one side's policies say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SideView {
    pub(crate) direction: String,
    /// The pod whose policies were asked.
    pub(crate) subject: Option<String>,
    /// Where it is enforced, if that is known.
    pub(crate) node: Option<String>,
    /// It is enforced on the node whose agent answers.
    pub(crate) local: bool,
    pub(crate) allowed: bool,
    pub(crate) decided_by: String,
    pub(crate) steps: Vec<StepView>,
}

/// A rule that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StepView {
    pub(crate) tier: String,
    pub(crate) policy: String,
    /// From 1; none: the policy has no rule for the direction.
    pub(crate) rule: Option<usize>,
    pub(crate) rule_name: String,
    pub(crate) outcome: String,
}

/// What this node's kernel does with the connection's first packet, by the rules and sets that were read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KernelView {
    pub(crate) dropped: bool,
    /// In words.
    pub(crate) verdict: String,
    /// What the policies' local sides say.
    pub(crate) expected_dropped: bool,
    /// Why it differs.
    pub(crate) difference: Option<String>,
    /// Rules in our chains on the way that are not ours.
    pub(crate) foreign: Vec<String>,
    /// All rules that the packet was tried against.
    pub(crate) trail: Vec<TriedView>,
}

/// A rule of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TriedView {
    pub(crate) table: String,
    pub(crate) chain: String,
    /// Its place in the chain, from 1; in a built-in chain among ours.
    pub(crate) number: usize,
    pub(crate) matched: bool,
    pub(crate) rule: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// The policy that it comes from.
    pub(crate) policy: Option<String>,
    /// Which of the policy's rules, from 1.
    pub(crate) policy_rule: Option<usize>,
}

/// What a manifest would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TryView {
    /// The node whose agent answers, and whose flows were looked at.
    pub(crate) node: String,
    pub(crate) objects: Vec<ObjectChange>,
    /// What could not be enforced as written.
    pub(crate) problems: Vec<String>,
    pub(crate) isolation: Vec<IsolationView>,
    pub(crate) isolation_left_out: usize,
    pub(crate) connections: Vec<ConnectionView>,
    pub(crate) connections_left_out: usize,
    /// Pairs of pods that were not looked at: there were too many.
    pub(crate) pairs_left_out: usize,
    pub(crate) flows: Vec<OpenFlow>,
    pub(crate) flows_left_out: usize,
    /// How many open flows were looked at.
    pub(crate) flows_seen: usize,
    /// Why they could not be listed.
    pub(crate) flows_error: Option<String>,
}

/// An object of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectChange {
    pub(crate) object: String,
    /// `new`, `changed`, `unchanged`, `removed` or `absent`.
    pub(crate) change: String,
}

/// A pod that becomes isolated, or free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IsolationView {
    pub(crate) pod: String,
    pub(crate) direction: String,
    pub(crate) isolated: bool,
}

/// New connections between two pods that are judged otherwise then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionView {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) allowed: bool,
    pub(crate) ports: Vec<String>,
    /// None: of every family that both have.
    pub(crate) family: Option<String>,
}

/// An open connection that is judged otherwise then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OpenFlow {
    pub(crate) protocol: String,
    pub(crate) source: String,
    pub(crate) source_port: u16,
    pub(crate) from_pod: Option<String>,
    /// Who really answers, after a Service's translation.
    pub(crate) destination: String,
    pub(crate) destination_port: u16,
    pub(crate) to_pod: Option<String>,
    /// False: it would be cut.
    pub(crate) allowed: bool,
}
