//! containerd on a node of the test cluster, from the user's cache, and the images that it is given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::eventually;

use crate::image::PAUSE;
use crate::node::Node;

/// Its programs, which `scripts/fetch-containerd` unpacks.
const NAMES: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "ctr", "runc"];

/// How long it may take until it answers, on a machine that does much else.
const START: Duration = Duration::from_secs(60);

/// Its socket on every node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// Starts it, waits until it answers and gives it `images`, which are tars.
///
/// # Errors
/// When it isn't in the cache, or doesn't come up.
pub fn start(node: &mut Node, bin: &Path, images: &[PathBuf]) -> Result<()> {
    for name in NAMES {
        let path = bin.join(name);
        ensure!(
            path.is_file(),
            "no {}: run scripts/fetch-containerd",
            path.display()
        );
    }
    node.run("mkdir", &["-p", "/etc/containerd"])?;
    node.write("/etc/containerd/config.toml", &config())?;
    // It looks for the shim, and that for runc, in PATH.
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let args = [path, bin.join("containerd").display().to_string()];
    node.start_program("containerd", Path::new("/usr/bin/env"), &args)?;
    let ctr = bin.join("ctr").display().to_string();
    eventually(START, &format!("containerd on {}", node.name()), || {
        node.check_running("containerd")?;
        node.run(&ctr, &["--timeout", "5s", "version"])
    })?;
    for image in images {
        let image = image.display().to_string();
        node.run(
            &ctr,
            &["-n", "k8s.io", "images", "import", "--no-unpack", &image],
        )?;
    }
    Ok(())
}

fn config() -> String {
    format!(
        "version = 2
root = \"/var/lib/containerd\"
state = \"/run/containerd\"
disabled_plugins = [\"io.containerd.internal.v1.opt\"]
[grpc]
  address = \"{SOCKET}\"
[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{PAUSE}\"
  # Without CAP_SYS_RESOURCE nobody may lower it.
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  disable_apparmor = true
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
  runtime_type = \"io.containerd.runc.v2\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins.\"io.containerd.grpc.v1.cri\".cni]
  bin_dir = \"/opt/cni/bin\"
  conf_dir = \"/etc/cni/net.d\"
"
    )
}
