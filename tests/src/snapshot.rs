//! What the kernel and the process table hold, so that before and after can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::netns::Netns;

/// The sysctls an agent or a lab might change.
const SYSCTLS: [&str; 8] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/conf/all/proxy_arp",
    "net/ipv4/conf/all/arp_ignore",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
];

/// One state of a namespace; each part is text, sorted where the kernel's order means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<String, String>,
}

/// One command whose answer is part of a snapshot.
const COMMANDS: [(&str, &[&str]); 11] = [
    ("links", &["ip", "-o", "link", "show"]),
    ("addresses", &["ip", "-o", "addr", "show"]),
    ("routes", &["ip", "route", "show", "table", "all"]),
    ("routes6", &["ip", "-6", "route", "show", "table", "all"]),
    ("rules", &["ip", "rule", "show"]),
    ("rules6", &["ip", "-6", "rule", "show"]),
    ("iptables", &["iptables-save"]),
    ("ip6tables", &["ip6tables-save"]),
    ("iptables-legacy", &["iptables-legacy-save"]),
    ("ip6tables-legacy", &["ip6tables-legacy-save"]),
    ("sets", &["ipset", "save"]),
];

impl Snapshot {
    /// Of the namespace this process is in.
    #[must_use]
    pub fn of_host() -> Self {
        Self::take(|program| Command::new(program))
    }

    /// Of a namespace of the lab.
    #[must_use]
    pub fn of(netns: &Netns) -> Self {
        Self::take(|program| netns.command(program))
    }

    fn take(command: impl Fn(&str) -> Command) -> Self {
        let mut parts = BTreeMap::new();
        for (part, words) in COMMANDS {
            let Some((program, args)) = words.split_first() else {
                continue;
            };
            let output = command(program).args(args).output();
            let text = output.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            );
            parts.insert(part.to_owned(), normalize(part, &text));
        }
        for name in SYSCTLS {
            let output = command("cat")
                .arg(Path::new("/proc/sys").join(name))
                .output();
            let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
            parts.insert(name.replace('/', "."), text.unwrap_or_default());
        }
        Self { parts }
    }

    /// One part as text; empty if there is none of that name.
    #[must_use]
    pub fn part(&self, name: &str) -> &str {
        self.parts.get(name).map_or("", String::as_str)
    }

    /// What differs, a line each with `-` for this one's and `+` for the later one's; empty if nothing does.
    #[must_use]
    pub fn difference(&self, later: &Self) -> String {
        let mut text = String::new();
        for (part, before) in &self.parts {
            let after = later.part(part);
            for line in before
                .lines()
                .filter(|line| !after.lines().any(|l| l == *line))
            {
                let _ = writeln!(text, "{part}: - {line}");
            }
            for line in after
                .lines()
                .filter(|line| !before.lines().any(|l| l == *line))
            {
                let _ = writeln!(text, "{part}: + {line}");
            }
        }
        text
    }
}

/// Takes out what changes by itself (counters, lifetimes, duplicate address detection, a set's random seed, comments with a date) and sorts what has no
/// order. The order of rules means something and stays.
fn normalize(part: &str, text: &str) -> String {
    let ordered = part.contains("tables");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut lines: Vec<String> = lines.map(|line| strip(line, ordered)).collect();
    if ordered {
        // iptables-nft makes base chains and whole tables as soon as somebody looks.
        lines.retain(|line| !is_empty_base(line));
    } else {
        // The kernel adds these by itself when duplicate address detection ends; the addresses are compared.
        lines.retain(|line| {
            !(line.contains(" fe80::") && line.contains(" table local proto kernel "))
        });
        lines.sort_unstable();
    }
    lines.join("\n")
}

fn strip(line: &str, is_rules: bool) -> String {
    let cut = |text: &str| text.split(" [").next().unwrap_or_default().to_owned();
    if is_rules && line.starts_with(':') {
        return cut(line);
    }
    let mut words = Vec::new();
    let mut skip = false;
    for word in line.split_whitespace() {
        if std::mem::take(&mut skip) {
            continue;
        }
        if matches!(word, "expires" | "valid_lft" | "preferred_lft" | "initval") {
            skip = true;
            continue;
        }
        if word != "tentative" {
            words.push(word);
        }
    }
    words.join(" ")
}

fn is_empty_base(line: &str) -> bool {
    let is_policy = line.starts_with(':') && line.ends_with(" ACCEPT");
    line == "COMMIT" || line.starts_with('*') || is_policy
}

/// The namespaces by name.
#[must_use]
pub fn namespaces() -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let first = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    first.map(str::to_owned).collect()
}

/// The processes that carry the mark of the lab that process `owner` made, as `pid: command line`.
#[must_use]
pub fn marked_processes(owner: u32) -> Vec<String> {
    let wanted = format!("{}={owner}", crate::process::MARK);
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let dir = entry.path();
        let environ = std::fs::read(dir.join("environ")).unwrap_or_default();
        if environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == wanted.as_bytes())
        {
            let line = std::fs::read(dir.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push(format!("{}: {line}", entry.file_name().to_string_lossy()));
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_dates_make_no_difference() {
        let one =
            "# Generated on Monday\n*filter\n:FORWARD DROP [1:60]\n-A FORWARD -j ACCEPT\nCOMMIT\n";
        let two =
            "# Generated on Tuesday\n*filter\n:FORWARD DROP [9:99]\n-A FORWARD -j ACCEPT\nCOMMIT\n";
        assert_eq!(normalize("iptables", one), normalize("iptables", two));
    }

    #[test]
    fn the_order_of_rules_makes_a_difference_and_that_of_routes_does_not() {
        assert_ne!(
            normalize("iptables", "-A F a\n-A F b"),
            normalize("iptables", "-A F b\n-A F a")
        );
        assert_eq!(normalize("routes", "a\nb"), normalize("routes", "b\na"));
    }
}
