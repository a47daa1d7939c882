//! Which of the two iptables back ends the host uses: decided from what is found in both, and a mix is refused.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use netfilter::Family;
use services::tunnel_guard;

/// Chains by which kubelet says which back end others are to use (Kubernetes 1.17 and later).
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
/// How many chains a message names.
const NAMED: usize = 4;

/// What `--iptables` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The one that kubelet's hint, others' rules, or `iptables` itself point to.
    #[default]
    Auto,
    /// nftables behind the words of iptables.
    Nft,
    /// The old tables of the kernel.
    Legacy,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    pub(crate) const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    /// As `--iptables` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// The program that shows its rules.
    pub(crate) fn save(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Nft, Family::V4) => "iptables-nft-save",
            (Self::Nft, Family::V6) => "ip6tables-nft-save",
            (Self::Legacy, Family::V4) => "iptables-legacy-save",
            (Self::Legacy, Family::V6) => "ip6tables-legacy-save",
        }
    }

    /// The program that writes them.
    pub(crate) fn restore(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Nft, Family::V4) => "iptables-nft-restore",
            (Self::Nft, Family::V6) => "ip6tables-nft-restore",
            (Self::Legacy, Family::V4) => "iptables-legacy-restore",
            (Self::Legacy, Family::V6) => "ip6tables-legacy-restore",
        }
    }

    /// What a program's `--version` says; versions before 1.8 know no other than the old tables.
    pub(crate) fn of_version(text: &str) -> Self {
        if text.contains("nf_tables") {
            Self::Nft
        } else {
            Self::Legacy
        }
    }
}

/// What one back end holds, of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Side {
    /// Kubelet's chains are there.
    hint: bool,
    /// How many rules of others (or policies that drop) there are, by table and chain.
    others: BTreeMap<String, usize>,
    /// Rules or chains of ours are there.
    pub(crate) ours: bool,
    /// Chains of ours are in the nat table.
    pub(crate) nat_of_ours: bool,
    /// The chain that keeps strangers out of tunnels is there.
    pub(crate) guard_of_ours: bool,
}

impl Side {
    /// Counts what a listing of `iptables-save` holds.
    pub(crate) fn add(&mut self, listing: &str) {
        let mut table = "";
        for line in listing.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                self.chain(table, chain);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                self.rule(table, rule);
            }
        }
    }

    fn chain(&mut self, table: &str, line: &str) {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let is_ours = name.starts_with(netfilter::CHAIN_PREFIX);
        self.ours |= is_ours;
        self.nat_of_ours |= is_ours && table == "nat";
        self.guard_of_ours |= name == tunnel_guard::chain_name().as_str();
        self.hint |= table == "mangle" && HINTS.contains(&name);
        if words.next() == Some("DROP") {
            self.count(table, name);
        }
    }

    fn rule(&mut self, table: &str, rule: &str) {
        let mut words = rule.split(' ');
        let chain = words.next().unwrap_or_default();
        let jumps_to_ours = || {
            let mut words = rule.split(' ');
            let is_jump = |word: &str| matches!(word, "-j" | "-g");
            let target = words.find(|word| is_jump(word)).and(words.next());
            target.is_some_and(|name| name.starts_with(netfilter::CHAIN_PREFIX))
        };
        let comment = format!("--comment {}", netfilter::COMMENT_PREFIX);
        let quoted = format!("--comment \"{}", netfilter::COMMENT_PREFIX);
        if chain.starts_with(netfilter::CHAIN_PREFIX)
            || jumps_to_ours()
            || rule.contains(&comment)
            || rule.contains(&quoted)
        {
            self.ours = true;
            // Chains that serve Services have others' names: our comment tells them.
            self.nat_of_ours |= table == "nat";
        } else {
            self.count(table, chain);
        }
    }

    fn count(&mut self, table: &str, chain: &str) {
        *self.others.entry(format!("{table} {chain}")).or_default() += 1;
    }

    /// Whether others work with it.
    fn is_used(&self) -> bool {
        self.hint || !self.others.is_empty()
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.others.is_empty() {
            return f.write_str("kubelet's hint and no rules");
        }
        let rules: usize = self.others.values().sum();
        let named: Vec<&str> = self.others.keys().take(NAMED).map(String::as_str).collect();
        write!(f, "{rules} rules in {}", named.join(", "))?;
        match self.others.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} further chains"),
        }
    }
}

/// What was found on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) nft: Side,
    pub(crate) legacy: Side,
    /// What the program `iptables` itself works with.
    pub(crate) plain: Option<Backend>,
}

impl Found {
    pub(crate) fn side(&self, backend: Backend) -> &Side {
        match backend {
            Backend::Nft => &self.nft,
            Backend::Legacy => &self.legacy,
        }
    }
}

/// Others' rules are in both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rules of others are in both iptables back ends: nft has {nft}; legacy has {legacy}. Every packet passes both, so \
     nothing is written until this is decided: remove those of one (`iptables-nft-save` and `iptables-legacy-save` \
     show them, for IPv6 `ip6tables-…`), or start the agent with --iptables nft or --iptables legacy"
)]
pub(crate) struct Mix {
    nft: Side,
    legacy: Side,
}

/// Says which back end to write to.
///
/// # Errors
/// If others' rules are in both and nobody has decided.
pub(crate) fn decide(choice: Choice, found: &Found) -> Result<Backend, Mix> {
    match (choice, found.nft.is_used(), found.legacy.is_used()) {
        (Choice::Nft, ..) | (Choice::Auto, true, false) => Ok(Backend::Nft),
        (Choice::Legacy, ..) | (Choice::Auto, false, true) => Ok(Backend::Legacy),
        (Choice::Auto, false, false) => Ok(found.plain.unwrap_or(Backend::Nft)),
        (Choice::Auto, true, true) => Err(Mix {
            nft: found.nft.clone(),
            legacy: found.legacy.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "*filter\n:FORWARD ACCEPT [0:0]\n:PTL-FORWARD - [0:0]\n-A FORWARD -m comment --comment ptl:0a -j PTL-FORWARD\n\
        -A FORWARD -m comment --comment \"ptl:0b\" -j ACCEPT\n-A PTL-FORWARD -j RETURN\nCOMMIT\n";
    const PROXY: &str = "*filter\n:FORWARD ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
        -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";
    const HINT: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
    const DOCKER: &str = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n";

    fn side(listings: &[&str]) -> Side {
        let mut side = Side::default();
        listings.iter().for_each(|text| side.add(text));
        side
    }

    fn found(nft: &[&str], legacy: &[&str], plain: Backend) -> Found {
        Found {
            nft: side(nft),
            legacy: side(legacy),
            plain: Some(plain),
        }
    }

    #[test]
    fn where_others_rules_or_kubelets_hint_are_ours_go() {
        let auto = |found: &Found| decide(Choice::Auto, found);
        for theirs in [PROXY, HINT, DOCKER] {
            let nft = found(&[theirs], &[], Backend::Legacy);
            let legacy = found(&[OURS], &[theirs], Backend::Nft);
            assert_eq!(auto(&nft), Ok(Backend::Nft), "{theirs}");
            assert_eq!(auto(&legacy), Ok(Backend::Legacy), "{theirs}");
        }
    }

    #[test]
    fn with_nobody_there_the_program_iptables_decides() {
        for plain in Backend::BOTH {
            let empty = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
            let none = found(&[OURS], &[empty], plain);
            assert_eq!(decide(Choice::Auto, &none), Ok(plain));
        }
    }

    #[test]
    fn a_mix_is_refused_by_name_unless_the_flag_decides() {
        let mix = found(&[PROXY, OURS], &[DOCKER], Backend::Nft);
        let text = decide(Choice::Auto, &mix).unwrap_err().to_string();
        for part in [
            "nft has 2 rules in filter FORWARD, filter KUBE-FORWARD",
            "legacy has 1 rules in filter FORWARD",
            "--iptables nft",
            "iptables-legacy-save",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("PTL-"), "{text}");
        assert_eq!(decide(Choice::Nft, &mix), Ok(Backend::Nft));
        assert_eq!(decide(Choice::Legacy, &mix), Ok(Backend::Legacy));
    }

    #[test]
    fn ours_are_known_in_both_spellings_and_are_no_others() {
        let side = side(&[OURS]);
        assert!(side.ours && !side.is_used(), "{side:?}");
    }

    #[test]
    fn a_version_names_its_back_end() {
        let nft = Backend::of_version("iptables v1.8.9 (nf_tables)");
        assert_eq!(nft, Backend::Nft);
        for text in ["iptables v1.8.9 (legacy)", "iptables v1.6.1"] {
            assert_eq!(Backend::of_version(text), Backend::Legacy);
        }
    }

    #[test]
    fn chains_of_services_that_bear_our_comment_are_no_others_use() {
        let ours = "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.96.0.1/32 -m comment --comment \"ptl:0a shop/web cluster IP\" -j KUBE-SVC-A\n\
            -A PREROUTING -m comment --comment ptl:0b -j KUBE-SERVICES\nCOMMIT\n";
        let mut side = Side::default();
        side.add(ours);
        assert!(side.ours && side.nat_of_ours && !side.is_used(), "{side:?}");
        side.add(PROXY);
        assert!(side.is_used());
    }
}
