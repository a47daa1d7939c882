//! Runs every check: the agent first, what several look at second, and the rest side by side.

use std::path::Path;
use std::thread;

use super::catalog::{self, CNI_CONFIG, CNI_PLUGIN, CNI_STATUS};
use super::cli::DoctorArgs;
use super::finding::Finding;
use super::scene::Scene;
use super::{
    agent, bgp, checksums, cni, denials, firewall, layer2, localnet, name_service, pods, services,
    switches, ways,
};
use crate::cni::SOCKET;

/// Where an agent is by default: its commands need no flag then.
const RUN_DIR: &str = "/run/portolan";

/// Looks at everything; each check gives one finding at least.
pub(super) fn examine(args: &DoctorArgs) -> Vec<Finding> {
    let mut findings = look(args);
    findings.sort_by_key(place);
    for finding in &mut findings {
        finding.remedy = with_run_dir(&finding.remedy, &args.run_dir);
    }
    findings
}

/// Commands that ask the agent have to find it.
fn with_run_dir(remedy: &str, run_dir: &Path) -> String {
    let is_default = run_dir == Path::new(RUN_DIR);
    let told = |command: &str| match command.starts_with("portolan ") {
        true if !is_default && !command.contains("--run-dir") => {
            format!("{command} --run-dir {}", run_dir.display())
        }
        _ => command.to_owned(),
    };
    let commands: Vec<String> = remedy.split("; ").map(told).collect();
    commands.join("; ")
}

fn look(args: &DoctorArgs) -> Vec<Finding> {
    let known = agent::Facts::gather(&args.run_dir);
    let mut findings = agent::judge(&known);
    let places = cni::Places {
        bin_dir: args.cni_bin_dir.clone(),
        conf_dir: args.cni_conf_dir.clone(),
        socket: args.run_dir.join(SOCKET),
        run_dir: args.run_dir.clone(),
        state_dir: args.state_dir.clone(),
    };
    if known.is_elsewhere() {
        findings.extend(of_runtime(&places));
        findings.extend(elsewhere());
        return findings;
    }
    let scene = Scene::gather(known.report().cloned(), &args.state_dir);
    let report = scene.report.as_ref();
    let groups: [Vec<Finding>; 9] = thread::scope(|scope| {
        let groups = [
            scope.spawn(|| of_runtime(&places)),
            scope.spawn(|| switches::judge(&switches::Facts::gather(&scene))),
            scope.spawn(|| checksums::judge(&checksums::Facts::gather(&scene))),
            scope.spawn(|| of_rules(args, &scene)),
            scope.spawn(|| {
                bgp::judge(
                    report
                        .map(|r| bgp::Facts::gather(r, &args.run_dir))
                        .as_ref(),
                )
            }),
            scope.spawn(|| {
                let wanted = ways::Wanted::gather(&scene, &args.run_dir);
                let mut found = ways::judge(&scene, &wanted);
                found.extend(pods::judge(&scene, &pods::gather(&scene)));
                found
            }),
            scope.spawn(|| {
                denials::judge(
                    report
                        .map(|r| denials::Facts::gather(r, &args.run_dir))
                        .as_ref(),
                )
            }),
            scope.spawn(|| layer2::judge(layer2::Facts::gather(&scene).as_ref())),
            scope.spawn(|| {
                let facts =
                    name_service::Facts::gather(&args.dns, &args.dns_name, &args.kubelet_config);
                name_service::judge(&facts)
            }),
        ];
        // A check that panics is missing in the output; the others are there.
        groups.map(|group| group.join().unwrap_or_default())
    });
    findings.extend(groups.into_iter().flatten());
    findings
}

/// The place of its check in the catalog.
fn place(finding: &Finding) -> usize {
    let mut all = catalog::ALL.iter();
    all.position(|check| check.name == finding.check)
        .unwrap_or(catalog::ALL.len())
}

fn of_runtime(places: &cni::Places) -> Vec<Finding> {
    cni::judge(places, cni::Facts::gather(places).as_ref())
}

/// What the rules of iptables tell, of policy and of Services.
fn of_rules(args: &DoctorArgs, scene: &Scene) -> Vec<Finding> {
    let report = scene.report.as_ref();
    let chosen = report.and_then(|report| report.policy.backend.as_deref());
    let facts = firewall::Facts::gather(chosen, report.is_some(), args.mark_mask.mask());
    let mut findings = firewall::judge(&facts);
    let of_services = services::Facts::gather(report, &args.kubelet_config);
    findings.extend(services::judge(&of_services, &facts.listings));
    findings.push(localnet::judge(&localnet::open(scene), &facts.listings));
    findings
}

/// What cannot be said from inside another network namespace than the agent's.
fn elsewhere() -> Vec<Finding> {
    let told = [CNI_PLUGIN.name, CNI_CONFIG.name, CNI_STATUS.name];
    let others = catalog::ALL
        .iter()
        .filter(|check| !check.name.starts_with("agent-") && !told.contains(&check.name));
    others
        .map(|check| check.skipped("this is another network namespace than the agent's"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_ours_find_an_agent_that_is_not_where_it_is_by_default() {
        let told = |remedy: &str, dir: &str| with_run_dir(remedy, Path::new(dir));
        assert_eq!(told("portolan status", RUN_DIR), "portolan status");
        assert_eq!(
            told("portolan bgp explain x; ip route show", "/r"),
            "portolan bgp explain x --run-dir /r; ip route show"
        );
        assert_eq!(told("ip link set dev x up", "/r"), "ip link set dev x up");
    }
}
