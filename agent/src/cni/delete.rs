//! CNI DEL, now and later: the link, then what the attachment holds; also what the plugin wrote down while no agent ran.

use std::path::PathBuf;
use std::time::Duration;

use cni_spec::socket::Request;
use cni_spec::{CniError, ErrorCode};
use ipam::Holder;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::identity::holder;
use super::server::Server;
use crate::attachments::host_interface;
use crate::message::Message;

/// How often deletions that the plugin wrote down are looked for.
const PENDING_PERIOD: Duration = Duration::from_secs(2);
/// A plugin that has not finished writing by then was killed; if it still lives, its DEL fails and is made again.
const HALF_WRITTEN: Duration = Duration::from_secs(10);

impl Server {
    /// Link first, so that no packet leaves any more when the chains go; nothing there is success.
    pub(crate) async fn delete(&self, holder: &Holder) -> Result<(), CniError> {
        let failed = |error: String| {
            CniError::new(ErrorCode::TryAgainLater, "cannot detach the pod").details(error)
        };
        let interface = host_interface(holder);
        routes::delete_link(&interface)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Detach {
            holder: holder.clone(),
            reply,
        };
        if let Some(endpoint) = self.ask(message, answer).await?.map_err(failed)? {
            info!(pod = ?endpoint.pod, addresses = ?endpoint.addresses, "detached");
        }
        Ok(())
    }

    /// Carries out deletions that the plugin wrote down while no agent ran; runs for ever.
    pub(crate) async fn take_pending_deletions(self) {
        loop {
            for (file, request) in pending_deletions(&self.pending) {
                let holder = holder(&request);
                let _entered = self.in_flight.enter(&holder).await;
                if !file.exists() {
                    // An ADD of the same attachment has carried it out.
                    continue;
                }
                match self.delete(&holder).await {
                    Ok(()) => {
                        info!(
                            container = request.container_id,
                            "carried out a deletion that waited"
                        );
                        if let Err(error) = std::fs::remove_file(&file) {
                            warn!(%error, file = %file.display(), "cannot remove a pending deletion");
                        }
                    }
                    Err(error) => warn!(%error, "a deletion that waited failed; it is tried again"),
                }
            }
            remove_half_written(&self.pending);
            tokio::time::sleep(PENDING_PERIOD).await;
        }
    }

    /// The containers of which deletions wait on disk.
    pub(crate) fn pending_deletions(&self) -> Vec<String> {
        let pending = pending_deletions(&self.pending).into_iter();
        pending.map(|(_, request)| request.container_id).collect()
    }

    /// A deletion that waits for an earlier attachment of the same name must not hit the new one later.
    pub(super) async fn take_pending_deletion_of(&self, request: &Request) -> Result<(), CniError> {
        let file = self.pending.join(request.pending_deletion_name());
        if !file.exists() {
            return Ok(());
        }
        self.delete(&holder(request)).await?;
        std::fs::remove_file(&file).map_err(|error| {
            CniError::new(ErrorCode::Io, "cannot remove a deletion that waited")
                .details(format!("{}: {error}", file.display()))
        })
    }
}

/// What killed plugins leave: files that start with a dot and were to be renamed.
fn remove_half_written(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|time| time.elapsed().ok());
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden
            && age.is_some_and(|age| age > HALF_WRITTEN)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            warn!(%error, file = %entry.path().display(), "cannot remove a half-written deletion");
        }
    }
}

fn pending_deletions(folder: &std::path::Path) -> Vec<(PathBuf, Request)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let parse = |path: PathBuf| {
        if path.extension().is_none_or(|end| end != "json") {
            return None;
        }
        match serde_json::from_slice(&std::fs::read(&path).ok()?) {
            Ok(request) => Some((path, request)),
            Err(error) => {
                warn!(%error, file = %path.display(), "not a pending deletion");
                None
            }
        }
    };
    entries
        .filter_map(|entry| parse(entry.ok()?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_plugin_half_wrote_is_removed_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - HALF_WRITTEN * 2;
        for (name, is_old) in [(".a.json.7", true), (".b.json.8", false), ("c.json", true)] {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        remove_half_written(folder.path());
        let left = |name: &str| folder.path().join(name).exists();
        assert_eq!(
            [".a.json.7", ".b.json.8", "c.json"].map(left),
            [false, true, true]
        );
    }
}
