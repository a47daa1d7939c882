//! The few switches of /proc/sys that forwarding needs; per-interface ones go by netlink where they can.

use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel has them.
const OWN: &str = "/proc/sys";
/// Where a container that is not privileged has the host's: its own /proc/sys is read-only.
const MOUNTED: &str = "/host/proc/sys";

/// One switch: its name with slashes, and the value it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below /proc/sys.
    pub name: &'static str,
    /// The wanted value.
    pub wanted: &'static str,
}

/// What became of one switch.
#[derive(Debug)]
pub struct SysctlOutcome {
    /// Which switch.
    pub sysctl: Sysctl,
    /// Its value before, if it could be read: what to restore on leaving.
    pub before: Option<String>,
    /// Whether it was changed, or why it could not be.
    pub changed: Result<bool, io::Error>,
}

const FORWARDING_V4: Sysctl = Sysctl {
    name: "net/ipv4/ip_forward",
    wanted: "1",
};
const FORWARDING_V6: Sysctl = Sysctl {
    name: "net/ipv6/conf/all/forwarding",
    wanted: "1",
};

/// Makes the calling thread's network namespace forward packets, and says what it changed or why it couldn't.
///
/// A switch that already has its value is not written.
#[must_use]
pub fn host_sysctls(v4: bool, v6: bool) -> Vec<SysctlOutcome> {
    let families = [(v4, FORWARDING_V4), (v6, FORWARDING_V6)];
    families
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, sysctl)| ensure(sysctl))
        .collect()
}

/// What IPVS needs beside its services, in the calling thread's network namespace: its flows in conntrack, so that their sources
/// can be masqueraded and rules know them; a flow to a destination that was deleted, and a client's tie to one of weight 0,
/// end, so that the next packet goes to another.
#[must_use]
pub fn ipvs_sysctls() -> Vec<SysctlOutcome> {
    let names = [
        "net/ipv4/vs/conntrack",
        "net/ipv4/vs/expire_nodest_conn",
        "net/ipv4/vs/expire_quiescent_template",
    ];
    let wanted = "1";
    names
        .into_iter()
        .map(|name| ensure(Sysctl { name, wanted }))
        .collect()
}

fn ensure(sysctl: Sysctl) -> SysctlOutcome {
    let path = Path::new(OWN).join(sysctl.name);
    match std::fs::read_to_string(&path) {
        Err(error) => SysctlOutcome {
            sysctl,
            before: None,
            changed: Err(error),
        },
        Ok(text) => {
            let before = text.trim().to_owned();
            let changed = if before == sysctl.wanted {
                Ok(false)
            } else {
                write(Path::new(sysctl.name), sysctl.wanted).map(|()| true)
            };
            SysctlOutcome {
                sysctl,
                before: Some(before),
                changed,
            }
        }
    }
}

/// Sets an IPv6 switch of one interface; `interface` must have been checked against the grammar.
pub(crate) fn interface_v6(interface: &str, switch: &str, value: &str) -> io::Result<()> {
    let name = PathBuf::from("net/ipv6/conf").join(interface).join(switch);
    let path = Path::new(OWN).join(&name);
    if std::fs::read_to_string(path)?.trim() == value {
        return Ok(());
    }
    write(&name, value)
}

/// Reads one by its path below /proc/sys.
pub(crate) fn read(name: &Path) -> io::Result<String> {
    std::fs::read_to_string(Path::new(OWN).join(name))
}

/// Writes one by its path below /proc/sys.
pub(crate) fn write(name: &Path, value: &str) -> io::Result<()> {
    match std::fs::write(Path::new(OWN).join(name), value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            // Of the same network namespace: the files show the one of who opens them.
            std::fs::write(Path::new(MOUNTED).join(name), value).map_err(|_| error)
        }
        written => written,
    }
}
