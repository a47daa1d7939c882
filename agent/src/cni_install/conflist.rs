//! The text of our network configuration list, and whose a file of the folder is; pure.

use std::path::Path;

use anyhow::{Context, ensure};
use cni_spec::config::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};
use cni_spec::{CniVersion, NetworkConfig};
use serde_json::{Map, Value, json};

/// The plugin's binary, and `type` in a configuration.
pub(super) const PLUGIN: &str = "portolan-cni";
/// The network's name.
pub(super) const NETWORK: &str = "portolan";
/// What the runtime may pass to the plugin; it passes nothing that is not asked for.
const CAPABILITIES: [&str; 7] = [
    "bandwidth",
    "dns",
    "io.kubernetes.cri.pod-annotations",
    "ipRanges",
    "ips",
    "mac",
    "portMappings",
];

/// Which `cniVersion` the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 1.0.0 for those that know no better, and 1.1.0 in `cniVersions`, where those that know it look.
    Auto,
    /// This one.
    Only(CniVersion),
}

/// What the configuration holds.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) version: Version,
    /// The agent's socket, absolute.
    pub(super) socket: &'a str,
    /// The agent's state folder, absolute.
    pub(super) state_dir: &'a str,
    /// Plugins behind ours, each an object with a `type`.
    pub(super) chain: &'a [Value],
}

impl Wanted<'_> {
    /// Writes the configuration; the same bytes for the same wishes.
    ///
    /// # Errors
    /// If the plugin could not read its part of it.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        let mut ours = Map::new();
        ours.insert("type".to_owned(), json!(PLUGIN));
        let capabilities = CAPABILITIES
            .iter()
            .map(|name| ((*name).to_owned(), true.into()));
        ours.insert(
            "capabilities".to_owned(),
            Value::Object(capabilities.collect()),
        );
        ours.insert("socket".to_owned(), json!(self.socket));
        if self.state_dir != DEFAULT_STATE_DIR {
            ours.insert("stateDir".to_owned(), json!(self.state_dir));
        }
        let (version, versions) = match self.version {
            Version::Auto => (CniVersion::V1_0_0, Some(["1.0.0", "1.1.0"])),
            Version::Only(version) => (version, None),
        };
        self.check(&ours, version)?;
        let mut list = Map::new();
        list.insert("cniVersion".to_owned(), json!(version));
        if let Some(versions) = versions {
            list.insert("cniVersions".to_owned(), json!(versions));
        }
        list.insert("name".to_owned(), json!(NETWORK));
        let mut plugins = vec![Value::Object(ours)];
        plugins.extend(self.chain.iter().cloned());
        list.insert("plugins".to_owned(), Value::Array(plugins));
        let text = serde_json::to_string_pretty(&Value::Object(list))? + "\n";
        match judge(Path::new("new.conflist"), text.as_bytes()) {
            Owner::Ours => Ok(text),
            Owner::Other(_) | Owner::Invalid(_) => anyhow::bail!("what was written is not ours"),
        }
    }

    /// The plugin gets its entry with the list's version and name put in.
    fn check(&self, ours: &Map<String, Value>, version: CniVersion) -> anyhow::Result<()> {
        let mut given = ours.clone();
        given.insert("cniVersion".to_owned(), json!(version));
        given.insert("name".to_owned(), json!(NETWORK));
        let read = NetworkConfig::parse(Value::Object(given).to_string().as_bytes())
            .context("the configuration would not be understood")?;
        ensure!(
            read.socket == self.socket && read.state_dir == self.state_dir,
            "the configuration would be understood otherwise: socket {DEFAULT_SOCKET}?"
        );
        Ok(())
    }
}

/// Reads `--chain`: one plugin's object, or a list of them.
///
/// # Errors
/// If it is neither, or one has no `type`.
pub(super) fn chain(bytes: &[u8]) -> anyhow::Result<Vec<Value>> {
    let plugins = match serde_json::from_slice(bytes).context("it is not JSON")? {
        Value::Array(plugins) => plugins,
        one @ Value::Object(_) => vec![one],
        _ => anyhow::bail!("it should be a plugin's object, or a list of them"),
    };
    for plugin in &plugins {
        let name = plugin_type(plugin).context("each plugin needs a `type`")?;
        ensure!(name != PLUGIN, "{PLUGIN} comes first already");
        ensure!(!name.contains('/'), "the type {name:?} is no file name");
    }
    Ok(plugins)
}

/// Whose a file of the folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Our network, with our plugin first.
    Ours,
    /// A network of this name.
    Other(String),
    /// No runtime can read it.
    Invalid(String),
}

/// Judges a file by its name's ending and what it holds, as libcni reads it.
pub(super) fn judge(path: &Path, bytes: &[u8]) -> Owner {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Owner::Invalid(format!("it is not JSON: {error}")),
    };
    let invalid = |why: &str| Owner::Invalid(why.to_owned());
    let is_list = path.extension().is_some_and(|ending| ending == "conflist");
    let first = if is_list {
        let plugins = value.get("plugins").and_then(Value::as_array);
        let Some(first) = plugins.and_then(|plugins| plugins.first()) else {
            return invalid("it has no `plugins`");
        };
        first
    } else {
        &value
    };
    let name = value
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match plugin_type(first) {
        None => invalid("its first plugin has no `type`"),
        Some(_) if is_list && name.is_empty() => invalid("it has no `name`"),
        Some(PLUGIN) if name == NETWORK => Owner::Ours,
        Some(_) => Owner::Other(name.to_owned()),
    }
}

/// A plugin's `type`, if it is a name.
pub(super) fn plugin_type(plugin: &Value) -> Option<&str> {
    plugin
        .get("type")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(version: Version, chain: &[Value]) -> Value {
        let wanted = Wanted {
            version,
            socket: DEFAULT_SOCKET,
            state_dir: DEFAULT_STATE_DIR,
            chain,
        };
        serde_json::from_str(&wanted.text().unwrap()).unwrap()
    }

    #[test]
    fn the_configuration_names_both_versions_and_every_capability() {
        let list = wanted(Version::Auto, &[]);
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["cniVersions"], json!(["1.0.0", "1.1.0"]));
        assert_eq!(list["name"], "portolan");
        let plugin = &list["plugins"][0];
        assert_eq!(plugin["type"], "portolan-cni");
        assert_eq!(plugin["socket"], "/run/portolan/cni.sock");
        assert_eq!(plugin.get("stateDir"), None);
        for name in CAPABILITIES {
            assert_eq!(plugin["capabilities"][name], true, "{name}");
        }
    }

    #[test]
    fn a_version_that_is_asked_for_stands_alone() {
        let list = wanted(Version::Only(CniVersion::V0_4_0), &[]);
        assert_eq!(list["cniVersion"], "0.4.0");
        assert_eq!(list.get("cniVersions"), None);
    }

    #[test]
    fn further_plugins_come_behind_ours() {
        let chain = chain(br#"[{"type":"tuning","sysctl":{}},{"type":"portmap"}]"#).unwrap();
        let list = wanted(Version::Auto, &chain);
        let types: Vec<_> = list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["type"])
            .collect();
        assert_eq!(types, ["portolan-cni", "tuning", "portmap"]);
    }

    #[test]
    fn a_chain_that_no_runtime_could_call_is_refused() {
        for bad in [
            "[",
            "3",
            "[{}]",
            r#"[{"type":""}]"#,
            r#"{"type":"portolan-cni"}"#,
            r#"{"type":"../x"}"#,
        ] {
            assert!(chain(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_that_is_not_absolute_is_refused_by_name() {
        let wanted = Wanted {
            version: Version::Auto,
            socket: "run/cni.sock",
            state_dir: DEFAULT_STATE_DIR,
            chain: &[],
        };
        let error = format!("{:#}", wanted.text().unwrap_err());
        assert!(error.contains("socket"), "{error}");
    }

    #[test]
    fn files_are_judged_as_libcni_reads_them() {
        let cases = [
            (
                "a.conflist",
                r#"{"name":"portolan","plugins":[{"type":"portolan-cni"}]}"#,
                Owner::Ours,
            ),
            (
                "a.conf",
                r#"{"name":"portolan","type":"portolan-cni"}"#,
                Owner::Ours,
            ),
            (
                "a.conflist",
                r#"{"name":"other","plugins":[{"type":"portolan-cni"}]}"#,
                Owner::Other("other".to_owned()),
            ),
            (
                "a.conflist",
                r#"{"name":"portolan","plugins":[{"type":"x"},{"type":"portolan-cni"}]}"#,
                Owner::Other("portolan".to_owned()),
            ),
            (
                "a.json",
                r#"{"name":"b","type":"bridge"}"#,
                Owner::Other("b".to_owned()),
            ),
        ];
        for (name, text, owner) in cases {
            assert_eq!(judge(Path::new(name), text.as_bytes()), owner, "{text}");
        }
        for (name, text) in [
            ("a.conflist", ""),
            ("a.conflist", "{\"name\":"),
            ("a.conflist", r#"{"name":"b","type":"bridge"}"#),
            ("a.conflist", r#"{"plugins":[{"type":"bridge"}]}"#),
            ("a.conflist", r#"{"name":"b","plugins":[]}"#),
            ("a.conf", r#"{"name":"b","plugins":[{"type":"bridge"}]}"#),
        ] {
            let owner = judge(Path::new(name), text.as_bytes());
            assert!(
                matches!(owner, Owner::Invalid(_)),
                "{name} {text}: {owner:?}"
            );
        }
    }
}
