//! Checks of what the container runtime finds: the plugin's binary, the network configuration, and the agent behind both.

use std::path::PathBuf;

use super::bound;
use super::catalog::{CNI_CONFIG, CNI_PLUGIN, CNI_STATUS};
use super::finding::Finding;
use crate::cni_install::{Binary, First, agent_by_plugin, first_configuration, plugin_in};

/// Where to look.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) bin_dir: PathBuf,
    pub(super) conf_dir: PathBuf,
    /// The socket of the agent that is looked at.
    pub(super) socket: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) state_dir: PathBuf,
}

/// What was found; none where there is nothing of a runtime's to be seen from here.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    plugin: Result<Binary, String>,
    first: Result<First, String>,
    /// What the agent says by the plugin; none where it could not be asked.
    status: Option<Result<(), String>>,
}

impl Facts {
    /// Looks and asks.
    pub(super) fn gather(places: &Places) -> Option<Self> {
        if !places.bin_dir.is_dir() && !places.conf_dir.is_dir() {
            return None;
        }
        let dir = places.bin_dir.clone();
        let plugin = bound::blocking(move || plugin_in(&dir)).map_err(|late| late.to_string());
        let first = first_configuration(&places.conf_dir).map_err(|error| format!("{error:#}"));
        let runs = matches!(
            plugin,
            Ok(Binary::Works { .. } | Binary::OtherRelease { .. })
        );
        let status = match &first {
            Ok(First::Ours { socket, .. }) if runs => {
                let (dir, socket) = (places.bin_dir.clone(), socket.clone());
                let asked = bound::blocking(move || agent_by_plugin(&dir, &socket));
                Some(match asked {
                    Ok(said) => said.map_err(|error| format!("{error:#}")),
                    Err(late) => Err(late.to_string()),
                })
            }
            _ => None,
        };
        Some(Self {
            plugin,
            first,
            status,
        })
    }
}

/// Judges.
pub(super) fn judge(places: &Places, facts: Option<&Facts>) -> Vec<Finding> {
    let Some(facts) = facts else {
        let why = format!(
            "neither {} nor {} is here, as in the agent's container: run this on the node, or name them by --cni-bin-dir and --cni-conf-dir",
            places.bin_dir.display(),
            places.conf_dir.display()
        );
        return [&CNI_PLUGIN, &CNI_CONFIG, &CNI_STATUS]
            .map(|check| check.skipped(why.clone()))
            .into();
    };
    vec![
        plugin(places, &facts.plugin),
        config(places, &facts.first),
        status(places, facts),
    ]
}

/// Puts both in place.
fn install(places: &Places) -> String {
    format!(
        "portolan cni install --bin-dir {} --conf-dir {} --run-dir {} --state-dir {}",
        places.bin_dir.display(),
        places.conf_dir.display(),
        places.run_dir.display(),
        places.state_dir.display()
    )
}

fn plugin(places: &Places, found: &Result<Binary, String>) -> Finding {
    let (what, cause) = match found {
        Ok(Binary::Works { path, is_compared }) => {
            let release = match is_compared {
                true => "is this release's",
                false => "works; with no other beside this program its release cannot be told",
            };
            return CNI_PLUGIN.ok(format!("{} {release}", path.display()));
        }
        Ok(Binary::OtherRelease(path)) => {
            return CNI_PLUGIN.warning(
                format!("{} is not the plugin of this release", path.display()),
                "the agent was replaced and the plugin was not, or the other way round",
                install(places),
            );
        }
        Ok(Binary::Absent(path)) => (
            format!("{} is not there", path.display()),
            "it was never installed, or was removed: the runtime can neither start nor stop pods",
        ),
        Ok(Binary::NotExecutable(path)) => (
            format!("{} may not be executed", path.display()),
            "its mode was changed: the runtime can neither start nor stop pods",
        ),
        Ok(Binary::Broken(path, why)) => (
            format!("{}: {why}", path.display()),
            "it is damaged, or of another machine's kind: the runtime can neither start nor stop pods",
        ),
        Err(late) => (
            format!("the plugin does not answer: {late}"),
            "it is damaged, or its disk does not answer",
        ),
    };
    CNI_PLUGIN.failure(what, cause, install(places))
}

fn config(places: &Places, first: &Result<First, String>) -> Finding {
    let aside = |file: &PathBuf| format!("mv {0} {0}.aside", file.display());
    match first {
        Ok(First::Ours { file, socket }) if *socket == places.socket.display().to_string() => {
            CNI_CONFIG.ok(format!("{} is ours and comes first", file.display()))
        }
        Ok(First::Ours { file, socket }) => CNI_CONFIG.failure(
            format!("{} leads to {socket}", file.display()),
            format!(
                "this agent's socket is {}: the runtime asks another one, or none",
                places.socket.display()
            ),
            install(places),
        ),
        Ok(First::None) => CNI_CONFIG.failure(
            format!("{} holds no network configuration", places.conf_dir.display()),
            "it was never installed, or was removed: the node is not ready, and no pod starts",
            install(places),
        ),
        Ok(First::Other { file, network }) => CNI_CONFIG.failure(
            format!("{} (network {network}) comes first", file.display()),
            "runtimes take the first file by name: pods are attached by that network, and not by this agent",
            aside(file),
        ),
        Ok(First::Invalid { file, why }) => CNI_CONFIG.failure(
            format!("{} is no network configuration: {why}", file.display()),
            "it was written by halves, or by hand: containerd loads no network at all while it is the first",
            aside(file),
        ),
        Err(why) => CNI_CONFIG.failure(
            format!("{} cannot be listed: {why}", places.conf_dir.display()),
            "the runtime cannot, either",
            format!("ls -ld {}", places.conf_dir.display()),
        ),
    }
}

fn status(places: &Places, facts: &Facts) -> Finding {
    match &facts.status {
        None => CNI_STATUS.skipped("without our plugin and configuration nobody can be asked"),
        Some(Ok(())) => CNI_STATUS.ok("the agent, asked by the plugin, can attach pods"),
        Some(Err(why)) => CNI_STATUS.failure(
            why.clone(),
            "the runtime gets this answer for every pod: the agent is away, was started without `cni` in --features, or has \
             no addresses to give",
            format!("portolan status --run-dir {}", places.run_dir.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn places() -> Places {
        Places {
            bin_dir: "/b".into(),
            conf_dir: "/c".into(),
            socket: "/r/cni.sock".into(),
            run_dir: "/r".into(),
            state_dir: "/s".into(),
        }
    }

    fn judged(first: First, plugin: Binary) -> Vec<Finding> {
        let facts = Facts {
            plugin: Ok(plugin),
            first: Ok(first),
            status: None,
        };
        judge(&places(), Some(&facts))
    }

    #[test]
    fn nothing_of_a_runtimes_is_skipped_and_says_where_was_looked() {
        let findings = judge(&places(), None);
        assert_eq!(findings.len(), 3);
        for finding in findings {
            assert_eq!(finding.verdict, Verdict::Skipped);
            assert!(finding.what.contains("/b") && finding.what.contains("/c"));
        }
    }

    #[test]
    fn a_configuration_for_another_agent_is_told_with_the_right_socket() {
        let works = Binary::Works {
            path: "/b/portolan-cni".into(),
            is_compared: true,
        };
        let ours = |socket: &str| First::Ours {
            file: "/c/10".into(),
            socket: socket.to_owned(),
        };
        let findings = judged(ours("/r/cni.sock"), works.clone());
        assert_eq!(findings[0].verdict, Verdict::Ok);
        assert_eq!(findings[1].verdict, Verdict::Ok);
        let findings = judged(ours("/x"), works);
        assert_eq!(findings[1].verdict, Verdict::Failure);
        assert!(findings[1].cause.contains("/r/cni.sock"));
        assert!(findings[1].remedy.contains("--run-dir /r"));
    }

    #[test]
    fn an_older_plugin_is_a_warning_and_a_missing_one_a_failure() {
        let path = PathBuf::from("/b/portolan-cni");
        let of = |plugin| judged(First::None, plugin)[0].verdict;
        assert_eq!(of(Binary::OtherRelease(path.clone())), Verdict::Warning);
        assert_eq!(of(Binary::Absent(path.clone())), Verdict::Failure);
        assert_eq!(of(Binary::NotExecutable(path)), Verdict::Failure);
    }
}
