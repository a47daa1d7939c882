//! The places of the scenarios: a router's namespace and a node's on one link, and four daemons behind one view.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use bgp_proto::wire::Asn;
use serde_json::Value;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::gobgp::GoBgp;
use tests::netns::{Netns, join};
use tests::openbgpd::OpenBgpd;
use tests::wait::eventually;

pub const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than two bytes can say.
pub const OUR_AS: Asn = Asn(4_200_000_001);
pub const THEIR_AS: Asn = Asn(65_000);
pub const THEIR_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const THEIR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
pub const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);

pub const OURS: &str = "10.244.1.0/24";
pub const OURS6: &str = "2001:db8:1::/64";
pub const THEIRS: &str = "192.0.2.0/24";
pub const THEIRS6: &str = "2001:db8:2::/64";

/// A router's namespace and a node's, joined by one link with addresses of both families.
pub fn link(tag: &str) -> (Netns, Netns) {
    let (tor, node) = (
        Netns::new(tag, "tor").unwrap(),
        Netns::new(tag, "node").unwrap(),
    );
    join((&tor, "veth0"), (&node, "veth0")).unwrap();
    for (netns, v4, v6) in [(&tor, THEIR_V4, THEIR_V6), (&node, OUR_V4, OUR_V6)] {
        netns.ip(&format!("addr add {v4}/24 dev veth0")).unwrap();
        netns
            .ip(&format!("addr add {v6}/64 dev veth0 nodad"))
            .unwrap();
    }
    (tor, node)
}

/// Two routers' namespaces and a node's between them: 10.0.0.1 - 10.0.0.2 and 10.0.1.2 - 10.0.1.1.
pub fn fork(tag: &str) -> (Netns, Netns, Netns) {
    let (tor, node) = link(tag);
    let other = Netns::new(tag, "tor2").unwrap();
    join((&other, "veth0"), (&node, "veth1")).unwrap();
    other.ip("addr add 10.0.1.1/24 dev veth0").unwrap();
    node.ip("addr add 10.0.1.2/24 dev veth1").unwrap();
    tor.ip("route add 10.0.1.0/24 via 10.0.0.2").unwrap();
    other.ip("route add 10.0.0.0/24 via 10.0.1.2").unwrap();
    (tor, other, node)
}

/// What every scenario asks of a daemon; `us` is the neighbor, for BIRD the protocol, that we are there.
pub trait Router {
    /// Whether its session is up.
    fn is_up(&self, us: &str) -> Result<bool>;
    /// The prefixes that it has from there.
    fn from(&self, us: &str) -> Result<Vec<String>>;
    /// What it calls us where nothing else is configured.
    fn us(&self) -> &'static str {
        "10.0.0.2"
    }
    /// The end of its log.
    fn log(&self) -> String;

    /// Waits until it says that the session is up.
    fn establishes(&self) {
        eventually(DEADLINE, "the router to be Established", || {
            ensure!(self.is_up(self.us())?, "{}", self.log());
            Ok(())
        })
        .unwrap();
    }

    /// Waits until it has exactly these from us.
    fn has(&self, prefixes: &[&str]) {
        let mut wanted: Vec<&str> = prefixes.to_vec();
        wanted.sort_unstable();
        eventually(DEADLINE, &format!("the router to have {wanted:?}"), || {
            let mut has = self.from(self.us())?;
            has.sort_unstable();
            has.dedup();
            ensure!(has == wanted, "{has:?}; {}", self.log());
            Ok(())
        })
        .unwrap();
    }
}

impl Router for Frr {
    fn is_up(&self, us: &str) -> Result<bool> {
        let shown = self.json(&format!("show bgp neighbors {us} json"))?;
        let of = shown.as_object().and_then(|all| all.values().next());
        let state = of.and_then(|one| one.get("bgpState")?.as_str());
        Ok(state == Some("Established"))
    }

    fn from(&self, us: &str) -> Result<Vec<String>> {
        let mut prefixes = Vec::new();
        for family in ["ipv4", "ipv6"] {
            let shown = self.json(&format!(
                "show bgp {family} unicast neighbors {us} routes json"
            ))?;
            let routes = shown.get("routes").and_then(Value::as_object);
            prefixes.extend(
                routes
                    .into_iter()
                    .flatten()
                    .map(|(prefix, _)| prefix.clone()),
            );
        }
        Ok(prefixes)
    }

    fn log(&self) -> String {
        self.log_end()
    }
}

impl Router for Bird {
    fn us(&self) -> &'static str {
        "node"
    }

    fn is_up(&self, us: &str) -> Result<bool> {
        Ok(self.session_state(us)? == "Established")
    }

    fn from(&self, us: &str) -> Result<Vec<String>> {
        self.routes_from(us)
    }

    fn log(&self) -> String {
        self.log_end()
    }
}

impl Router for GoBgp {
    fn is_up(&self, us: &str) -> Result<bool> {
        Ok(self.session_state(us)?.contains("ESTABLISHED"))
    }

    fn from(&self, us: &str) -> Result<Vec<String>> {
        let mut prefixes = Vec::new();
        // It has no table to show of a neighbor that is down.
        if !self.is_up(us)? {
            return Ok(prefixes);
        }
        for family in ["ipv4", "ipv6"] {
            let text = self.gobgp(&["-j", "neighbor", us, "adj-in", "-a", family])?;
            let shown: Value = serde_json::from_str(&text).unwrap_or_default();
            match shown {
                Value::Object(routes) => prefixes.extend(routes.into_iter().map(|(key, _)| key)),
                Value::Array(routes) => {
                    prefixes.extend(routes.iter().filter_map(|route| {
                        Some(route.pointer("/nlri/prefix")?.as_str()?.to_owned())
                    }))
                }
                _ => {}
            }
        }
        Ok(prefixes)
    }

    fn log(&self) -> String {
        self.log_end()
    }
}

impl Router for OpenBgpd {
    fn is_up(&self, us: &str) -> Result<bool> {
        Ok(self.session_state(us)? == "Established")
    }

    fn from(&self, us: &str) -> Result<Vec<String>> {
        self.routes_from(us)
    }

    fn log(&self) -> String {
        self.log_end()
    }
}

/// Waits until a text that a daemon shows holds all of these.
pub fn shows(what: &str, wanted: &[&str], show: impl Fn() -> Result<String>) -> String {
    eventually(DEADLINE, &format!("{what} to show {wanted:?}"), || {
        let text = show()?;
        ensure!(wanted.iter().all(|one| text.contains(one)), "{text}");
        Ok(text)
    })
    .unwrap()
}

/// FRR in AS 65000 with one neighbor, us, both families, and a prefix of each; `neighbor` and `router` are further
/// lines of the router, `v4` of its IPv4 family.
pub fn frr_config(router: &str, v4: &str) -> String {
    format!(
        "
route-map ALL permit 10
router bgp 65000
 bgp router-id 10.0.0.1
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 timers bgp 3 9
 neighbor {OUR_V4} remote-as {our_as}
 neighbor {OUR_V4} timers connect 1
{router}
 address-family ipv4 unicast
  network {THEIRS}
  neighbor {OUR_V4} activate
{v4}
 exit-address-family
 address-family ipv6 unicast
  network {THEIRS6}
  neighbor {OUR_V4} activate
 exit-address-family
",
        our_as = OUR_AS.0
    )
}

/// BIRD likewise; `session` are further lines of its protocol `node`, `channel` of its IPv4 channel.
pub fn bird_config(session: &str, channel: &str) -> String {
    format!(
        "
router id 10.0.0.1;
log stderr all;
protocol device {{}}
protocol static s4 {{ ipv4; route {THEIRS} blackhole; }}
protocol static s6 {{ ipv6; route {THEIRS6} blackhole; }}
protocol bgp node {{
  local {THEIR_V4} as 65000;
  neighbor {OUR_V4} as {our_as};
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 4;
  hold time 9;
  {session}
  ipv4 {{ import all; export all; {channel} }};
  ipv6 {{ import all; export all; next hop address {THEIR_V6}; }};
}}
",
        our_as = OUR_AS.0
    )
}

/// GoBGP likewise; `neighbor` are further TOML tables of the neighbor, before its families.
pub fn gobgp_config(neighbor: &str, v4: &str) -> String {
    format!(
        "
[global.config]
  as = 65000
  router-id = \"10.0.0.1\"
  port = 179
[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{OUR_V4}\"
    peer-as = {our_as}
  [neighbors.timers.config]
    connect-retry = 1
    hold-time = 9
    keepalive-interval = 3
{neighbor}
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"ipv4-unicast\"
{v4}
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"ipv6-unicast\"
",
        our_as = OUR_AS.0
    )
}

/// GoBGP with this configuration and its prefixes.
pub fn gobgp(netns: &Netns, config: &str) -> GoBgp {
    let daemon = GoBgp::start(netns, config).unwrap();
    let add = |family, prefix| {
        let words = ["global", "rib", "add", "-a", family, prefix];
        daemon.gobgp(&words).unwrap();
    };
    add("ipv4", THEIRS);
    let v6 = THEIR_V6.to_string();
    let words = [
        "global", "rib", "add", "-a", "ipv6", THEIRS6, "nexthop", &v6,
    ];
    daemon.gobgp(&words).unwrap();
    daemon
}

/// OpenBGPD likewise; `neighbor` are further lines of the neighbor.
pub fn openbgpd_config(neighbor: &str, rules: &str) -> String {
    format!(
        "
AS 65000
router-id 10.0.0.1
fib-update no
connect-retry 2
network {THEIRS}
network {THEIRS6}
neighbor {OUR_V4} {{
  remote-as {our_as}
  local-address {THEIR_V4}
  holdtime 9
  announce IPv4 unicast
  announce IPv6 unicast
  {neighbor}
}}
allow from any
allow to any
{rules}
",
        our_as = OUR_AS.0
    )
}
