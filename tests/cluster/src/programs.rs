//! Where the Kubernetes programs are that `scripts/build-kubernetes` has built.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The version of Kubernetes that is tested against, without `v`.
pub(crate) const VERSION: &str = include_str!("../../../scripts/kubernetes-version");

/// Everything that the build leaves in its folder.
const NAMES: [&str; 11] = [
    "agnhost",
    "clusternetworkpolicies.yaml",
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "pause",
];

/// The folder of the programs, all of them there.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Looks for them in the user's cache.
    ///
    /// # Panics
    /// When one is missing: says which, and what builds it.
    #[must_use]
    pub fn find() -> Self {
        let dir = cache().join("kubernetes").join(VERSION.trim());
        let missing: Vec<&str> = NAMES
            .into_iter()
            .filter(|name| !dir.join(name).is_file())
            .collect();
        assert!(
            missing.is_empty(),
            "no {} in {}: run scripts/build-kubernetes",
            missing.join(", "),
            dir.display()
        );
        Self { dir }
    }

    /// The folder they are in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one of them, or of `clusternetworkpolicies.yaml`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Helm, which `scripts/fetch-helm` builds.
///
/// # Errors
/// When it isn't in the user's cache.
pub fn helm() -> Result<PathBuf> {
    let helm = cache().join("bin/helm");
    ensure!(
        helm.is_file(),
        "no {}: run scripts/fetch-helm",
        helm.display()
    );
    Ok(helm)
}

/// The project's folder in the user's cache.
fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.unwrap_or_else(home).join("portolan")
}
