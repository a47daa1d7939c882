//! Finds out what both iptables back ends hold, and by which programs the chosen one is read and written.

use std::collections::BTreeMap;
use std::env;
use std::fs;

use netfilter::Family;

use super::backend::{Backend, Choice, Found, Mix, decide};
use crate::exec::{ExecError, run};

/// Where the kernel names the old tables that exist; none is made by reading this.
const LEGACY_TABLES: [(Family, &str); 2] = [
    (Family::V4, "/proc/net/ip_tables_names"),
    (Family::V6, "/proc/net/ip6_tables_names"),
];

/// Why no back end can be worked with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// Others' rules are in both.
    #[error(transparent)]
    Mix(#[from] Mix),
    /// Its programs are not there.
    #[error("{program} is not installed, and this host's iptables back end is {}", backend.name())]
    Missing {
        program: &'static str,
        backend: Backend,
    },
    /// A program failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// The programs that read and write one back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) backend: Backend,
    save: [&'static str; 2],
    restore: [&'static str; 2],
}

impl Programs {
    /// By the back end's own names, or by the plain ones where those are all there is.
    fn find(backend: Backend, plain: Option<Backend>) -> Result<Self, BackendError> {
        let pick = |own: &'static str, other: &'static str| {
            if is_installed(own) {
                Ok(own)
            } else if plain == Some(backend) && is_installed(other) {
                Ok(other)
            } else {
                let program = own;
                Err(BackendError::Missing { program, backend })
            }
        };
        let [v4, v6] = [Family::V4, Family::V6];
        Ok(Self {
            backend,
            save: [
                pick(backend.save(v4), "iptables-save")?,
                pick(backend.save(v6), "ip6tables-save")?,
            ],
            restore: [
                pick(backend.restore(v4), "iptables-restore")?,
                pick(backend.restore(v6), "ip6tables-restore")?,
            ],
        })
    }

    /// Those of a back end, by the name that reports give it.
    ///
    /// # Errors
    /// If they are not there.
    pub(super) async fn named(name: &str) -> Result<Self, BackendError> {
        let mut both = Backend::BOTH.into_iter();
        let backend = both.find(|backend| backend.name() == name);
        Self::find(backend.unwrap_or(Backend::Nft), plain().await)
    }

    /// What shows the rules of a family.
    pub(crate) fn save(&self, family: Family) -> &'static str {
        let [v4, v6] = self.save;
        by_family(family, v4, v6)
    }

    /// What writes them.
    pub(crate) fn restore(&self, family: Family) -> &'static str {
        let [v4, v6] = self.restore;
        by_family(family, v4, v6)
    }
}

/// What is on the host: of each back end the listings of both families, IPv4 first.
pub(crate) struct Look {
    pub(crate) found: Found,
    pub(crate) listings: BTreeMap<Backend, [String; 2]>,
}

impl Look {
    /// Reads both back ends; makes no table where there is none.
    ///
    /// # Errors
    /// If a program fails.
    pub(crate) async fn now() -> Result<Self, BackendError> {
        let mut look = Self {
            found: Found {
                plain: plain().await,
                ..Found::default()
            },
            listings: BTreeMap::new(),
        };
        for backend in Backend::BOTH {
            let listings = match Programs::find(backend, look.found.plain) {
                Ok(programs) => listings(&programs).await?,
                // Who has no program to write rules with has none of his own to be seen.
                Err(_) => Default::default(),
            };
            let side = match backend {
                Backend::Nft => &mut look.found.nft,
                Backend::Legacy => &mut look.found.legacy,
            };
            listings.iter().for_each(|listing| side.add(listing));
            look.listings.insert(backend, listings);
        }
        Ok(look)
    }

    /// Decides for a back end.
    ///
    /// # Errors
    /// If others' rules are in both, or the programs are missing.
    pub(crate) fn choose(&self, choice: Choice) -> Result<Programs, BackendError> {
        Programs::find(decide(choice, &self.found)?, self.found.plain)
    }

    /// Whether some chain of ours is there that is not policy's.
    pub(crate) fn has_more_than_policy(&self) -> bool {
        let mut sides = Backend::BOTH
            .map(|backend| self.found.side(backend))
            .into_iter();
        sides.any(|side| side.nat_of_ours || side.guard_of_ours)
    }

    /// The programs of a back end that holds something of ours.
    pub(crate) fn ours_in(&self, backend: Backend) -> Option<Programs> {
        let programs = Programs::find(backend, self.found.plain).ok()?;
        self.found.side(backend).ours.then_some(programs)
    }
}

/// Both families' rules. Where the old tables do not exist, asking for them would make them: nobody asks.
pub(crate) async fn listings(programs: &Programs) -> Result<[String; 2], ExecError> {
    listings_with(programs, &[]).await
}

/// Both back ends' rules with their counters; a back end whose programs are not installed has none.
///
/// # Errors
/// If a program fails.
pub(crate) async fn all_counted() -> Result<BTreeMap<Backend, [String; 2]>, ExecError> {
    let plain = plain().await;
    let mut all = BTreeMap::new();
    for backend in Backend::BOTH {
        if let Ok(programs) = Programs::find(backend, plain) {
            all.insert(backend, counted_listings(&programs).await?);
        }
    }
    Ok(all)
}

/// The same with the rules' counters.
pub(super) async fn counted_listings(programs: &Programs) -> Result<[String; 2], ExecError> {
    listings_with(programs, &["-c"]).await
}

async fn listings_with(programs: &Programs, words: &[&str]) -> Result<[String; 2], ExecError> {
    let of = |family| async move {
        if programs.backend == Backend::Legacy && !has_legacy_tables(family) {
            return Ok(String::new());
        }
        run(programs.save(family), words, None).await
    };
    let (v4, v6) = tokio::try_join!(of(Family::V4), of(Family::V6))?;
    Ok([v4, v6])
}

async fn plain() -> Option<Backend> {
    let version = run("iptables", &["--version"], None).await.ok()?;
    Some(Backend::of_version(&version))
}

fn has_legacy_tables(family: Family) -> bool {
    let path = LEGACY_TABLES.iter().find(|(of, _)| *of == family);
    path.and_then(|(_, path)| fs::read_to_string(path).ok())
        .is_some_and(|names| !names.trim().is_empty())
}

fn by_family<T>(family: Family, v4: T, v6: T) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn is_installed(program: &str) -> bool {
    let Some(path) = env::var_os("PATH") else {
        return false;
    };
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
