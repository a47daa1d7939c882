//! Flags that several verbs have, and what is checked of those that take more than a word.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use crate::cli::Output;

/// Where the agent is that a verb asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunDir {
    /// The agent's --run-dir.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/portolan",
        global = true
    )]
    pub(crate) run_dir: PathBuf,
}

/// Flags of a verb that asks the agent and prints what it says.
#[derive(Clone, Debug, Args)]
pub(crate) struct Asking {
    #[command(flatten)]
    pub(crate) at: RunDir,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    pub(crate) output: Output,
}

/// A range of the node's addresses at which node ports answer (semantics 132); a lone address is one of one address.
pub(crate) fn node_port_range(text: &str) -> Result<IpNet, String> {
    let one = |address: IpAddr| IpNet::from(address);
    let range: IpNet = text
        .parse()
        .or_else(|_| text.parse().map(one))
        .map_err(|_| "it should be a range of this node's addresses, as 10.0.0.0/8".to_owned())?;
    let range = range.trunc();
    let is_loopback = range.prefix_len() > 0 && range.addr().is_loopback();
    if is_loopback {
        return Err("node ports never answer at the loopback's addresses: leave it out".to_owned());
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_132_ranges_for_node_ports_are_of_either_family_and_never_the_loopbacks() {
        let is = |text: &str, range: &str| {
            assert_eq!(node_port_range(text), Ok(range.parse().unwrap()), "{text}");
        };
        is("10.71.0.0/16", "10.71.0.0/16");
        is("10.71.1.9/16", "10.71.0.0/16");
        is("192.0.2.1", "192.0.2.1/32");
        is("2001:db8::/32", "2001:db8::/32");
        is("0.0.0.0/0", "0.0.0.0/0");
        for (text, words) in [
            ("primary", "as 10.0.0.0/8"),
            ("10.0.0.0/33", "as 10.0.0.0/8"),
            ("127.0.0.0/8", "loopback"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
        ] {
            let error = node_port_range(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
