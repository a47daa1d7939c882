//! The command line: verbs and flags of `portolan`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use services::proxy::ipvs::Scheduler;

use crate::firewall::Choice;
use crate::flags::{Asking, RunDir, node_port_range};
use crate::mtu::MtuChoice;
use crate::service::HealthzAt;
use crate::service_proxy::ProxyMode;
use crate::{
    bgp, cni_install, control, convert, crds, dns, doctor, drops, http, ipam, leave, policy, run,
    service, trace, wireguard,
};

/// Kubernetes node networking: BGP, policy and pod attachment in one agent.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  portolan agent --node n1                                       in a pod: asks its cluster's API server
  portolan agent --node n1 --kubeconfig /root/.kube/config       outside of a pod: who the kubeconfig says
  portolan agent --node n1 --manifests /etc/portolan/manifests   without Kubernetes: from a directory of manifests
  portolan agent --node rr1 --manifests DIR --features bgp       a route reflector: BGP and nothing else
  portolan bgp peers                                             sessions, one line each
  portolan bgp explain 10.1.0.0/16                               why this path won, step by step
  portolan policy explain shop/web shop/db:5432                  would it pass, and which rule decides
  portolan status                                                what this node does, at a glance
  portolan status -o json | jq '.sessions[]'                     the same for programs
  portolan service show shop/web                                 what becomes of packets to it, and who is asked
  portolan ipam check                                            addresses, links and routes that nobody explains
  portolan doctor                                                why pods cannot talk, and the command that mends it
  portolan trace shop/web shop/db:5432                           where between two pods a packet is lost, and why
  portolan convert calico.yaml                                   Calico's, kube-router's or MetalLB's objects as ours
  portolan cni install                                           let the container runtime use it
  portolan sync --timeout 10s                                    wait until what the source holds is in the kernel
  portolan cleanup                                               take everything of ours out of the kernel";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of this node. It needs root: it owns routes, chains, sets and pod interfaces marked as Portolan's.
    Agent(Box<AgentArgs>),
    /// Show sessions, routes, pods, policy and problems of the agent on this node.
    Status(StatusArgs),
    /// Run BFD as a process of its own, which outlives the agent (the C bit of RFC 5882 is set). The agent adopts it
    /// by its socket in --run-dir; start it before the agent.
    Bfd(BfdArgs),
    /// Ask the BGP speaker: sessions, routes, what each peer is told, and why.
    Bgp(bgp::BgpArgs),
    /// Ask about policy: what is enforced, why a connection passes or not, what a change would do, what was denied.
    Policy(policy::PolicyArgs),
    /// Ask about addresses: who has which, what is left behind; and take one back.
    Ipam(ipam::IpamArgs),
    /// Ask about Services: what becomes of packets to their addresses, who is asked, and why an endpoint is left out.
    Service(service::ServiceArgs),
    /// Ask for new WireGuard keys of this node.
    #[command(name = "wireguard")]
    WireGuard(wireguard::WireGuardArgs),
    /// Put the CNI plugin and its configuration where the container runtime looks, or take them out.
    Cni(cni_install::CniArgs),
    /// Find out why pods of this node cannot talk: what users check by hand, each with its cause and the command that mends it.
    Doctor(doctor::DoctorArgs),
    /// Follow one path from a pod of this node by real probes, hop by hop, and name the hop where it ends, and why.
    Trace(trace::TraceArgs),
    /// Turn what Calico, kube-router or MetalLB were told into Portolan's own objects, and say what has no counterpart.
    Convert(convert::ConvertArgs),
    /// Wait until all that the source holds now is in the kernel, or say what is not.
    Sync(SyncArgs),
    /// Print the definitions of our kinds (CRDs), to be applied to a cluster.
    Crds,
    /// Remove every route, chain, set and pod interface of ours. The agent must be stopped.
    Cleanup(CleanupArgs),
}

/// Flags of `portolan agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// The name of this node, as its Node object says it (in a pod: spec.nodeName, by the downward API).
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Which parts run, by commas: a route reflector or a lab router needs only `bgp`.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["bgp", "policy", "cni"])]
    pub features: Vec<Feature>,
    /// What survives a reboot: which pod holds which address.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan")]
    pub state_dir: PathBuf,
    /// Sockets: agent.sock and cni.sock.
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    pub run_dir: PathBuf,
    /// By what Services are served (with `--features services`). Started with another mode, the agent brings that one's objects
    /// into the kernel before the last one's go: connections stay.
    #[arg(long, value_enum, default_value_t)]
    pub proxy_mode: ProxyMode,
    /// By what IPVS chooses among endpoints (`--proxy-mode ipvs`): rr, lc, dh, sh, sed, nq or mh.
    #[arg(long, value_name = "NAME", default_value = "rr", value_parser = scheduler)]
    pub ipvs_scheduler: Scheduler,
    /// Which of the node's addresses answer at node ports: ranges, by commas or given again. Without it all do but the loopback's
    /// (by IPVS those of its Node); with it those of a family without a range do not.
    #[arg(long, value_name = "RANGE[,...]", value_delimiter = ',', value_parser = node_port_range)]
    pub node_port_addresses: Vec<IpNet>,
    /// Where /metrics, /livez and /readyz are served; an IPv6 address may stand without brackets.
    #[arg(long, value_name = "ADDR:PORT", value_parser = http::address)]
    pub metrics: Option<SocketAddr>,
    /// Where /healthz of Services is answered (with `services` in --features), as cloud load balancers ask kube-proxy for it;
    /// `[::]` stands for all addresses of both families. Or off.
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:10256")]
    pub service_healthz: HealthzAt,
    /// Which iptables back end holds our rules. Rules of others in both are refused until this says which.
    #[arg(long, value_enum, default_value_t)]
    pub iptables: Choice,
    /// For how long an address that a pod gave back is not given to another, as 30s or 2m; full seconds count.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub address_cool_down: Duration,
    /// Whether egress rules of NetworkPolicy judge what a pod sends to its own node. ClusterNetworkPolicy does in any case.
    #[arg(long, value_enum, default_value = "allowed")]
    pub egress_to_own_node: OwnNode,
    /// The bits of packet marks that are ours, four at least; kube-proxy has 0x4000 and 0x8000.
    #[arg(long, value_name = "MASK", default_value = "0x000f0000", value_parser = mark_mask)]
    pub mark_mask: ::policy::MarkMask,
    /// The MTU of pods: the least on the way to other nodes, peers and the default route, followed when it changes; or a number.
    #[arg(long, value_name = "auto|BYTES", default_value = "auto")]
    pub mtu: MtuChoice,
    /// Who computes the checksums of what is in tunnels: `kernel` where the NIC gets them wrong (`portolan doctor` tells). Without
    /// it the devices stay as they are.
    #[arg(long, value_enum, value_name = "WHO")]
    pub tunnel_checksums: Option<TunnelChecksums>,
    /// Show denied packets to this NFLOG group, so many a second for each rule (10); `portolan policy drops` prints them.
    #[arg(long, value_name = "GROUP[:RATE]", value_parser = drops::drop_log)]
    pub drop_log: Option<::policy::DropLog>,
    /// A resolver besides the cluster's (outside of it, or on the node) whose answers count for `domainNames` in policies;
    /// may be given again.
    #[arg(long, value_name = "ADDR")]
    pub dns_resolver: Vec<IpAddr>,
    /// The pods of the cluster's DNS, whose answers count too: a namespace and labels.
    #[arg(
        long,
        value_name = "NAMESPACE/LABEL=VALUE[,...]",
        default_value = "kube-system/k8s-app=kube-dns",
        value_parser = dns::cluster_dns
    )]
    pub(crate) cluster_dns: dns::ClusterDns,
    /// After how long without a pod a block of an IPPool is given back, unless it is the node's last.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub idle_block_time: Duration,
    /// For how long a pod's host end must be gone before its addresses are taken back, if no runtime said that it is gone.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub reclaim_after: Duration,
    /// Where BFD runs: `process` waits for `portolan bfd`, however long; `auto` takes it if it is there when the first peer
    /// wants BFD, else BFD runs in the agent.
    #[arg(long, value_enum, default_value = "auto")]
    pub bfd: BfdPlace,
    /// How long a WireGuard key of this node lives, as 24h or 90m, 2m at least; 0 is for ever.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "24h",
        value_parser = wireguard::lifetime
    )]
    pub wireguard_key_lifetime: Duration,
    /// What to log, in tracing's filter language.
    #[arg(long, default_value = "info", env = "PORTOLAN_LOG")]
    pub log: String,
}

/// What `--tunnel-checksums` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TunnelChecksums {
    /// The NIC, as kernels have it.
    Nic,
    /// The kernel, before the packet gets into the tunnel: slower, and right whatever the NIC does.
    Kernel,
}

/// What `--bfd` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BfdPlace {
    /// In the process of its own that is there at the time, else in the agent.
    Auto,
    /// In a process of its own and nowhere else.
    Process,
}

/// Where an agent's configuration comes from: a directory, a kubeconfig, or else the cluster whose pod it runs in.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// A directory of manifests, watched; the same YAML as for kubectl. Without it and --kubeconfig the agent runs in a pod
    /// and asks its cluster's API server, by its service account.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// How to reach the API server, and as whom, where the agent does not run in a pod.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The agent's namespace: Secrets with peers' passwords and the Lease for objects' conditions are in it. Of a directory
    /// it is always `portolan`.
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "portolan"
    )]
    pub namespace: String,
    /// Whether the Node's condition NetworkUnavailable is written: False once the data plane and BGP are up. `false` where
    /// something else, as a cloud's route controller, has it.
    #[arg(long, value_name = "true|false", default_value = "true", action = ArgAction::Set)]
    pub node_condition: bool,
    /// A taint to take off this node's Node once its network is up, by its key, as portolan.io/not-ready; may be given again.
    #[arg(long, value_name = "KEY", value_parser = taint_key, conflicts_with = "manifests")]
    pub remove_taint: Vec<String>,
}

/// A key alone: `KEY=VALUE:EFFECT`, as kubectl has it, is refused.
fn taint_key(text: &str) -> Result<String, String> {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || !text.chars().all(is_of_key) {
        return Err("it should be a taint's key alone, as portolan.io/not-ready".to_owned());
    }
    Ok(text.to_owned())
}

/// A part of the agent that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// The BGP speaker: announce what this node holds, install what it learns.
    Bgp,
    /// NetworkPolicy: chains and sets.
    Policy,
    /// Pod attachment: the CNI plugin's socket.
    Cni,
    /// Services in kube-proxy's place, by what --proxy-mode says (docs/services.md). Where another proxy is, they are left to it.
    Services,
    /// Addresses of Services, whoever serves them: announced by BGP as BGPConfiguration says. `services` does that, too.
    LoadBalancer,
}

/// What becomes of a packet from an egress-isolated pod to its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OwnNode {
    /// It passes, as the NetworkPolicy API has it.
    Allowed,
    /// It is judged as any other.
    Policed,
}

impl From<OwnNode> for ::policy::EgressToOwnNode {
    fn from(choice: OwnNode) -> Self {
        match choice {
            OwnNode::Allowed => Self::Allowed,
            OwnNode::Policed => Self::Policed,
        }
    }
}

/// Parses `0x000f0000`, or the same as a decimal number.
pub(crate) fn mark_mask(text: &str) -> Result<::policy::MarkMask, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let mask = number.map_err(|_| "it should be a number of 32 bits, as 0x000f0000".to_owned())?;
    ::policy::MarkMask::new(mask).ok_or_else(|| "it should have four bits or more".to_owned())
}

/// A scheduler by its name.
fn scheduler(text: &str) -> Result<Scheduler, String> {
    let named = Scheduler::ALL.into_iter().find(|one| one.name() == text);
    let all = || Scheduler::ALL.map(Scheduler::name).join(", ");
    named.ok_or_else(|| format!("no such scheduler; there are {}", all()))
}

impl AgentArgs {
    /// Whether Services are served, and not by iptables.
    #[must_use]
    pub fn serves_without_iptables(&self) -> bool {
        self.has(Feature::Services) && self.proxy_mode != ProxyMode::Iptables
    }

    /// Whether a part runs.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }
}

/// Flags of `portolan bfd`.
#[derive(Debug, Args)]
pub struct BfdArgs {
    /// The agent's --run-dir: the socket is bfd.sock in it.
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    pub run_dir: PathBuf,
    /// What to log, in tracing's filter language.
    #[arg(long, default_value = "info", env = "PORTOLAN_LOG")]
    pub log: String,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct SyncArgs {
    #[command(flatten)]
    at: RunDir,
    /// For how long to wait, as 500ms, 10s or 1m.
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// The agent's --run-dir: cleanup refuses to work while an agent answers there.
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    pub(crate) run_dir: PathBuf,
    /// Remove the agent's files, too: what is in its --run-dir and in this, its --state-dir.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Do not end afterwards, until told to: for a container, which is started again when it ends.
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    /// For eyes.
    Table,
    /// For programs.
    Json,
}

/// Carries out one verb; the exit code is not zero if it failed.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.verb {
        Verb::Agent(args) => run::agent(&args),
        Verb::Status(args) => control::print_status(
            &args.asking.at.run_dir,
            matches!(args.asking.output, Output::Json),
        ),
        Verb::Bfd(args) => run::bfd(&args),
        Verb::Bgp(args) => bgp::run(args),
        Verb::Policy(args) => match policy::run(args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Verb::Ipam(args) => match ipam::run(args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Verb::Service(args) => service::run(args),
        Verb::WireGuard(args) => wireguard::run(&args),
        Verb::Cni(args) => cni_install::run(args),
        Verb::Doctor(args) => return doctor::run(&args),
        Verb::Trace(args) => return trace::run(&args),
        Verb::Convert(args) => match convert::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Verb::Sync(args) => control::sync(&args.at.run_dir, args.timeout),
        Verb::Crds => crds::print(),
        Verb::Cleanup(args) => leave::leave(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the command line's errors go to standard error"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("portolan: {error:#}");
}

/// Parses `500ms`, `10s`, `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a duration such as 500ms, 10s or 1m"))?;
    match text.get(digits.len()..) {
        Some("ms") => Ok(Duration::from_millis(number)),
        Some("s" | "") => Ok(Duration::from_secs(number)),
        Some("m") => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("'{text}' has an unknown unit: use ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ipvs_goes_with_policy_and_schedulers_are_named() {
        let agent = |more: &str| {
            let words = format!("portolan agent --node n1 --manifests /m {more}");
            let cli = Cli::try_parse_from(words.split_whitespace()).map_err(|e| e.to_string())?;
            match cli.verb {
                Verb::Agent(args) => Ok(args),
                _ => Err("another verb".to_owned()),
            }
        };
        let alone = agent("--features bgp,cni,services --proxy-mode ipvs --ipvs-scheduler lc");
        let alone = alone.unwrap();
        assert_eq!(alone.ipvs_scheduler, Scheduler::Lc);
        let beside = agent("--features policy,services --proxy-mode ipvs").unwrap();
        assert_eq!(beside.proxy_mode, ProxyMode::Ipvs);
        let said = agent("--ipvs-scheduler wrr").unwrap_err();
        assert!(
            said.contains("no such scheduler; there are rr, lc"),
            "{said}"
        );
    }

    #[test]
    fn flags_of_policy_reach_its_settings_and_a_wrong_mask_is_refused() {
        let agent = |more: &str| {
            let words = format!("portolan agent --node n1 --manifests /m {more}");
            let cli = Cli::try_parse_from(words.split_whitespace()).map_err(|e| e.to_string())?;
            match cli.verb {
                Verb::Agent(args) => Ok(run::settings(&args)),
                _ => Err("another verb".to_owned()),
            }
        };
        let settings = agent("--egress-to-own-node policed --mark-mask 0xf0").unwrap();
        assert_eq!(
            settings.egress_to_own_node,
            ::policy::EgressToOwnNode::Policed
        );
        assert_eq!(settings.mark.mask(), 0xf0);
        let settings = agent("").unwrap();
        assert_eq!(
            settings.egress_to_own_node,
            ::policy::EgressToOwnNode::Allowed
        );
        assert_eq!(settings.mark, ::policy::MarkMask::default());
        assert!(agent("--mark-mask 0x7").unwrap_err().contains("four bits"));
        assert!(agent("--mark-mask x").unwrap_err().contains("number"));
    }

    #[test]
    fn a_source_is_a_directory_or_a_cluster_and_what_is_given_for_the_other_is_refused() {
        let agent = |more: &str| {
            let words = format!("portolan agent --node n1 {more}");
            let cli = Cli::try_parse_from(words.split_whitespace()).map_err(|e| e.to_string())?;
            match cli.verb {
                Verb::Agent(args) => Ok(args.source),
                _ => Err("another verb".to_owned()),
            }
        };
        let source = agent("").unwrap();
        assert_eq!((source.manifests, source.kubeconfig), (None, None));
        assert_eq!(source.namespace, "portolan");
        assert!(source.node_condition && source.remove_taint.is_empty());
        let source =
            agent("--node-condition false --remove-taint a.io/b --remove-taint c").unwrap();
        assert!(!source.node_condition);
        assert_eq!(source.remove_taint, ["a.io/b", "c"]);
        for (flags, why) in [
            ("--manifests /m --kubeconfig /k", "cannot be used with"),
            ("--manifests /m --remove-taint a", "cannot be used with"),
            ("--remove-taint a=b:NoSchedule", "key alone"),
            ("--node-condition perhaps", "invalid value"),
        ] {
            let error = agent(flags).unwrap_err();
            assert!(error.contains(why), "{flags}: {error}");
        }
    }

    #[test]
    fn help_teaches_by_examples_that_are_valid_command_lines() {
        let mut command = Cli::command();
        let bgp = command.find_subcommand_mut("bgp").unwrap();
        let mut help =
            bgp.render_long_help().to_string() + &Cli::command().render_long_help().to_string();
        let policy = command.find_subcommand_mut("policy").unwrap();
        help += &policy.render_long_help().to_string();
        let ipam = command.find_subcommand_mut("ipam").unwrap();
        help += &ipam.render_long_help().to_string();
        let cni = command.find_subcommand_mut("cni").unwrap();
        help += &cni.render_long_help().to_string();
        let trace = command.find_subcommand_mut("trace").unwrap();
        help += &trace.render_long_help().to_string();
        let lines = help.lines().filter_map(|line| {
            let line = line.trim().split('|').next()?.split("   ").next()?;
            line.starts_with("portolan ")
                .then(|| line.trim().to_owned())
        });
        let mut count = 0;
        for line in lines {
            let words = line.replace("'maintenance is over'", "over");
            let parsed = Cli::try_parse_from(words.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            count += 1;
        }
        assert!(count > 15, "{help}");
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err());
        assert!(duration("3h").is_err());
    }
}
