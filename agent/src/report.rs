//! What `portolan status` shows: one value, as a table for eyes or as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::dns::DnsReport;
use crate::drops::DropsReport;
use crate::firewall::Histogram;
use crate::layer2::Layer2Report;
use crate::load_balancer::LoadBalancerReport;
use crate::service::ServicesReport;
use crate::wireguard::WireGuardState;

/// Everything the agent says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) node: String,
    pub(crate) version: String,
    /// Sources in sync, policy and routes in the kernel, BGP configured.
    pub(crate) ready: bool,
    /// What `ready` waits for, in words for people.
    #[serde(default)]
    pub(crate) waits_for: Vec<String>,
    pub(crate) sessions: Vec<Session>,
    /// Where the speaker listens.
    #[serde(default)]
    pub(crate) listeners: Vec<Listener>,
    pub(crate) routes: Routes,
    /// Keys of tunnels, where a pool has WireGuard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wireguard: Option<WireGuardState>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) policy: Policy,
    /// Ports of the node that lead to pods.
    #[serde(default)]
    pub(crate) host_ports: HostPorts,
    /// Services that this node serves; none without that feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) services: Option<ServicesReport>,
    /// Addresses of load balancers; none without that feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) load_balancer: Option<LoadBalancerReport>,
    /// What this node announces of Services: of each range that it announces something of, one prefix.
    #[serde(default)]
    pub(crate) announced_services: Vec<IpNet>,
    /// Who answers for addresses of Services on the link; none without that feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layer2: Option<Layer2Report>,
    /// What of addresses and host ends was taken back.
    #[serde(default)]
    pub(crate) ipam: IpamReport,
    /// Answers of the DNS for policies with domain names.
    #[serde(default)]
    pub(crate) dns: DnsReport,
    /// Denied packets that were seen.
    #[serde(default)]
    pub(crate) drops: DropsReport,
    pub(crate) sources: Vec<Source>,
    /// What is wrong, in words for people.
    pub(crate) errors: Vec<String>,
}

/// What nobody held any more.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IpamReport {
    /// Attachments that were released because their host ends were gone.
    pub(crate) attachments_reclaimed: u64,
    /// Host ends that were deleted because no attachment had them.
    pub(crate) host_ends_reclaimed: u64,
}

/// A BGP session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) asn: Option<u32>,
    pub(crate) router_id: Option<String>,
    pub(crate) state: String,
    pub(crate) established_seconds: Option<u64>,
    pub(crate) hold_time_seconds: Option<u64>,
    /// Announced by the peer: accepted and rejected ones.
    pub(crate) prefixes_received: usize,
    pub(crate) prefixes_accepted: usize,
    pub(crate) prefixes_rejected: usize,
    pub(crate) prefixes_stale: usize,
    pub(crate) prefixes_sent: usize,
    pub(crate) updates_received: u64,
    pub(crate) updates_sent: u64,
    pub(crate) max_prefixes: u32,
    pub(crate) bfd_up: Option<bool>,
    pub(crate) flaps: u64,
    pub(crate) last_down: Option<String>,
}

/// A listening socket of the speaker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listener {
    pub(crate) address: String,
    /// Why it does not listen.
    pub(crate) error: Option<String>,
    /// Connections closed unread because they came from no configured peer.
    pub(crate) refused: u64,
}

/// The kernel's routes of ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Routes {
    pub(crate) desired: usize,
    pub(crate) in_kernel: usize,
    pub(crate) learned: usize,
    pub(crate) failed: Vec<FailedRoute>,
    /// Routes in whose place another's route is.
    #[serde(default)]
    pub(crate) clashes: usize,
    /// Learned routes that are kept out of the kernel, by the range that tunnels own.
    #[serde(default)]
    pub(crate) kept_out: BTreeMap<String, usize>,
    /// Gateways that BFD lost, and from which packets were turned away, since the agent started.
    #[serde(default)]
    pub(crate) gateway_downs: u64,
    /// Whether peers have said all they had since this agent started.
    pub(crate) initial_sync: bool,
}

/// A route that is not in the kernel although it should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FailedRoute {
    pub(crate) prefix: String,
    pub(crate) reason: String,
}

/// A pod attachment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    pub(crate) interface: String,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Vec<String>,
}

/// Policy in the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    pub(crate) policies: usize,
    pub(crate) sets: usize,
    pub(crate) chains: usize,
    pub(crate) writes: u64,
    pub(crate) repairs: u64,
    pub(crate) last_apply_milliseconds: u64,
    /// The iptables back end that is written to, once decided.
    #[serde(default)]
    pub(crate) backend: Option<String>,
    /// What is not needed any more waits to be removed.
    #[serde(default)]
    pub(crate) has_leftover: bool,
    /// How many times the kernel was read back.
    #[serde(default)]
    pub(crate) read_backs: u64,
    /// How long each write took.
    #[serde(default)]
    pub(crate) apply: Histogram,
    /// From a change's arrival to its being in force.
    #[serde(default)]
    pub(crate) event_to_kernel: Histogram,
    /// Flows cut since the start because policy denies them.
    #[serde(default)]
    pub(crate) flows_cut: u64,
    /// Flows cut since the start because their pod is gone.
    #[serde(default)]
    pub(crate) flows_orphaned: u64,
    /// How long each look at the flows took.
    #[serde(default)]
    pub(crate) cut: Histogram,
    /// What matches nothing because it cannot be compiled.
    pub(crate) unsupported: Vec<String>,
}

/// Ports of the node that lead to pods, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostPorts {
    /// In force.
    pub(crate) led: usize,
    /// Left out, as the kernel refuses their rules.
    pub(crate) left_out: usize,
    /// Flows deleted since the start because their port led elsewhere by then.
    pub(crate) flows_stale: u64,
}

/// Where configuration comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Source {
    /// `manifests` or `kubernetes`.
    pub(crate) kind: String,
    /// The directory, or how the API server is reached.
    pub(crate) path: String,
    pub(crate) in_sync: bool,
    /// For how long the API server has been away; what it said last stays in force.
    #[serde(default)]
    pub(crate) away_seconds: Option<u64>,
    pub(crate) problems: Vec<String>,
}

impl Report {
    /// Renders the table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let state = if self.ready { "ready" } else { "NOT READY" };
        line(
            &mut out,
            &format!("node {}: {state} (portolan {})", self.node, self.version),
        );
        for source in &self.sources {
            let sync = if source.in_sync {
                "in sync"
            } else {
                "not in sync"
            };
            let away = source.away_seconds.map(|seconds| {
                let time = duration(seconds);
                format!("; the API server has been away for {time}, its last state holds")
            });
            let away = away.unwrap_or_default();
            line(
                &mut out,
                &format!("source: {} {}, {sync}{away}", source.kind, source.path),
            );
        }
        line(&mut out, "");
        self.sessions_table(&mut out);
        self.endpoints_table(&mut out);
        self.kernel_lines(&mut out);
        let problems = self.sources.iter().flat_map(|source| &source.problems);
        for problem in self
            .errors
            .iter()
            .chain(problems)
            .chain(&self.policy.unsupported)
        {
            line(&mut out, &format!("problem: {problem}"));
        }
        out
    }

    fn sessions_table(&self, out: &mut String) {
        let mut rows = vec![row([
            "PEER",
            "ADDRESS",
            "AS",
            "STATE",
            "FOR",
            "ACCEPTED",
            "REJECTED",
            "STALE",
            "SENT",
            "BFD",
            "LAST DOWN",
        ])];
        for session in &self.sessions {
            rows.push(vec![
                session.name.clone(),
                session.address.clone(),
                session.asn.map_or("-".to_owned(), |asn| asn.to_string()),
                session.state.clone(),
                session
                    .established_seconds
                    .map_or("-".to_owned(), |seconds| format!("{seconds}s")),
                session.prefixes_accepted.to_string(),
                session.prefixes_rejected.to_string(),
                session.prefixes_stale.to_string(),
                session.prefixes_sent.to_string(),
                match session.bfd_up {
                    None => "-",
                    Some(true) => "Up",
                    Some(false) => "Down",
                }
                .to_owned(),
                session.last_down.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        columns(out, &rows);
    }

    fn endpoints_table(&self, out: &mut String) {
        let mut rows = vec![row(["POD", "ADDRESSES", "INTERFACE"])];
        for endpoint in &self.endpoints {
            rows.push(vec![
                format!("{}/{}", endpoint.namespace, endpoint.name),
                endpoint.pod_ips.join(" "),
                endpoint.interface.clone(),
            ]);
        }
        columns(out, &rows);
    }

    fn kernel_lines(&self, out: &mut String) {
        let Routes {
            desired,
            in_kernel,
            learned,
            failed,
            ..
        } = &self.routes;
        line(
            out,
            &format!("routes: {in_kernel} in the kernel of {desired} desired, {learned} learned"),
        );
        if self.routes.clashes > 0 {
            let count = self.routes.clashes;
            line(
                out,
                &format!(
                    "{count} routes are not in the kernel: another's is in their place, and is left alone"
                ),
            );
        }
        for (range, count) in &self.routes.kept_out {
            line(
                out,
                &format!(
                    "{count} learned routes inside {range} are kept out of the kernel: tunnels lead there (`portolan bgp routes {range}`)"
                ),
            );
        }
        for listener in &self.listeners {
            if let Some(error) = &listener.error {
                line(
                    out,
                    &format!("BGP does not listen on {}: {error}", listener.address),
                );
            }
        }
        for route in failed {
            line(
                out,
                &format!(
                    "route {} is not in the kernel: {}",
                    route.prefix, route.reason
                ),
            );
        }
        for key in self.wireguard.iter().flat_map(|keys| keys.lines(duration)) {
            line(out, &key);
        }
        let policy = &self.policy;
        line(
            out,
            &format!(
                "policy: {} policies, {} chains, {} sets, last write took {} ms",
                policy.policies, policy.chains, policy.sets, policy.last_apply_milliseconds
            ),
        );
        let ports = &self.host_ports;
        if ports.led + ports.left_out > 0 {
            let refused = match ports.left_out {
                0 => String::new(),
                count => format!(", {count} refused by the kernel"),
            };
            line(out, &format!("host ports: {} in force{refused}", ports.led));
        }
        if let Some(services) = &self.services {
            line(out, &services.line());
        }
        let layer2 = self.layer2.as_ref();
        if let Some(said) = layer2.and_then(|layer2| layer2.line(&self.node)) {
            line(out, &said);
        }
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Columns as wide as their widest cell, and an empty line behind.
pub(crate) fn columns(out: &mut String, rows: &[Vec<String>]) {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|cells| cells.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    for cells in rows {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        line(out, text.trim_end());
    }
    line(out, "");
}

/// `59s`, `3m12s`, `5h7m`, `12d4h`: two units are enough to see what happened when.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn example_dns() -> DnsReport {
        DnsReport {
            answers: vec![("held".to_owned(), 3)],
            ..DnsReport::default()
        }
    }

    /// A report with one of everything.
    pub(crate) fn example() -> Report {
        Report {
            wireguard: None,
            node: "n1".to_owned(),
            version: "0.0.0".to_owned(),
            ready: true,
            waits_for: Vec::new(),
            sessions: vec![Session {
                name: "tor".to_owned(),
                address: "10.0.0.1:179".to_owned(),
                asn: Some(65000),
                router_id: None,
                state: "Established".to_owned(),
                established_seconds: Some(5),
                hold_time_seconds: Some(9),
                prefixes_received: 4,
                prefixes_accepted: 3,
                prefixes_rejected: 1,
                prefixes_stale: 2,
                prefixes_sent: 1,
                updates_received: 4,
                updates_sent: 2,
                max_prefixes: 100,
                bfd_up: Some(true),
                flaps: 1,
                last_down: Some("hold timer expired".to_owned()),
            }],
            listeners: vec![Listener {
                address: "10.0.0.9:179".to_owned(),
                error: None,
                refused: 7,
            }],
            routes: example_routes(),
            endpoints: vec![Endpoint {
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                container_id: "c1".to_owned(),
                interface: "ptl0123456789a".to_owned(),
                pod_ips: vec!["10.244.1.1".to_owned()],
            }],
            policy: Policy {
                policies: 1,
                sets: 2,
                chains: 3,
                writes: 1,
                repairs: 0,
                last_apply_milliseconds: 12,
                backend: Some("nft".to_owned()),
                has_leftover: false,
                read_backs: 1,
                apply: Histogram::default(),
                event_to_kernel: Histogram::default(),
                flows_cut: 5,
                flows_orphaned: 6,
                cut: Histogram::default(),
                unsupported: vec![],
            },
            host_ports: example_host_ports(),
            services: Some(ServicesReport::example()),
            load_balancer: Some(LoadBalancerReport::example()),
            announced_services: Vec::new(),
            layer2: Some(Layer2Report::default()),
            dns: example_dns(),
            ipam: IpamReport::default(),
            drops: DropsReport::default(),
            sources: vec![Source {
                kind: "manifests".to_owned(),
                path: "/m".to_owned(),
                in_sync: true,
                away_seconds: None,
                problems: vec!["a.yaml:3: no".to_owned()],
            }],
            errors: vec![],
        }
    }

    fn example_routes() -> Routes {
        Routes {
            desired: 4,
            in_kernel: 4,
            learned: 3,
            failed: vec![],
            clashes: 0,
            kept_out: BTreeMap::new(),
            gateway_downs: 1,
            initial_sync: true,
        }
    }

    fn example_host_ports() -> HostPorts {
        HostPorts {
            led: 3,
            left_out: 1,
            flows_stale: 2,
        }
    }

    #[test]
    fn the_table_says_what_matters_at_a_glance() {
        let expected = "\
node n1: ready (portolan 0.0.0)
source: manifests /m, in sync

PEER  ADDRESS       AS     STATE        FOR  ACCEPTED  REJECTED  STALE  SENT  BFD  LAST DOWN
tor   10.0.0.1:179  65000  Established  5s   3         1         2      1     Up   hold timer expired

POD       ADDRESSES   INTERFACE
shop/web  10.244.1.1  ptl0123456789a

routes: 4 in the kernel of 4 desired, 3 learned
policy: 1 policies, 3 chains, 2 sets, last write took 12 ms
host ports: 3 in force, 1 refused by the kernel
services: 2 with 4 ports and 9 endpoints, 1 ports without endpoints (`portolan service list`)
problem: a.yaml:3: no
";
        assert_eq!(example().table(), expected);
    }

    #[test]
    fn what_is_not_as_it_should_be_has_a_line() {
        let mut report = example();
        report.routes.clashes = 2;
        report.routes.kept_out = BTreeMap::from([("10.48.0.0/16".to_owned(), 3)]);
        report.listeners[0].error = Some("address in use".to_owned());
        report.sessions[0].bfd_up = Some(false);
        report.sources[0].away_seconds = Some(192);
        let table = report.table();
        for part in [
            "2 routes are not in the kernel: another's",
            "3 learned routes inside 10.48.0.0/16 are kept out",
            "BGP does not listen on 10.0.0.9:179: address in use",
            " Down ",
            "in sync; the API server has been away for 3m12s",
        ] {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
    }

    #[test]
    fn json_uses_the_names_that_programs_rely_on() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["sessions"][0]["prefixesReceived"], 4);
        assert_eq!(json["sessions"][0]["prefixesAccepted"], 3);
        assert_eq!(json["listeners"][0]["refused"], 7);
        assert_eq!(json["endpoints"][0]["podIPs"][0], "10.244.1.1");
        assert_eq!(json["endpoints"][0]["containerID"], "c1");
        assert_eq!(json["routes"]["inKernel"], 4);
        assert_eq!(json["sources"][0]["inSync"], true);
    }
}
