//! Labs left up by `KEEP=1`: how to look around in them, and how they are removed later.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tests::lab::Lab;
use tests::netns;
use tests::snapshot::namespaces;

/// Where each kept lab has its file.
const RECORDS: &str = "/run/portolan-demo";

/// What must be removed.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    namespaces: Vec<String>,
    folders: Vec<PathBuf>,
}

/// Leaves the lab up and prints the commands to look around in it.
pub(crate) fn record(lab: Lab) -> Result<()> {
    print_commands(&lab)?;
    let (namespaces, folders) = lab.keep();
    std::fs::create_dir_all(RECORDS)?;
    let path = Path::new(RECORDS).join(format!("{}.json", std::process::id()));
    std::fs::write(
        path,
        serde_json::to_vec_pretty(&Record {
            namespaces,
            folders,
        })?,
    )?;
    Ok(())
}

/// Removes every kept lab; true if that went well.
pub(crate) fn clean() -> Result<bool> {
    let (mut passed, mut failed) = (0, 0);
    for entry in std::fs::read_dir(RECORDS).into_iter().flatten() {
        let path = entry?.path();
        match clean_one(&path) {
            Ok(()) => passed += 1,
            Err(error) => {
                println!("FAILED: {}: {error:#}", path.display());
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn clean_one(path: &Path) -> Result<()> {
    let record: Record = serde_json::from_slice(&std::fs::read(path)?)?;
    let present = namespaces();
    for name in record
        .namespaces
        .iter()
        .filter(|name| present.contains(name))
    {
        netns::remove(name)?;
        println!("removed {name}");
    }
    for folder in record.folders.iter().filter(|folder| folder.exists()) {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        ensure!(
            name.starts_with("ptl-"),
            "{} is not the lab's",
            folder.display()
        );
        std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(std::fs::remove_file(path)?)
}

fn print_commands(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let inside = format!("ip netns exec {}", node.netns.name());
    let portolan = lab.plugin(0)?.program.with_file_name("portolan");
    println!("\nThe lab stays up. As root:");
    println!(
        "  {} status --run-dir {}",
        portolan.display(),
        node.agent.run_dir().display()
    );
    println!(
        "  vtysh --vty_socket {} -c 'show bgp summary'",
        lab.frr.vty_dir().display()
    );
    println!("  {inside} ip route show proto 179");
    println!("  {inside} iptables -L -n -v");
    println!("  {inside} ipset list");
    for pod in &lab.pods {
        let name = pod.sandbox.full_name();
        println!(
            "  ip netns exec {} bash      # {name}",
            pod.sandbox.netns.name()
        );
    }
    println!("  manifests: {}", lab.manifests().display());
    println!("Remove it with: make clean-lab");
    Ok(())
}
