//! The capabilities without which the agent could do nothing: said at once, and not by what fails later.

use crate::cli::{AgentArgs, Feature};

/// A capability that nothing goes on without, its bit (linux/capability.h), and what it is for.
struct Needed {
    name: &'static str,
    bit: u32,
    what: &'static str,
}

const NET_ADMIN: Needed = Needed {
    name: "NET_ADMIN",
    bit: 12,
    what: "routes, chains and links cannot be changed",
};

/// `-m set` asks the kernel for a set's number by a raw socket, and legacy iptables does everything by one.
const NET_RAW: Needed = Needed {
    name: "NET_RAW",
    bit: 13,
    what: "iptables cannot match sets",
};

/// Whether this process has the capabilities that the chosen features need. One that only speaks BGP may be a route
/// reflector, which installs nothing: it is warned.
///
/// # Errors
/// One is missing: says which, what for, and what to do.
pub(crate) fn check(args: &AgentArgs) -> anyhow::Result<()> {
    let needed: &[Needed] = match args.has(Feature::Policy) {
        true => &[NET_ADMIN, NET_RAW],
        false => &[NET_ADMIN],
    };
    // Without a status what fails later says it.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match look(needed, &status) {
        Err(missing) if !args.has(Feature::Policy) && !args.has(Feature::Cni) => {
            tracing::warn!("{missing}");
            Ok(())
        }
        looked => looked,
    }
}

fn look(needed: &[Needed], status: &str) -> anyhow::Result<()> {
    let Some(effective) = effective(status) else {
        return Ok(());
    };
    for Needed { name, bit, what } in needed {
        anyhow::ensure!(
            effective & (1 << bit) != 0,
            "this process lacks the capability {name}, and without it {what}: add {name} to \
             securityContext.capabilities of the agent's container, as deploy/kubernetes/daemonset.yaml has it, or start it as root"
        );
    }
    Ok(())
}

/// What of the process's status counts: its effective capabilities as bits.
fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a container's with NET_ADMIN, NET_BIND_SERVICE and NET_RAW has it.
    const CONTAINER: &str =
        "Name:\tportolan\nCapPrm:\t0000000000003400\nCapEff:\t0000000000003400\n";

    #[test]
    fn what_the_daemonset_gives_is_enough() {
        look(&[NET_ADMIN, NET_RAW], CONTAINER).expect("enough");
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_out() {
        for (effective, name) in [
            ("0000000000002400", "NET_ADMIN"),
            ("0000000000001400", "NET_RAW"),
            ("0000000000000000", "NET_ADMIN"),
        ] {
            let status = CONTAINER.replace("0000000000003400", effective);
            let said = look(&[NET_ADMIN, NET_RAW], &status).expect_err(name);
            let said = said.to_string();
            assert!(said.contains(&format!("capability {name}")), "{said}");
            assert!(said.contains("securityContext.capabilities"), "{said}");
        }
        let without_raw = CONTAINER.replace("3400", "1400");
        look(&[NET_ADMIN], &without_raw).expect("it is not needed without policy");
    }

    #[test]
    fn a_status_without_capabilities_says_nothing() {
        look(&[NET_ADMIN], "Name:\tportolan\n").expect("nothing is known");
    }
}
