//! The pod's network namespace: opened and checked, entered for its sysctls and for a netlink socket in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use cni_spec::{CniError, ErrorCode};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

const OWN: &str = "/proc/thread-self/ns/net";

/// What a pod's interfaces are to find: IPv6 on, addresses good at once (nobody else can have them), and no router
/// advertisements believed, since the agent sets addresses and routes.
const SYSCTLS: [(&str, &str); 5] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    home: File,
    path: String,
    own: bool,
}

impl Netns {
    /// Opens the namespace at a path; the plugin's own (the host's) only if `may_be_own`.
    pub(crate) fn open(path: &str, may_be_own: bool) -> Result<Self, CniError> {
        let file = File::open(path).map_err(|error| invalid(path, &error.to_string()))?;
        let identity = |of: &fs::Metadata| (of.dev(), of.ino());
        let pod = file
            .metadata()
            .map_err(|error| invalid(path, &error.to_string()))?;
        let home = File::open(OWN).map_err(|error| invalid(OWN, &error.to_string()))?;
        let host = home
            .metadata()
            .map_err(|error| invalid(OWN, &error.to_string()))?;
        let own = identity(&pod) == identity(&host);
        if own && !may_be_own {
            return Err(invalid(
                path,
                "it is the plugin's own; if that is meant, set CNI_NETNS_OVERRIDE=1",
            ));
        }
        Ok(Self {
            file,
            home,
            path: path.to_owned(),
            own,
        })
    }

    /// Whether it is the one the plugin was started in.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// Does something inside the namespace, and comes back: an IPAM plugin belongs on the host.
    ///
    /// # Errors
    /// That of `work`, or that it is no network namespace (code 8).
    pub(crate) fn within<T>(
        &self,
        work: impl FnOnce() -> Result<T, CniError>,
    ) -> Result<T, CniError> {
        enter(&self.file, &self.path)?;
        let done = work();
        enter(&self.home, OWN)?;
        done
    }
}

fn enter(file: &File, path: &str) -> Result<(), CniError> {
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EINVAL => invalid(path, "it is not a network namespace"),
        other => invalid(path, &other.to_string()),
    })
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Sets what a pod's interfaces are to find, in the namespace this process is in.
pub(crate) fn set_sysctls() -> Result<(), CniError> {
    SYSCTLS.iter().try_for_each(|(name, value)| {
        let path = format!("/proc/sys/{name}");
        let set = match fs::read_to_string(&path) {
            Ok(present) if present.trim_end() == *value => Ok(()),
            Ok(_) => fs::write(&path, value),
            // A kernel without IPv6 has none of them, and needs none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        set.map_err(|error| {
            CniError::new(ErrorCode::Io, "cannot prepare the pod's network namespace")
                .details(format!("setting {path} to {value}: {error}"))
        })
    })
}

/// Fails if the namespace this process is in has such an interface.
pub(crate) fn refuse_interface(name: &str) -> Result<(), CniError> {
    match if_nametoindex(name) {
        Ok(_) => Err(CniError::interface_exists(name)),
        Err(_) => Ok(()),
    }
}

/// A netlink socket that stays in the namespace this process is in, whoever holds it.
pub(crate) fn netlink_socket() -> Result<OwnedFd, CniError> {
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(|errno| {
        CniError::new(ErrorCode::Io, "cannot make a netlink socket").details(errno.to_string())
    })
}

fn invalid(path: &str, why: &str) -> CniError {
    CniError::new(ErrorCode::InvalidNetns, "invalid network namespace")
        .details(format!("{path}: {why}"))
}
