//! What is written down about how to reach the API server, and whether it is still written there.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};

/// Where it is written.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the pod that this process runs in.
    Pod,
    /// In a file, and in those that it names.
    Kubeconfig(PathBuf),
}

/// What was read.
pub(super) struct Access {
    /// How to get there; without the token's file, which is read for every request.
    pub(super) config: Config,
    /// Where the token is.
    pub(super) token: Option<PathBuf>,
    /// Where the authorities are that the server's certificate is judged by.
    pub(super) authorities: PathBuf,
    /// Where the client certificate is.
    pub(super) certificate: PathBuf,
    /// The files that all this was read from.
    files: Files,
}

/// Files, and what they held: not as text, for some hold keys.
struct Files {
    held: Vec<(PathBuf, Option<u64>)>,
    hasher: RandomState,
}

impl Place {
    /// Reads it.
    pub(super) async fn read(&self) -> Result<Access, String> {
        match self {
            Self::Pod => in_a_pod(),
            Self::Kubeconfig(path) => in_a_file(path)
                .await
                .map_err(|why| format!("{} is no kubeconfig: {why}", path.display())),
        }
    }
}

impl Access {
    /// Whether a file that was read holds something else now. One that is gone is no news: it may be on its way.
    pub(super) fn is_stale(&self) -> bool {
        self.files.have_changed()
    }

    fn new(mut config: Config, files: Files, main: &Path) -> Self {
        let named = |name: &Option<String>| name.as_ref().map_or(main.to_owned(), PathBuf::from);
        let who = &mut config.auth_info;
        let certificate = named(&who.client_certificate);
        // A token in the file itself comes first.
        let token = match who.token {
            Some(_) => None,
            None => who.token_file.take().map(PathBuf::from),
        };
        Self {
            authorities: main.to_owned(),
            certificate,
            token,
            config,
            files,
        }
    }
}

fn in_a_pod() -> Result<Access, String> {
    let read = || {
        Config::incluster().map_err(|error| {
            format!("this process does not run in a pod of a cluster ({error}): name a --kubeconfig, or a directory with --manifests")
        })
    };
    let authorities = read()?.root_cert_file.unwrap_or_default();
    let files = Files::read(BTreeSet::from([authorities.clone()]));
    // After the files: what changes in between is seen as a change.
    Ok(Access::new(read()?, files, &authorities))
}

async fn in_a_file(path: &Path) -> Result<Access, String> {
    let wrong = |error: &dyn std::error::Error| error.to_string();
    let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    let authorities = authorities(&file);
    let mut paths = BTreeSet::from([path.to_owned()]);
    paths.extend(authorities.clone());
    for named in &file.auth_infos {
        paths.extend(named.auth_info.iter().flat_map(files_of));
    }
    let files = Files::read(paths);
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(&error))?;
    let mut access = Access::new(config, files, path);
    access.authorities = authorities.unwrap_or_else(|| path.to_owned());
    Ok(access)
}

/// The file with the authorities of the cluster that is meant.
fn authorities(file: &Kubeconfig) -> Option<PathBuf> {
    let current = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|named| named.name == *current)?;
    let cluster = &context.context.as_ref()?.cluster;
    let named = file.clusters.iter().find(|named| named.name == *cluster)?;
    let path = named.cluster.as_ref()?.certificate_authority.as_ref()?;
    Some(PathBuf::from(path))
}

fn files_of(who: &AuthInfo) -> impl Iterator<Item = PathBuf> {
    let files = [&who.client_certificate, &who.client_key];
    files.into_iter().flatten().map(PathBuf::from)
}

impl Files {
    fn read(paths: BTreeSet<PathBuf>) -> Self {
        let hasher = RandomState::new();
        let held = paths.into_iter().map(|path| {
            let print = print_of(&path, &hasher);
            (path, print)
        });
        Self {
            held: held.collect(),
            hasher,
        }
    }

    fn have_changed(&self) -> bool {
        self.held.iter().any(|(path, held)| {
            let now = print_of(path, &self.hasher);
            now.is_some() && now != *held
        })
    }
}

fn print_of(path: &Path, hasher: &RandomState) -> Option<u64> {
    let text = std::fs::read(path).ok()?;
    Some(hasher.hash_one(text))
}
