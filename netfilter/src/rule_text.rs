//! The one place that makes text of a rule, and rules of text.
//!
//! The text is what `iptables-save` prints for it, so that read-back and wish compare word by word.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::held::tokens;
use crate::names::{ChainName, Family, InterfaceName, Note, SetName, short_hash};
use crate::ports::PortRange;
use crate::rule::{
    ALL_PACKETS, Action, CtState, InterfaceMatch, Match, Protocol, Rule, SetDirection,
};

/// What starts the comment on each rule of ours.
pub const COMMENT_PREFIX: &str = "ptl:";
const COMMENT_DIGITS: usize = 12;
/// A `--limit-burst` that iptables does not print.
const DEFAULT_BURST: u16 = 5;

impl Rule {
    /// The rule as words after `-A CHAIN`, with the comment that makes it ours.
    pub fn render(&self) -> String {
        let (conditions, action) = (self.render_matches(), self.render_action());
        let hash = short_hash(&[&conditions, &action], COMMENT_DIGITS);
        let note = self
            .note()
            .map_or_else(String::new, |note| format!(" {}", note.as_str()));
        format!("{conditions}-m comment --comment \"{COMMENT_PREFIX}{hash}{note}\" {action}")
    }

    /// Reads what [`Rule::render`] writes or `iptables-save` prints for it. `None` for all else: a rule without our
    /// comment, or with one that is not its own.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_words(&tokens(text)?)
    }

    pub(crate) fn from_words(words: &[Cow<'_, str>]) -> Option<Self> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let rule = Reader::default().rule(&words)?;
        let text = rule.render();
        let rendered = tokens(&text)?;
        let same = rendered.len() == words.len()
            && rendered
                .iter()
                .zip(&words)
                .all(|(ours, word)| Protocol::canonical(ours) == Protocol::canonical(word));
        same.then_some(rule)
    }

    fn render_matches(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for condition in self.matches() {
            let module = self.module(condition);
            // iptables-nft makes one match of several that stand together; so do we.
            if !module.is_empty() && (module != open || !shares_module(condition)) {
                // A String takes every write.
                let _ = write!(text, "-m {module} ");
            }
            let _ = write_match(&mut text, condition, module);
            open = module;
        }
        text
    }

    /// The module that a condition needs; none for what is in the packet's header part.
    fn module(&self, condition: &Match) -> &'static str {
        match condition {
            Match::Source(_)
            | Match::Destination(_)
            | Match::InInterface(_)
            | Match::OutInterface(_)
            | Match::Protocol(_) => "",
            Match::DestinationPorts(ranges) => match self.protocol_name() {
                Some(protocol) if ranges.len() == 1 => protocol,
                _ => "multiport",
            },
            Match::SourcePort(_) => self.protocol_name().unwrap_or("tcp"),
            Match::TcpNotSyn => "tcp",
            Match::Icmpv6Type(_) => "icmp6",
            Match::CtState(_) | Match::CtReply => "conntrack",
            Match::SourceLocal | Match::DestinationLocal => "addrtype",
            Match::Set { .. } => "set",
            Match::Mark { .. } => "mark",
            Match::Limit { .. } => "limit",
            Match::Random(_) => "statistic",
            Match::Recent { .. } => "recent",
        }
    }

    fn protocol_name(&self) -> Option<&'static str> {
        self.matches().iter().find_map(|condition| match condition {
            Match::Protocol(protocol) => Some(protocol.name()),
            _ => None,
        })
    }

    fn render_action(&self) -> String {
        match self.action() {
            Action::Jump(chain) => format!("-j {chain}"),
            Action::Goto(chain) => format!("-g {chain}"),
            Action::Return => "-j RETURN".to_owned(),
            Action::Accept => "-j ACCEPT".to_owned(),
            Action::Drop => "-j DROP".to_owned(),
            Action::Reject(family) => format!("-j REJECT --reject-with {}", unreachable(*family)),
            Action::SetMark { value, mask } => format!("-j MARK --set-xmark {value:#x}/{mask:#x}"),
            Action::Nflog { group: 0, prefix } => format!("-j NFLOG --nflog-prefix {prefix}"),
            Action::Nflog { group, prefix } => {
                format!("-j NFLOG --nflog-prefix {prefix} --nflog-group {group}")
            }
            Action::Nfqueue { queue } => format!("-j NFQUEUE --queue-num {queue} --queue-bypass"),
            Action::Dnat { address, port } => {
                // Its text is iptables' own: brackets around an IPv6 address.
                format!(
                    "-j DNAT --to-destination {}",
                    SocketAddr::new(*address, *port)
                )
            }
            Action::Masquerade => "-j MASQUERADE --random-fully".to_owned(),
        }
    }
}

/// Whether a condition stands behind one `-m` with those of its module before it.
fn shares_module(condition: &Match) -> bool {
    matches!(
        condition,
        Match::DestinationPorts(_) | Match::TcpNotSyn | Match::CtReply | Match::DestinationLocal
    )
}

fn write_match(text: &mut String, condition: &Match, module: &str) -> fmt::Result {
    let not = |negated: &bool| if *negated { "! " } else { "" };
    match condition {
        Match::Source(net) => write!(text, "-s {net} "),
        Match::Destination(net) => write!(text, "-d {net} "),
        Match::InInterface(interface) => write_interface(text, "-i", interface),
        Match::OutInterface(interface) => write_interface(text, "-o", interface),
        Match::Protocol(protocol) => write!(text, "-p {} ", protocol.name()),
        Match::SourcePort(port) => write!(text, "--sport {port} "),
        Match::DestinationPorts(ranges) => {
            let option = if module == "multiport" {
                "dports"
            } else {
                "dport"
            };
            let list: Vec<String> = ranges.iter().map(PortRange::to_string).collect();
            write!(text, "--{option} {} ", list.join(","))
        }
        Match::Icmpv6Type(number) => write!(text, "--icmpv6-type {number} "),
        Match::TcpNotSyn => write!(text, "! --tcp-flags FIN,SYN,RST,ACK SYN "),
        Match::CtState(states) => {
            let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
            write!(text, "--ctstate {} ", names.join(","))
        }
        Match::CtReply => write!(text, "--ctdir REPLY "),
        Match::SourceLocal => write!(text, "--src-type LOCAL "),
        Match::DestinationLocal => write!(text, "--dst-type LOCAL "),
        Match::Set {
            name,
            direction,
            negated,
        } => {
            let direction = direction.name();
            write!(text, "{}--match-set {name} {direction} ", not(negated))
        }
        Match::Mark {
            value,
            mask: u32::MAX,
            negated,
        } => write!(text, "{}--mark {value:#x} ", not(negated)),
        Match::Mark {
            value,
            mask,
            negated,
        } => write!(text, "{}--mark {value:#x}/{mask:#x} ", not(negated)),
        Match::Limit { rate } if *rate == DEFAULT_BURST => write!(text, "--limit {rate}/sec "),
        Match::Limit { rate } => write!(text, "--limit {rate}/sec --limit-burst {rate} "),
        Match::Random(chance) => {
            let part = f64::from(*chance) / f64::from(ALL_PACKETS);
            write!(text, "--mode random --probability {part:.11} ")
        }
        Match::Recent {
            list,
            family,
            seconds,
        } => {
            match seconds {
                Some(seconds) => write!(text, "--rcheck --seconds {seconds} --reap ")?,
                None => text.push_str("--set "),
            }
            write!(
                text,
                "--name {list} --mask {} --rsource ",
                whole_address(*family)
            )
        }
    }
}

/// The message of REJECT that iptables takes where none is asked for.
fn unreachable(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp-port-unreachable",
        Family::V6 => "icmp6-port-unreachable",
    }
}

/// The mask under which every address is another one.
fn whole_address(family: Family) -> &'static str {
    match family {
        Family::V4 => "255.255.255.255",
        Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    }
}

fn write_interface(text: &mut String, option: &str, interface: &InterfaceMatch) -> fmt::Result {
    match interface {
        InterfaceMatch::Exact(name) => write!(text, "{option} {name} "),
        InterfaceMatch::Prefix(name) => write!(text, "{option} {name}+ "),
        InterfaceMatch::NotPrefix(name) => write!(text, "! {option} {name}+ "),
    }
}

/// Reads words loosely; [`Rule::from_words`] then checks that the rule says them all.
#[derive(Default)]
struct Reader {
    matches: Vec<Match>,
    negated: bool,
    note: Option<Note>,
    /// How long a list of source addresses remembers, said before the list's name.
    seconds: Option<u32>,
}

impl Reader {
    fn rule(mut self, words: &[&str]) -> Option<Rule> {
        let mut rest = words;
        loop {
            rest = match rest {
                ["-j" | "-g", ..] => {
                    let rule = Rule::new(self.matches, read_action(rest)?);
                    return Some(match self.note {
                        Some(note) => rule.noted(note),
                        None => rule,
                    });
                }
                ["!", rest @ ..] => {
                    self.negated = true;
                    rest
                }
                ["--comment", comment, rest @ ..] => {
                    self.note = comment.split_once(' ').map(|(_, note)| Note::new(note));
                    rest
                }
                ["--reap" | "--set" | "--rcheck", rest @ ..] => rest,
                ["-m" | "--limit-burst" | "--mode", _, rest @ ..] => rest,
                ["--seconds", seconds, rest @ ..] => {
                    self.seconds = Some(seconds.parse().ok()?);
                    rest
                }
                ["--name", list, "--mask", mask, "--rsource", rest @ ..] => {
                    let recent = Match::Recent {
                        list: ChainName::read(list)?,
                        family: Family::ALL
                            .into_iter()
                            .find(|one| whole_address(*one) == *mask)?,
                        seconds: self.seconds.take(),
                    };
                    self.push(recent, rest)
                }
                ["--tcp-flags", _, _, rest @ ..] => self.push(Match::TcpNotSyn, rest),
                ["--match-set", name, direction, rest @ ..] => {
                    let condition = self.read_set(name, direction)?;
                    self.push(condition, rest)
                }
                [option, value, rest @ ..] => {
                    let condition = self.read_match(option, value)?;
                    self.push(condition, rest)
                }
                _ => return None,
            }
        }
    }

    fn push<'a, 'b>(&mut self, condition: Match, rest: &'a [&'b str]) -> &'a [&'b str] {
        self.negated = false;
        self.matches.push(condition);
        rest
    }

    fn read_match(&self, option: &str, value: &str) -> Option<Match> {
        Some(match option {
            "-s" => Match::Source(value.parse::<IpNet>().ok()?),
            "-d" => Match::Destination(value.parse::<IpNet>().ok()?),
            "-i" => Match::InInterface(self.read_interface(value)?),
            "-o" => Match::OutInterface(self.read_interface(value)?),
            "-p" => Match::Protocol(Protocol::read(value)?),
            "--sport" => Match::SourcePort(value.parse().ok()?),
            "--dport" | "--dports" => {
                let ranges: Option<Vec<_>> = value.split(',').map(PortRange::parse).collect();
                Match::DestinationPorts(ranges?)
            }
            "--icmpv6-type" => Match::Icmpv6Type(value.parse().ok()?),
            "--ctstate" => {
                let states: Option<_> = value.split(',').map(CtState::read).collect();
                Match::CtState(states?)
            }
            "--ctdir" => Match::CtReply,
            "--src-type" => Match::SourceLocal,
            "--dst-type" => Match::DestinationLocal,
            "--probability" => {
                let part = value
                    .parse::<f64>()
                    .ok()
                    .filter(|part| (0.0..=1.0).contains(part))?;
                Match::Random(read_chance(part)?)
            }
            "--limit" => Match::Limit {
                rate: value.strip_suffix("/sec")?.parse().ok()?,
            },
            "--mark" => {
                let (value, mask) = read_masked(value)?;
                Match::Mark {
                    value,
                    mask,
                    negated: self.negated,
                }
            }
            _ => return None,
        })
    }

    fn read_interface(&self, text: &str) -> Option<InterfaceMatch> {
        let name = |text| InterfaceName::new(text).ok();
        match (text.strip_suffix('+'), self.negated) {
            (Some(prefix), false) => Some(InterfaceMatch::Prefix(name(prefix)?)),
            (Some(prefix), true) => Some(InterfaceMatch::NotPrefix(name(prefix)?)),
            (None, _) => Some(InterfaceMatch::Exact(name(text)?)),
        }
    }

    fn read_set(&self, name: &str, direction: &str) -> Option<Match> {
        let name = SetName::read(name)?;
        let direction = match direction {
            "src" => SetDirection::Source,
            "dst" => SetDirection::Destination,
            "src,src" => SetDirection::SourceAndIn,
            "src,dst" => SetDirection::SourceAndOut,
            "dst,dst" if name.is_of_ports() => SetDirection::DestinationAndPort,
            "dst,dst" => SetDirection::DestinationAndOut,
            _ => return None,
        };
        Some(Match::Set {
            name,
            direction,
            negated: self.negated,
        })
    }
}

/// So many of 2^31 packets; a part between 0 and 1.
fn read_chance(part: f64) -> Option<u32> {
    // Exact: a u32 has fewer bits than an f64's fraction, and the text more digits than 2^31 needs.
    format!("{:.0}", part * f64::from(ALL_PACKETS)).parse().ok()
}

/// Reads `0x1/0x3`, or `0x1` under all bits.
fn read_masked(text: &str) -> Option<(u32, u32)> {
    let hexadecimal = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    match text.split_once('/') {
        Some((value, mask)) => Some((hexadecimal(value)?, hexadecimal(mask)?)),
        None => Some((hexadecimal(text)?, u32::MAX)),
    }
}

fn read_action(words: &[&str]) -> Option<Action> {
    Some(match words {
        ["-g", chain] => Action::Goto(ChainName::read(chain)?),
        ["-j", "RETURN"] => Action::Return,
        ["-j", "ACCEPT"] => Action::Accept,
        ["-j", "DROP"] => Action::Drop,
        ["-j", "REJECT", "--reject-with", with] => Action::Reject(
            Family::ALL
                .into_iter()
                .find(|one| unreachable(*one) == *with)?,
        ),
        ["-j", "MARK", "--set-xmark", mark] => {
            let (value, mask) = read_masked(mark)?;
            Action::SetMark { value, mask }
        }
        ["-j", "NFLOG", "--nflog-prefix", prefix, group @ ..] => Action::Nflog {
            prefix: ChainName::read(prefix)?,
            group: match group {
                ["--nflog-group", group] => group.parse().ok()?,
                _ => 0,
            },
        },
        ["-j", "NFQUEUE", "--queue-num", queue, "--queue-bypass"] => Action::Nfqueue {
            queue: queue.parse().ok()?,
        },
        ["-j", "DNAT", "--to-destination", to] => {
            let to: SocketAddr = to.parse().ok()?;
            Action::Dnat {
                address: to.ip(),
                port: to.port(),
            }
        }
        ["-j", "MASQUERADE", "--random-fully"] => Action::Masquerade,
        ["-j", chain] => Action::Jump(ChainName::read(chain)?),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
