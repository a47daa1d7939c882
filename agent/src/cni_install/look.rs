//! What a container runtime finds, for `portolan doctor`: whose configuration comes first, and whether the plugin is the release's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cni_spec::NetworkConfig;
use serde_json::Value;

use super::check;
use super::conflist::{Owner, PLUGIN, Version};
use super::folder::Folder;

/// Whose the first configuration of a folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The folder holds none, or is not there.
    None,
    /// Ours: the file, and the socket that it names.
    Ours { file: PathBuf, socket: String },
    /// A network of this name.
    Other { file: PathBuf, network: String },
    /// No runtime can read it.
    Invalid { file: PathBuf, why: String },
}

/// Reads the folder as a runtime does.
///
/// # Errors
/// If it cannot be listed.
pub(crate) fn first_configuration(conf_dir: &Path) -> anyhow::Result<First> {
    let folder = Folder::read(conf_dir)?;
    let Some(first) = folder.entries.into_iter().next() else {
        return Ok(First::None);
    };
    let file = first.path;
    Ok(match first.owner {
        Owner::Other(network) => First::Other { file, network },
        Owner::Invalid(why) => First::Invalid { file, why },
        Owner::Ours => match socket_of(&fs::read(&file)?) {
            Ok(socket) => First::Ours { file, socket },
            Err(why) => First::Invalid { file, why },
        },
    })
}

/// The socket that our plugin is told, in a list or a configuration of one plugin.
fn socket_of(bytes: &[u8]) -> Result<String, String> {
    let list: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let ours = list
        .pointer("/plugins/0")
        .cloned()
        .unwrap_or_else(|| list.clone());
    let Value::Object(mut ours) = ours else {
        return Err("its plugin is no object".to_owned());
    };
    for key in ["cniVersion", "name"] {
        if let Some(value) = list.get(key) {
            ours.insert(key.to_owned(), value.clone());
        }
    }
    let config = NetworkConfig::parse(Value::Object(ours).to_string().as_bytes());
    config
        .map(|config| config.socket)
        .map_err(|error| error.msg)
}

/// What the plugin's binary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    /// There is none at this path.
    Absent(PathBuf),
    /// It may not be executed.
    NotExecutable(PathBuf),
    /// It runs, but not as our plugin.
    Broken(PathBuf, String),
    /// It works, and is another one than the release's, which is beside this program.
    OtherRelease(PathBuf),
    /// It works; whether it is the release's could be told or not.
    Works { path: PathBuf, is_compared: bool },
}

/// Looks at the plugin in the runtime's folder and asks it for its versions.
pub(crate) fn plugin_in(bin_dir: &Path) -> Binary {
    let path = bin_dir.join(PLUGIN);
    let Ok(facts) = fs::metadata(&path) else {
        return Binary::Absent(path);
    };
    if !facts.is_file() || facts.permissions().mode() & 0o111 == 0 {
        return Binary::NotExecutable(path);
    }
    if let Err(error) = check::speaks(&path, Version::Auto) {
        return Binary::Broken(path, format!("{error:#}"));
    }
    let beside = std::env::current_exe().map(|us| us.with_file_name(PLUGIN));
    let released = beside.ok().and_then(|file| fs::read(file).ok());
    match (released, fs::read(&path).ok()) {
        (Some(released), Some(found)) if released != found => Binary::OtherRelease(path),
        (released, found) => Binary::Works {
            path,
            is_compared: released.is_some() && found.is_some(),
        },
    }
}

/// Asks the agent, by the plugin, whether it can attach pods (CNI STATUS).
///
/// # Errors
/// If it cannot, or does not answer; with what it said.
pub(crate) fn agent_by_plugin(bin_dir: &Path, socket: &str) -> anyhow::Result<()> {
    check::status(&bin_dir.join(PLUGIN), socket)
}

#[cfg(test)]
mod tests {
    use cni_spec::config::DEFAULT_SOCKET;

    use super::*;

    #[test]
    fn the_first_configuration_is_judged_and_its_socket_read() {
        let dir = tempfile::tempdir().unwrap();
        let look = || first_configuration(dir.path()).unwrap();
        assert_eq!(look(), First::None);
        let file = dir.path().join("10-portolan.conflist");
        let text = |socket: &str| {
            format!(
                r#"{{"cniVersion":"1.0.0","name":"portolan","plugins":[{{"type":"portolan-cni"{socket}}}]}}"#
            )
        };
        fs::write(&file, text(r#","socket":"/x/cni.sock""#)).unwrap();
        let ours = |socket: &str| First::Ours {
            file: file.clone(),
            socket: socket.to_owned(),
        };
        assert_eq!(look(), ours("/x/cni.sock"));
        fs::write(&file, text("")).unwrap();
        assert_eq!(look(), ours(DEFAULT_SOCKET));
        fs::write(dir.path().join("05-x.conf"), "{").unwrap();
        assert!(matches!(look(), First::Invalid { .. }));
        let other = r#"{"name":"lab","plugins":[{"type":"bridge"}]}"#;
        fs::write(dir.path().join("01-x.conflist"), other).unwrap();
        assert!(matches!(look(), First::Other { network, .. } if network == "lab"));
    }

    #[test]
    fn a_plugin_that_is_absent_or_no_program_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(PLUGIN);
        assert_eq!(plugin_in(dir.path()), Binary::Absent(file.clone()));
        fs::write(&file, "#!/bin/sh\necho no").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(plugin_in(dir.path()), Binary::NotExecutable(file.clone()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(plugin_in(dir.path()), Binary::Broken(..)));
    }
}
