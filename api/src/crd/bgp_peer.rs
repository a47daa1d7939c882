//! BGPPeer as it stands in a manifest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GracefulRestart, PeerAsNumber, rules};
use crate::duration::GoDuration;

/// Which nodes peer with whom.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    doc = "Which nodes peer with whom.",
    status = "BgpPeerStatus",
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodeSelector"),
    printcolumn(name = "Peer", type_ = "string", json_path = ".spec.peerAddress"),
    printcolumn(name = "AS", type_ = "string", json_path = ".spec.asNumber"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    validation = Rule::new("[has(self.spec.peerAddress), has(self.spec.interface), has(self.spec.peerSelector), has(self.spec.listenRange)].filter(x, x).size() == 1").message("exactly one of peerAddress, interface, peerSelector and listenRange names the peer"),
    validation = Rule::new("!(has(self.spec.ttlSecurity) && has(self.spec.multihop))").message("ttlSecurity and multihop exclude each other"),
    validation = Rule::new("!has(self.spec.listenRange) || !has(self.spec.passive) || self.spec.passive").message("a listenRange is passive: its peers dial"),
    validation = Rule::new("!(has(self.spec.strictRole) && self.spec.strictRole) || has(self.spec.role)").message("strictRole needs a role"),
    validation = Rule::new("has(self.spec.asNumber)").message("asNumber is missing: a number, external or internal"),
    validation = Rule::new("!has(self.spec.interface) || !has(self.spec.asNumber) || self.spec.asNumber != 'internal'").message("asNumber cannot be internal with an interface: give a number or external"),
    validation = Rule::new("!has(self.spec.routeReflectorClient) || !self.spec.routeReflectorClient || !has(self.spec.asNumber) || self.spec.asNumber != 'external'").message("routeReflectorClient is for a peer in our own AS: asNumber cannot be external"),
    validation = Rule::new("!has(self.spec.role) || !((has(self.spec.routeReflectorClient) && self.spec.routeReflectorClient) || (has(self.spec.asNumber) && self.spec.asNumber == 'internal'))").message("role is for a peer in another AS: it excludes asNumber internal and routeReflectorClient"),
    validation = Rule::new("!has(self.spec.localASNumber) || !has(self.spec.asNumber) || self.spec.asNumber != 'internal'").message("localASNumber is for a peer in another AS: asNumber cannot be internal"),
    validation = Rule::new("!has(self.spec.localASNumber) || !has(self.spec.asNumber) || self.spec.asNumber != self.spec.localASNumber").message("localASNumber is the peer's own AS"),
    validation = Rule::new("!has(self.spec.sourceAddress) || !(has(self.spec.interface) || has(self.spec.listenRange))").message("sourceAddress is for peers that we dial by an address: leave it out"),
    validation = Rule::new("!has(self.spec.keepaliveTime) || (has(self.spec.holdTime) && duration(self.spec.holdTime) == duration('0s')) || (duration(self.spec.keepaliveTime) >= duration('1s') && duration(self.spec.keepaliveTime) < (has(self.spec.holdTime) ? duration(self.spec.holdTime) : duration('90s')))").message("keepaliveTime is between 1s and the hold time"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpPeerSpec {
    /// The nodes that have this peer, in the selector language (`all()`).
    #[schemars(length(max = 16384))]
    pub node_selector: Option<String>,
    /// The peer: `ip` or `ip:port`; a link-local one with its interface, `fe80::1%eth0`.
    #[schemars(length(max = 128), extend("x-kubernetes-validations" = [
        {"rule": "isIP(self) || self.matches('^([0-9]{1,3}([.][0-9]{1,3}){3}|[[][0-9a-fA-F:.]+[]]):[0-9]{1,5}$') || self.matches('^([fF][eE][89abAB][0-9a-fA-F]:[0-9a-fA-F:.]*%[^/:%[:space:]]{1,15}|[[][fF][eE][89abAB][0-9a-fA-F]:[0-9a-fA-F:.]*%[^/:%[:space:]]{1,15}[]]:[0-9]{1,5})$')", "message": "write ip or ip:port; a link-local one with its interface, fe80::1%eth0"},
        {"rule": "!isIP(self) || ip(self).family() == 4 || !ip(self).isLinkLocalUnicast()", "message": "the address is link-local: name its interface too, as in fe80::1%eth0"},
    ]))]
    pub peer_address: Option<String>,
    /// The peer is whoever answers on this interface (unnumbered).
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// The peers are these other nodes, in the selector language.
    #[schemars(length(max = 16384))]
    pub peer_selector: Option<String>,
    /// The peers are whoever dials from this range, a CIDR.
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = rules::cidr()))]
    pub listen_range: Option<String>,
    /// The peer's AS: a number, `external` or `internal`.
    pub as_number: Option<PeerAsNumber>,
    /// The AS we pretend to be in towards an external peer (RFC 7705).
    #[schemars(range(min = 1, max = 4_294_967_294_u32), extend("x-kubernetes-validations" = [
        {"rule": "!(self in [23456, 65535])", "message": "this AS number is reserved"},
    ]))]
    #[serde(rename = "localASNumber")]
    pub local_as_number: Option<u32>,
    /// The address to dial from.
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = [
        {"rule": "isIP(self)", "message": "write an address such as 192.0.2.1 or 2001:db8::1"},
    ]))]
    pub source_address: Option<String>,
    /// Never dial, only listen (false).
    pub passive: Option<bool>,
    /// The TCP MD5 password.
    pub password: Option<Password>,
    /// GTSM (RFC 5082): how many hops away the peer is at most.
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security: Option<u8>,
    /// How many hops away an external peer may be, without GTSM.
    #[schemars(range(min = 1))]
    pub multihop: Option<u8>,
    /// RFC 4271 hold time (90 s; 0 or at least 3 s).
    #[schemars(extend("x-kubernetes-validations" = rules::seconds_where("it == duration('0s') || (it >= duration('3s') && it <= duration('65535s'))", "holdTime is 0s or whole seconds from 3s to 65535s")))]
    pub hold_time: Option<GoDuration>,
    /// RFC 4271 keepalive time (a third of the hold time).
    #[schemars(extend("x-kubernetes-validations" = rules::seconds_where("true", "keepaliveTime is whole seconds, such as 30s")))]
    pub keepalive_time: Option<GoDuration>,
    /// How long to wait for the peer's OPEN before sending ours (not at all).
    #[schemars(extend("x-kubernetes-validations" = rules::duration_where("it <= duration('10m')", "delayOpen is a duration up to 10m, such as 5s")))]
    pub delay_open: Option<GoDuration>,
    /// Bidirectional forwarding detection.
    pub bfd: Option<Bfd>,
    /// Graceful restart of this session.
    pub graceful_restart: Option<GracefulRestart>,
    /// How many prefixes the peer may send.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Names of BGPFilters; the first match wins.
    #[schemars(length(max = 64), inner(length(max = 253)), extend("x-kubernetes-validations" = [
        {"rule": "self.all(name, self.exists_one(other, other == name))", "message": "filters names one twice: the second never decides"},
    ]))]
    pub filters: Option<Vec<String>>,
    /// Several paths a prefix (RFC 7911).
    pub add_path: Option<AddPath>,
    /// Which next hop the peer is told.
    pub next_hop_mode: Option<NextHopMode>,
    /// How often our own AS may stand in a path we accept.
    #[serde(rename = "allowASIn")]
    #[schemars(range(max = 10))]
    pub allow_as_in: Option<u8>,
    /// The peer is our client as route reflector (RFC 4456).
    pub route_reflector_client: Option<bool>,
    /// Our place in the session with an external peer (RFC 9234).
    pub role: Option<Role>,
    /// Refuse a peer that tells no role (false).
    pub strict_role: Option<bool>,
    /// Keep the session down (false).
    pub admin_shutdown: Option<bool>,
    /// What the peer is told when the session is shut down (RFC 9003): at most 255 octets.
    #[schemars(length(max = 255))]
    pub shutdown_message: Option<String>,
}

/// Whether a BGPPeer is valid and accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerStatus {
    /// What holds, and why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where the password is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Password {
    /// A key of a Secret in the agent's namespace.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// Bidirectional forwarding detection (RFC 5880).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bfd {
    /// How often we want to send.
    #[schemars(extend("x-kubernetes-validations" = rules::duration_where("it >= duration('10ms') && it <= duration('60s')", "minTx is from 10ms to 60s")))]
    pub min_tx: Option<GoDuration>,
    /// How often we can receive.
    #[schemars(extend("x-kubernetes-validations" = rules::duration_where("it >= duration('10ms') && it <= duration('60s')", "minRx is from 10ms to 60s")))]
    pub min_rx: Option<GoDuration>,
    /// How many missed packets mean down.
    #[schemars(range(min = 1))]
    pub multiplier: Option<u8>,
    /// The session waits for BFD to be up (false).
    pub strict: Option<bool>,
}

/// How many prefixes of each address family a peer may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MaxPrefixes {
    /// More than these end the session (100,000).
    #[schemars(range(min = 1))]
    pub limit: Option<u32>,
    /// Percent of the limit at which to warn.
    #[schemars(range(min = 1, max = 100))]
    pub warn_at: Option<u8>,
    /// How long after that end the session may come back.
    #[schemars(extend("x-kubernetes-validations" = rules::seconds_where("it >= duration('1s')", "restartAfter is whole seconds, at least 1s")))]
    pub restart_after: Option<GoDuration>,
}

/// Several paths a prefix (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddPath {
    /// Neither way.
    Disabled,
    /// We take several.
    Receive,
    /// We send several.
    Send,
    /// Both.
    Both,
}

/// Our place in a session with an external peer (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// We give the peer transit.
    Provider,
    /// We are a route server.
    RouteServer,
    /// The peer is a route server.
    RouteServerClient,
    /// The peer gives us transit.
    Customer,
    /// Neither.
    Peer,
}

/// Which next hop a peer is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NextHopMode {
    /// As RFC 4271 §5.1.3 says.
    #[default]
    Auto,
    /// Always ourselves.
    #[serde(rename = "Self")]
    Own,
    /// The one we learned.
    Keep,
}
