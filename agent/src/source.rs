//! Opens the source that the flags name, and publishes what goes back to it.

use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use datastore::{ClusterSettings, NodeWrites, Source, watch_kubernetes, watch_manifests};
use tokio::sync::watch;
use tracing::warn;

use crate::cli::{AgentArgs, Feature};

/// How long before a failed publication is tried again, at first and at most.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Where a pod's environment has the API server.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Where an open source is, for people.
#[derive(Clone, Debug)]
pub(crate) struct Whereabouts {
    /// `manifests` or `kubernetes`.
    pub(crate) kind: &'static str,
    /// The directory, or how the API server is reached.
    pub(crate) path: String,
    /// Where the API server is, as the pod that this process runs in has it from its environment.
    pub(crate) server: Option<SocketAddr>,
    /// Since when the API server has not answered.
    pub(crate) away: watch::Receiver<Option<Instant>>,
}

/// Opens the directory, the kubeconfig's cluster, or the one whose pod this is.
///
/// # Errors
/// There is no such thing; the text says what to do.
pub(crate) async fn open(args: &AgentArgs) -> anyhow::Result<(Source, Whereabouts)> {
    let flags = &args.source;
    if let Some(directory) = &flags.manifests {
        let path = directory.display().to_string();
        let source = watch_manifests(directory, &args.node);
        let source = source.with_context(|| format!("cannot watch {path}"))?;
        return Ok(named("manifests", path, source));
    }
    let settings = ClusterSettings {
        kubeconfig: flags.kubeconfig.clone(),
        node: args.node.clone(),
        namespace: flags.namespace.clone(),
        services: args.has(Feature::Services) || args.has(Feature::LoadBalancer),
        node_writes: NodeWrites {
            condition: flags.node_condition && judges_network(args),
            remove_taints: flags.remove_taint.clone(),
        },
    };
    let source = watch_kubernetes(&settings).await?;
    let path = flags.kubeconfig.as_ref().map_or_else(
        || "by the pod's service account".to_owned(),
        |file| file.display().to_string(),
    );
    let mut opened = named("kubernetes", path, source);
    if flags.kubeconfig.is_none() {
        let variable = |name: &str| std::env::var(name).ok();
        opened.1.server = server(variable(HOST), variable(PORT));
    }
    Ok(opened)
}

/// What a pod's environment says of the API server; nothing where that is a name.
fn server(host: Option<String>, port: Option<String>) -> Option<SocketAddr> {
    Some(SocketAddr::new(host?.parse().ok()?, port?.parse().ok()?))
}

fn named(kind: &'static str, path: String, source: Source) -> (Source, Whereabouts) {
    let away = source.away.clone();
    let server = None;
    let whereabouts = Whereabouts {
        kind,
        path,
        server,
        away,
    };
    (source, whereabouts)
}

/// Whether the node's network is this agent's: with policy alone another plugin's pods and routes are.
fn judges_network(args: &AgentArgs) -> bool {
    args.has(Feature::Bgp) || args.has(Feature::Cni)
}

/// Publishes the newest of what is to be said, each time that it changes, and again until it is said.
pub(crate) async fn publish<T, F, E>(
    mut newest: watch::Receiver<T>,
    what: &'static str,
    write: impl Fn(T) -> F,
) where
    T: Clone,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut wait = RETRY;
    while newest.changed().await.is_ok() {
        loop {
            let now = newest.borrow_and_update().clone();
            let Err(error) = write(now).await else {
                break;
            };
            if wait == RETRY {
                warn!(%error, "cannot publish {what}; trying again");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
        wait = RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_146_a_pods_environment_says_where_the_api_server_is() {
        let of = |host: &str, port: &str| server(Some(host.to_owned()), Some(port.to_owned()));
        assert_eq!(
            of("10.96.0.1", "443"),
            Some("10.96.0.1:443".parse().unwrap())
        );
        assert_eq!(of("fd00::1", "443"), Some("[fd00::1]:443".parse().unwrap()));
        assert_eq!(of("api.example", "443"), None);
        assert_eq!(server(None, None), None);
    }
}
