//! `portolan doctor`: its flags, and how findings are printed.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::catalog;
use super::examine::examine;
use super::finding::{Finding, Verdict};
use crate::cli::{Output, mark_mask};

const EXAMPLES: &str = "Examples:
  portolan doctor                                   on the node, as root: what is wrong, why, and what mends it
  portolan doctor -o json | jq -r '.findings[] | select(.verdict == \"failure\") | .remedy'
  portolan doctor --dns 10.96.0.10                  where kubelet's configuration does not name the cluster's DNS
  portolan doctor --list                            what is looked at
  kubectl -n portolan exec POD -c agent -- portolan doctor    without the runtime's folders, which that container does not see

It changes nothing. It works without an agent, and says what it could not look at. It ends with 0 if nothing is wrong,
1 if there are warnings or failures, 2 if it could not look.";

/// Flags of `portolan doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// The agent's --run-dir.
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    pub(super) run_dir: PathBuf,
    /// The agent's --state-dir.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan")]
    pub(super) state_dir: PathBuf,
    /// Where the runtime looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(super) cni_bin_dir: PathBuf,
    /// Where the runtime looks for network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(super) cni_conf_dir: PathBuf,
    /// kubelet's configuration, which names the cluster's DNS.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/kubelet/config.yaml"
    )]
    pub(super) kubelet_config: PathBuf,
    /// The cluster's DNS, if kubelet's configuration is not to be asked; may be given again.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = server)]
    pub(super) dns: Vec<SocketAddr>,
    /// What the DNS is asked for.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "kubernetes.default.svc.cluster.local"
    )]
    pub(super) dns_name: String,
    /// The agent's --mark-mask.
    #[arg(long, value_name = "MASK", default_value = "0x000f0000", value_parser = mark_mask)]
    pub(super) mark_mask: ::policy::MarkMask,
    /// Print what is looked at, and look at nothing.
    #[arg(long)]
    list: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Says that something is wrong.
const WRONG: u8 = 1;
/// Says that it could not be looked.
const BLIND: u8 = 2;

/// Carries it out.
pub(crate) fn run(args: &DoctorArgs) -> ExitCode {
    match print(args) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("portolan: {error:#}"));
            ExitCode::from(BLIND)
        }
    }
}

fn print(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let json = matches!(args.output, Output::Json);
    let mut out = std::io::stdout();
    if args.list {
        let text = match json {
            true => serde_json::to_string_pretty(catalog::ALL)? + "\n",
            false => list(),
        };
        out.write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::io::stderr().is_terminal() {
        say("looking; this takes up to ten seconds where something does not answer …");
    }
    let findings = examine(args);
    let text = match json {
        true => serde_json::to_string_pretty(&serde_json::json!({ "findings": findings }))? + "\n",
        false => table(&findings),
    };
    out.write_all(text.as_bytes())?;
    let verdicts = || findings.iter().map(|finding| finding.verdict);
    Ok(if verdicts().any(Verdict::is_bad) {
        ExitCode::from(WRONG)
    } else if verdicts().all(|verdict| verdict == Verdict::Skipped) {
        ExitCode::from(BLIND)
    } else {
        ExitCode::SUCCESS
    })
}

/// What is wrong comes last, where people look.
fn table(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.verdict);
    let mut out = String::new();
    for finding in sorted {
        let word = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Skipped => "skipped",
            Verdict::Warning => "WARNING",
            Verdict::Failure => "FAILURE",
        };
        let (check, what) = (finding.check, finding.what.replace('\n', "\n           "));
        out.push_str(&format!("{word:<8} {check}: {what}\n"));
        if finding.verdict.is_bad() {
            out.push_str(&format!(
                "    cause: {}\n     mend: {}\n",
                finding.cause, finding.remedy
            ));
        }
    }
    let count = |wanted: Verdict| findings.iter().filter(|one| one.verdict == wanted).count();
    out.push_str(&format!(
        "{} failures, {} warnings, {} ok, {} skipped\n",
        count(Verdict::Failure),
        count(Verdict::Warning),
        count(Verdict::Ok),
        count(Verdict::Skipped)
    ));
    out
}

fn list() -> String {
    let lines = catalog::ALL
        .iter()
        .map(|check| format!("{:<22} {}\n", check.name, check.speaks_when));
    lines.collect()
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse().ok();
    let alone = || {
        text.parse::<IpAddr>()
            .map(|address| SocketAddr::new(address, 53))
    };
    with_port
        .map_or_else(alone, Ok)
        .map_err(|_| "it should be an address, as 10.96.0.10 or [fd00::a]:53".to_owned())
}

#[expect(
    clippy::print_stderr,
    reason = "errors and progress are for people, beside what programs read"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_address_is_taken_with_and_without_a_port() {
        assert_eq!(server("10.96.0.10"), Ok("10.96.0.10:53".parse().unwrap()));
        assert_eq!(
            server("[fd00::a]:5353"),
            Ok("[fd00::a]:5353".parse().unwrap())
        );
        assert_eq!(server("fd00::a"), Ok("[fd00::a]:53".parse().unwrap()));
        assert!(server("dns").is_err());
    }

    #[test]
    fn what_is_wrong_comes_last_with_its_cause_and_its_command() {
        let findings = [
            catalog::DNS.failure("it is silent", "it is off", "switch it on"),
            catalog::BFD.ok("up"),
            catalog::POD_MTU.skipped("no way out"),
        ];
        assert_eq!(
            table(&findings),
            "ok       bfd: up\nskipped  pod-mtu: no way out\nFAILURE  dns: it is silent\n    cause: it is off\n     \
             mend: switch it on\n1 failures, 0 warnings, 1 ok, 1 skipped\n"
        );
    }
}
