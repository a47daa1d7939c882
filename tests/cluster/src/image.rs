//! Container images without a registry: a root file system of real programs, as the tar that `docker save` makes.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tests::netns::run;

use crate::Programs;

/// The names that the images have on the nodes.
pub const PAUSE: &str = "localhost/pause:test";
/// Real curl, dig, getent, nc, socat, agnhost, and a shell that isn't busybox's.
pub const TOOLS: &str = "localhost/tools:test";
/// CoreDNS.
pub const COREDNS: &str = "localhost/coredns:test";

/// What the image of tools has of the machine's programs, each with its libraries.
const PROGRAMS: [&str; 11] = [
    "/usr/bin/bash",
    "/usr/bin/cat",
    "/usr/bin/curl",
    "/usr/bin/dash",
    "/usr/bin/dig",
    "/usr/bin/env",
    "/usr/bin/getent",
    "/usr/bin/nc.openbsd",
    "/usr/bin/sleep",
    "/usr/bin/socat",
    "/usr/bin/timeout",
];

/// What busybox does besides.
const APPLETS: [&str; 16] = [
    "date", "echo", "grep", "head", "hostname", "id", "ip", "kill", "ls", "mkdir", "ps", "seq",
    "tail", "touch", "true", "wc",
];

/// An image to be: a folder that becomes its only layer.
#[derive(Debug)]
pub struct Image {
    name: String,
    root: PathBuf,
    entrypoint: Vec<String>,
}

impl Image {
    /// An image without any file, made in the folder `dir`.
    ///
    /// # Errors
    /// When a folder can't be made.
    pub fn new(name: &str, dir: &Path, entrypoint: &[&str]) -> Result<Self> {
        let root = dir.join(name.replace(['/', ':'], "_"));
        std::fs::create_dir_all(&root)?;
        Ok(Self {
            name: name.to_owned(),
            root,
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        })
    }

    /// Copies a file of the machine to `to`, an absolute path in the image.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn file(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.inside(to)?;
        std::fs::copy(from, &to).with_context(|| from.display().to_string())?;
        Ok(())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn text(&self, to: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.inside(to)?, text)?)
    }

    /// Copies a program and the libraries it is linked with to where the machine has them.
    ///
    /// # Errors
    /// When it isn't there, or a library isn't.
    pub fn program(&self, path: &str) -> Result<()> {
        self.file(Path::new(path), path)?;
        for library in libraries(&run("ldd", &[path])?)? {
            self.file(&library, &library.to_string_lossy())?;
        }
        Ok(())
    }

    /// Makes the image's tar, beside its folder, and gives its path.
    ///
    /// # Errors
    /// When tar or sha256sum fails.
    pub fn pack(&self) -> Result<PathBuf> {
        let work = self.root.with_extension("image");
        std::fs::create_dir_all(&work)?;
        let layer = work.join("layer.tar");
        let from = text(&self.root)?;
        run(
            "tar",
            &[
                "-C",
                from,
                "--owner=0",
                "--group=0",
                "-cf",
                text(&layer)?,
                ".",
            ],
        )?;
        let sum = run("sha256sum", &[text(&layer)?])?;
        let sum = sum.split_whitespace().next().context("sha256sum")?;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
        });
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        std::fs::write(work.join("config.json"), config.to_string())?;
        std::fs::write(work.join("manifest.json"), manifest.to_string())?;
        let tar = self.root.with_extension("tar");
        let members = ["manifest.json", "config.json", "layer.tar"];
        run(
            "tar",
            &[&["-C", text(&work)?, "-cf", text(&tar)?][..], &members].concat(),
        )?;
        std::fs::remove_dir_all(&work)?;
        std::fs::remove_dir_all(&self.root)?;
        Ok(tar)
    }

    fn inside(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().context("a path")?)?;
        Ok(path)
    }
}

/// Makes the images that every cluster has, in `dir`, and gives their tars.
///
/// # Errors
/// When a program is missing: `scripts/install-deps` installs Debian's.
pub fn make_all(programs: &Programs, dir: &Path) -> Result<Vec<PathBuf>> {
    let pause = Image::new(PAUSE, dir, &["/pause"])?;
    pause.file(&programs.path("pause"), "/pause")?;
    let coredns = Image::new(COREDNS, dir, &["/coredns"])?;
    coredns.file(&programs.path("coredns"), "/coredns")?;
    Ok(vec![
        pause.pack()?,
        coredns.pack()?,
        tools(programs, dir)?.pack()?,
    ])
}

fn tools(programs: &Programs, dir: &Path) -> Result<Image> {
    let image = Image::new(TOOLS, dir, &["/bin/sh"])?;
    for folder in ["bin", "sbin", "lib", "lib64"] {
        std::fs::create_dir_all(image.root.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), image.root.join(folder))?;
    }
    for program in PROGRAMS {
        image.program(program).context("run scripts/install-deps")?;
    }
    image.file(&programs.path("agnhost"), "/usr/bin/agnhost")?;
    image.file(Path::new("/usr/bin/busybox"), "/usr/bin/busybox")?;
    let links = APPLETS.map(|applet| (applet, "busybox"));
    for (link, target) in links
        .into_iter()
        .chain([("sh", "dash"), ("nc", "nc.openbsd")])
    {
        symlink(target, image.root.join("usr/bin").join(link))?;
    }
    image.text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")?;
    image.text("/etc/group", "root:x:0:\n")?;
    std::fs::create_dir_all(image.root.join("tmp"))?;
    Ok(image)
}

/// The files that `ldd` names.
fn libraries(said: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in said.lines() {
        if line.contains("not found") {
            bail!("a missing library: {}", line.trim());
        }
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

#[cfg(test)]
mod tests_of_ldd {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path_and_the_loader() {
        let said = "\tlinux-vdso.so.1 (0x00007f)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)
";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(said).unwrap(), expected.map(PathBuf::from).into());
        assert!(libraries("\tlibfoo.so.1 => not found\n").is_err());
    }
}
