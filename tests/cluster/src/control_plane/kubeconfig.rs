//! Kubeconfig files that hold all they need, and kubectl with them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::certificates::Identity;

/// What a kubeconfig says.
pub(super) struct Kubeconfig {
    pub(super) server: String,
    /// The authority's certificate.
    pub(super) authority: PathBuf,
    pub(super) user: User,
}

/// Who its user is.
pub(super) enum User {
    Certificate(Identity),
    Token(String),
}

impl Kubeconfig {
    /// Writes it, as JSON, which is YAML.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let authority = STANDARD.encode(std::fs::read(&self.authority)?);
        let user = match &self.user {
            User::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate),
                "client-key-data": STANDARD.encode(&identity.key),
            }),
            User::Token(token) => json!({ "token": token }),
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "test",
                "cluster": { "server": self.server, "certificate-authority-data": authority },
            }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "current-context": "test",
        });
        std::fs::write(path, config.to_string()).with_context(|| path.display().to_string())
    }
}

/// Runs a command (kubectl, curl) to its end and gives both its streams, the standard output first.
pub(super) fn output_of(mut command: Command, input: Option<&str>) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {command:?}"))?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let written = stdin.write_all(input.unwrap_or_default().as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let args: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy())
            .collect();
        let program = Path::new(command.get_program()).display();
        let before = String::from_utf8_lossy(&output.stdout);
        bail!(
            "{program} {}: {}: {before}{said}",
            args.join(" "),
            output.status
        );
    }
    written?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &said)
}
