//! What the runtime says in environment variables, checked before anything is done.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CniError, ErrorCode, capabilities, grammar};

/// `CNI_ARGS` key: the pod's namespace.
pub const ARG_POD_NAMESPACE: &str = "K8S_POD_NAMESPACE";
/// `CNI_ARGS` key: the pod's name.
pub const ARG_POD_NAME: &str = "K8S_POD_NAME";
/// `CNI_ARGS` key: the pod's UID.
pub const ARG_POD_UID: &str = "K8S_POD_UID";
/// `CNI_ARGS` key: the sandbox container's ID.
pub const ARG_POD_INFRA_CONTAINER_ID: &str = "K8S_POD_INFRA_CONTAINER_ID";
/// `CNI_ARGS` key of before capabilities: addresses asked for, with commas between.
pub const ARG_IP: &str = "IP";
/// `CNI_ARGS` key of before capabilities: the hardware address asked for.
pub const ARG_MAC: &str = "MAC";

const ARG_IGNORE_UNKNOWN: &str = "IgnoreUnknown";

/// A verb that is done for a configuration; VERSION is answered from the plugin alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// See whether it still is as ADD left it.
    Check,
    /// Detach all but the attachments named.
    Gc,
    /// Say whether ADD would work.
    Status,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        })
    }
}

/// What the runtime wants of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Environment {
    /// No `CNI_COMMAND`: a person started the plugin by hand.
    NoCommand,
    /// VERSION, which needs nothing else.
    Version,
    /// One of the other verbs.
    Invocation(Invocation),
}

/// A verb and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The verb.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for GC and STATUS.
    pub container_id: String,
    /// `CNI_NETNS`; never `None` for ADD and CHECK.
    pub netns: Option<String>,
    /// `CNI_IFNAME`; empty for GC and STATUS.
    pub interface: String,
    /// The keys of `CNI_ARGS` that we know and that are not empty.
    pub args: BTreeMap<String, String>,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the plugin's own.
    pub netns_override: bool,
}

impl Environment {
    /// Reads the variables of a process, those that are not CNI's among them.
    ///
    /// # Errors
    /// If one is missing or malformed (code 4). DEL minds neither a missing namespace nor `CNI_ARGS`.
    pub fn parse(variables: &BTreeMap<String, String>) -> Result<Self, CniError> {
        let get = |name: &str| variables.get(name).map_or("", String::as_str);
        let command = match get("CNI_COMMAND") {
            "" => return Ok(Self::NoCommand),
            "VERSION" => return Ok(Self::Version),
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            other => return Err(invalid(format!("unknown CNI_COMMAND {other:?}"))),
        };
        let missing: Vec<&str> = required(command)
            .iter()
            .copied()
            .filter(|name| get(name).is_empty())
            .collect();
        if !missing.is_empty() {
            let msg = "required env variables missing";
            return Err(invalid(msg).details(format!("{command} needs {}", missing.join(", "))));
        }
        let attaching = matches!(command, Command::Add | Command::Del | Command::Check);
        let word = |name: &str| {
            if attaching {
                get(name).to_owned()
            } else {
                String::new()
            }
        };
        let invocation = Invocation {
            command,
            container_id: word("CNI_CONTAINERID"),
            netns: Some(word("CNI_NETNS")).filter(|path| !path.is_empty()),
            interface: word("CNI_IFNAME"),
            args: match parse_args(&word("CNI_ARGS")) {
                // What a DEL is about the container ID says: it must not fail for the rest.
                Err(_) if command == Command::Del => BTreeMap::new(),
                parsed => parsed?,
            },
            netns_override: truth(get("CNI_NETNS_OVERRIDE")).unwrap_or(false),
        };
        check_names(command, &invocation.container_id, &invocation.interface)?;
        Ok(Self::Invocation(invocation))
    }
}

/// Checks the container ID and interface name of a verb that is about an attachment.
pub(crate) fn check_names(
    command: Command,
    container_id: &str,
    interface: &str,
) -> Result<(), CniError> {
    if matches!(command, Command::Gc | Command::Status) {
        return Ok(());
    }
    if !grammar::is_identifier(container_id) {
        return Err(invalid("invalid CNI_CONTAINERID").details(format!(
            "{container_id:?} is not of [a-zA-Z0-9][a-zA-Z0-9_.-]*"
        )));
    }
    if !grammar::is_interface_name(interface) {
        return Err(invalid("invalid CNI_IFNAME").details(format!(
            "{interface:?} is not an interface name: 1 to 15 bytes, not . or .., without / : % and spaces"
        )));
    }
    Ok(())
}

/// Checks one known argument by what it names.
pub(crate) fn check_arg(key: &str, value: &str) -> Result<(), CniError> {
    let good = match key {
        ARG_POD_NAMESPACE => grammar::is_dns_label(value),
        ARG_POD_NAME => grammar::is_dns_subdomain(value),
        ARG_POD_UID | ARG_POD_INFRA_CONTAINER_ID => grammar::is_identifier(value),
        ARG_IP => value
            .split(',')
            .all(|ip| capabilities::address(ip.trim()).is_some()),
        ARG_MAC => capabilities::mac(value).is_some(),
        _ => {
            return Err(invalid("unknown key in CNI_ARGS")
                .details(format!("{key:?}: set IgnoreUnknown=1 to have it ignored")));
        }
    };
    if good {
        return Ok(());
    }
    Err(invalid("invalid value in CNI_ARGS").details(format!("{key} cannot be {value:?}")))
}

fn required(command: Command) -> &'static [&'static str] {
    match command {
        Command::Add | Command::Check => {
            &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
        }
        Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
        Command::Gc | Command::Status => &["CNI_PATH"],
    }
}

fn parse_args(text: &str) -> Result<BTreeMap<String, String>, CniError> {
    let mut pairs = Vec::new();
    let mut ignore_unknown = false;
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            invalid("invalid CNI_ARGS").details(format!("{pair:?} is not of the form KEY=VALUE"))
        })?;
        if key == ARG_IGNORE_UNKNOWN {
            ignore_unknown = truth(value).ok_or_else(|| {
                invalid("invalid CNI_ARGS").details(format!("IgnoreUnknown cannot be {value:?}"))
            })?;
        } else {
            pairs.push((key, value));
        }
    }
    let known = [
        ARG_POD_NAMESPACE,
        ARG_POD_NAME,
        ARG_POD_UID,
        ARG_POD_INFRA_CONTAINER_ID,
        ARG_IP,
        ARG_MAC,
    ];
    let mut args = BTreeMap::new();
    for (key, value) in pairs {
        let ignored = ignore_unknown && !known.contains(&key);
        let unsaid = value.is_empty() && known.contains(&key);
        if !ignored && !unsaid {
            check_arg(key, value)?;
            args.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(args)
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        word if word.eq_ignore_ascii_case("true") => Some(true),
        word if word.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(ErrorCode::InvalidEnvironment, msg)
}
