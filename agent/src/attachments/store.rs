//! Which attachment holds which addresses, kept on disk so that neither a crash nor a reboot loses or doubles one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use api::NamespacedName;
use ipam::{Holder, Ipam, Lease, Usage};
use ipnet::IpNet;

/// The allocator and its file.
#[derive(Debug)]
pub(crate) struct Leases {
    ipam: Ipam,
    file: PathBuf,
}

impl Leases {
    /// Reads what an earlier run wrote.
    ///
    /// # Errors
    /// If the folder cannot be used or the file is not ours to understand: to guess would give addresses twice.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(state_dir)
            .with_context(|| format!("cannot make the state folder {}", state_dir.display()))?;
        let file = state_dir.join("ipam.json");
        let mut ipam = Ipam::new(Vec::new());
        match fs::read(&file) {
            Ok(bytes) => ipam.restore(serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is damaged: put back a copy, or remove it once no pod runs on this node",
                    file.display()
                )
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        }
        Ok(Self { ipam, file })
    }

    /// Says which CIDRs addresses come from; leases outside them are kept.
    pub(crate) fn set_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.ipam.set_cidrs(cidrs);
    }

    /// Says of which further CIDRs (IPPools, other nodes' Pod CIDRs) an address may be asked for by name.
    pub(crate) fn set_elsewhere(&mut self, cidrs: Vec<IpNet>) {
        self.ipam.set_elsewhere(cidrs);
    }

    /// Says which addresses are given to nobody who does not ask for them by name.
    pub(crate) fn set_reserved(&mut self, cidrs: Vec<IpNet>) {
        self.ipam.set_reserved(cidrs);
    }

    /// Gives addresses, on disk before they are known to anyone. The same holder gets the same ones again.
    ///
    /// # Errors
    /// If there is none left, a fixed one cannot be had, or the file cannot be written (then nothing is given).
    pub(crate) fn allocate(
        &mut self,
        holder: &Holder,
        pod: Option<NamespacedName>,
        uid: &str,
        fixed: &[IpAddr],
    ) -> anyhow::Result<Lease> {
        let before = self.ipam.snapshot();
        let lease = self.ipam.allocate(&ipam::Request {
            pod,
            uid: uid.to_owned(),
            fixed: fixed.to_vec(),
            ..ipam::Request::new(holder.clone(), now())
        })?;
        if let Err(error) = self.write() {
            // Not a release: a lease that was there before this call is a running pod's.
            self.ipam.restore(before);
            return Err(error);
        }
        Ok(lease)
    }

    /// Takes addresses back; the lease that was, if there was one.
    ///
    /// # Errors
    /// If the file cannot be written: the addresses are then still held on disk, and the caller must try again.
    pub(crate) fn release(&mut self, holder: &Holder) -> anyhow::Result<Option<Lease>> {
        let before = self.ipam.snapshot();
        let lease = self.ipam.release(holder, now());
        if lease.is_some()
            && let Err(error) = self.write()
        {
            self.ipam.restore(before);
            return Err(error);
        }
        Ok(lease)
    }

    /// How full each CIDR is, in their order.
    pub(crate) fn usage(&self) -> impl Iterator<Item = Usage> {
        self.ipam.usage(now())
    }

    /// Every lease, in the holders' order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.ipam.leases()
    }

    /// One holder's lease.
    pub(crate) fn lease(&self, holder: &Holder) -> Option<&Lease> {
        self.ipam.lease(holder)
    }

    fn write(&self) -> anyhow::Result<()> {
        let bytes =
            serde_json::to_vec(&self.ipam.snapshot()).context("cannot encode the leases")?;
        write_atomically(&self.file, &bytes)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Replaces a file so that a crash at any instant leaves the old or the new one, whole and on disk.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself is durable only when the folder is.
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(id: &str) -> Holder {
        Holder {
            container_id: id.to_owned(),
            interface: "eth0".to_owned(),
        }
    }

    #[test]
    fn a_restart_finds_the_same_leases() {
        let folder = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(folder.path()).unwrap();
        leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
        let first = leases.allocate(&holder("a"), None, "", &[]).unwrap();
        drop(leases);
        let mut leases = Leases::open(folder.path()).unwrap();
        leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
        assert_eq!(leases.iter().count(), 1);
        assert_eq!(leases.allocate(&holder("a"), None, "", &[]).unwrap(), first);
        assert_ne!(
            leases
                .allocate(&holder("b"), None, "", &[])
                .unwrap()
                .addresses,
            first.addresses
        );
        assert!(leases.release(&holder("a")).unwrap().is_some());
        assert!(leases.release(&holder("a")).unwrap().is_none());
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_state() {
        let folder = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(folder.path()).unwrap();
        leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
        leases.allocate(&holder("a"), None, "", &[]).unwrap();
        fs::write(folder.path().join("ipam.json.new"), b"{\"half").unwrap();
        assert_eq!(Leases::open(folder.path()).unwrap().iter().count(), 1);
    }

    #[test]
    fn a_disk_that_fails_takes_no_running_pods_address_away() {
        let folder = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(folder.path()).unwrap();
        leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
        let first = leases.allocate(&holder("a"), None, "", &[]).unwrap();
        // A folder where the temporary file should be makes every write fail, for root too.
        fs::create_dir(folder.path().join("ipam.json.new")).unwrap();
        assert!(leases.allocate(&holder("a"), None, "", &[]).is_err());
        assert!(leases.allocate(&holder("b"), None, "", &[]).is_err());
        assert!(leases.release(&holder("a")).is_err());
        assert_eq!(leases.iter().cloned().collect::<Vec<_>>(), [first]);
    }

    #[test]
    fn a_damaged_file_is_named_and_never_guessed_around() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ipam.json"), b"not json").unwrap();
        let error = format!("{:#}", Leases::open(folder.path()).unwrap_err());
        assert!(error.contains("ipam.json is damaged"), "{error}");
    }
}
