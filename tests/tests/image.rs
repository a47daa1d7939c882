//! The image that deploy/ runs: the same bytes each time, whole, with nothing else in it, and its programs work in it alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tests::netns::{Netns, run};
use tests::require_root;

/// The image made of the binaries under test, and what it holds, unpacked.
struct Image {
    archive: PathBuf,
    parts: PathBuf,
    root: PathBuf,
}

fn make(archive: &Path) {
    let binaries = tests::agent::binaries().unwrap();
    let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/image"))
        .arg("--binaries")
        .arg(binaries)
        .env("PORTOLAN_IMAGE", archive)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let image = Image {
            archive: dir.join("portolan.tar"),
            parts: dir.join("parts"),
            root: dir.join("root"),
        };
        make(&image.archive);
        fs::create_dir_all(&image.parts).unwrap();
        fs::create_dir_all(&image.root).unwrap();
        unpack(&image.archive, &image.parts);
        for layer in image.layers() {
            unpack(&layer, &image.root);
        }
        // Where iptables-legacy has its lock: in a cluster the host's.
        fs::create_dir(image.root.join("run")).unwrap();
        image
    })
}

fn unpack(archive: &Path, folder: &Path) {
    let [archive, folder] = [archive, folder].map(|path| path.to_str().unwrap());
    run("tar", &["-xf", archive, "-C", folder]).unwrap();
}

fn digest(file: &Path) -> String {
    let line = run("sha256sum", &[file.to_str().unwrap()]).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

impl Image {
    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.parts.join(name)).unwrap()).unwrap()
    }

    fn layers(&self) -> Vec<PathBuf> {
        let manifest = self.json("manifest.json");
        let layers = manifest[0]["Layers"].as_array().unwrap();
        let path = |layer: &Value| self.parts.join(layer.as_str().unwrap());
        layers.iter().map(path).collect()
    }

    /// Runs a program of the image in a namespace, with nothing but the image to be seen.
    fn run(&self, netns: &Netns, words: &str) -> String {
        let root = self.root.to_str().unwrap();
        let mut args = vec![root];
        args.extend(words.split_whitespace());
        netns.run("chroot", &args).unwrap()
    }

    /// Every file, link and folder, by its path in the image.
    fn entries(&self) -> BTreeSet<String> {
        let listing = run("find", &[self.root.to_str().unwrap(), "-printf", "%P\n"]).unwrap();
        let lines = listing.lines().filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let again = dir.path().join("again.tar");
    make(&again);
    assert_eq!(digest(&image.archive), digest(&again));
}

#[test]
fn names_digests_and_layers_are_what_a_runtime_imports() {
    let image = image();
    let manifest = image.json("manifest.json");
    assert_eq!(manifest[0]["RepoTags"][0], "localhost/portolan:dev");
    let config_name = manifest[0]["Config"].as_str().unwrap();
    assert_eq!(
        config_name,
        digest(&image.parts.join(config_name)) + ".json"
    );
    let config = image.json(config_name);
    assert_eq!(config["os"], "linux");
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/portolan");
    let sums: Vec<_> = image
        .layers()
        .iter()
        .map(|layer| format!("sha256:{}", digest(layer)))
        .collect();
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!(sums));
    assert_eq!(sums.len(), 2);
}

#[test]
fn nothing_is_in_it_but_what_the_agent_runs_and_what_that_needs() {
    let image = image();
    let entries = image.entries();
    let in_folder = |folder: &str| -> Vec<&str> {
        let inside = entries
            .iter()
            .filter_map(|entry| entry.strip_prefix(folder));
        inside.filter(|name| !name.contains('/')).collect()
    };
    assert_eq!(
        in_folder("usr/bin/"),
        ["portolan", "portolan-cni", "portolan-ingress"]
    );
    for name in in_folder("usr/sbin/") {
        assert!(name.contains("tables") || name == "ipset", "{name}");
    }
    assert_eq!(in_folder("etc/"), ["protocols"]);
    for shell in ["bin/sh", "usr/bin/sh", "usr/bin/bash", "usr/bin/busybox"] {
        assert!(!entries.contains(shell), "{shell}");
    }
    // No set-user-id file, nothing that anyone but root may write, no time of today.
    let root = image.root.to_str().unwrap();
    let run_dir = image.root.join("run");
    let mut words = vec![root, "-mindepth", "1", "-not", "-type", "l"];
    words.extend(["-not", "-path", run_dir.to_str().unwrap()]);
    words.extend(["(", "-perm", "/6022", "-o", "-newermt", "1980-01-01", ")"]);
    let odd = run("find", &words);
    assert_eq!(odd.unwrap(), "");
}

#[test]
fn its_programs_run_in_it_alone() {
    require_root!();
    let image = image();
    let netns = Netns::new("image", "node").unwrap();
    assert!(
        image
            .run(&netns, "/usr/bin/portolan --version")
            .starts_with("portolan ")
    );
    assert!(
        image
            .run(&netns, "/usr/bin/portolan crds")
            .contains("bgppeers.portolan.io")
    );
    for family in ["iptables", "ip6tables"] {
        for (back_end, word) in [
            ("-nft", "nf_tables"),
            ("-legacy", "legacy"),
            ("", "nf_tables"),
        ] {
            for tool in ["", "-save", "-restore"] {
                let program = format!("/usr/sbin/{family}{back_end}{tool}");
                let version = image.run(&netns, &format!("{program} --version"));
                assert!(version.contains(word), "{program}: {version}");
            }
        }
    }
    assert!(
        image
            .run(&netns, "/usr/sbin/ipset --version")
            .contains("ipset v")
    );
}

#[test]
fn sets_and_rules_with_extensions_are_written_and_read_back() {
    require_root!();
    let image = image();
    let netns = Netns::new("image", "rules").unwrap();
    image.run(&netns, "/usr/sbin/ipset create ports hash:ip,port");
    image.run(&netns, "/usr/sbin/ipset add ports 192.0.2.1,sctp:80");
    assert!(
        image
            .run(&netns, "/usr/sbin/ipset save")
            .contains("192.0.2.1,sctp:80")
    );
    for program in ["iptables-nft", "iptables-legacy"] {
        let rule = "-A INPUT -p tcp -m set --match-set ports dst,dst -m conntrack --ctstate NEW -m multiport --dports 80,81 \
                    -m limit --limit 5/second -m comment --comment seen -j NFLOG --nflog-group 7";
        image.run(&netns, &format!("/usr/sbin/{program} {rule}"));
        let saved = image.run(&netns, &format!("/usr/sbin/{program}-save -t filter"));
        for word in [
            "--match-set ports dst,dst",
            "--ctstate NEW",
            "--dports 80,81",
            "--nflog-group 7",
        ] {
            assert!(saved.contains(word), "{program}: {saved}");
        }
    }
}

#[test]
fn every_program_and_extension_finds_its_libraries_in_it() {
    require_root!();
    let image = image();
    let netns = Netns::new("image", "libs").unwrap();
    let mut count = 0;
    for entry in image.entries() {
        let code = entry.starts_with("usr/sbin/")
            || entry.starts_with("usr/bin/")
            || entry.contains("/xtables/lib");
        let path = image.root.join(&entry);
        if !code || path.is_symlink() || !path.is_file() {
            continue;
        }
        // The image's own loader says what is missing; a static program has nothing to be looked for.
        let is_static = !run("readelf", &["-l", "-d", path.to_str().unwrap()])
            .unwrap()
            .contains("NEEDED");
        if !is_static {
            let found = image.run(
                &netns,
                &format!("/lib64/ld-linux-x86-64.so.2 --list /{entry}"),
            );
            assert!(!found.contains("not found"), "{entry}: {found}");
        }
        count += 1;
    }
    assert!(count > 80, "{count}");
}
