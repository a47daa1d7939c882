//! A certificate authority of the test cluster's own, by openssl: a certificate names several groups.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use tests::netns::run;

/// Says what kind of certificate is made, and for whom.
const AUTHORITY: &str = "basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign,digitalSignature
subjectKeyIdentifier = hash
";
const LEAF: &str = "keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth,serverAuth
authorityKeyIdentifier = keyid
";

/// The authority: a folder with its certificate and key.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    count: AtomicU32,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

impl Authority {
    /// Makes one in the folder `dir`.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let authority = Self {
            dir: dir.to_owned(),
            count: AtomicU32::new(0),
        };
        authority.request("ca", &format!("CN = {name}\n"), AUTHORITY, &[])?;
        Ok(authority)
    }

    /// Its certificate's file.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// Its key's file.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.file("ca.key")
    }

    /// A certificate for a server and client called `user`, which is in `groups` and answers at `names` (DNS names and
    /// addresses).
    ///
    /// # Errors
    /// When openssl fails.
    pub fn issue(&self, user: &str, groups: &[&str], names: &[String]) -> Result<Identity> {
        let mut subject = String::new();
        for (index, group) in groups.iter().enumerate() {
            writeln!(subject, "{index}.O = {group}")?;
        }
        writeln!(subject, "CN = {user}")?;
        let mut extensions = LEAF.to_owned();
        if !names.is_empty() {
            extensions.push_str("subjectAltName = @names\n[names]\n");
        }
        for (index, name) in names.iter().enumerate() {
            let kind = if name.parse::<IpAddr>().is_ok() {
                "IP"
            } else {
                "DNS"
            };
            writeln!(extensions, "{kind}.{index} = {name}")?;
        }
        let stem = format!("leaf{}", self.count.fetch_add(1, Ordering::Relaxed));
        let (certificate, key) = (self.certificate(), self.key());
        let signer = ["-CA", text(&certificate)?, "-CAkey", text(&key)?];
        self.request(&stem, &subject, &extensions, &signer)?;
        Ok(Identity {
            certificate: std::fs::read_to_string(self.file(&format!("{stem}.crt")))?,
            key: std::fs::read_to_string(self.file(&format!("{stem}.key")))?,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes `stem.key` and `stem.crt`.
    fn request(&self, stem: &str, subject: &str, extensions: &str, signer: &[&str]) -> Result<()> {
        let config = self.file(&format!("{stem}.cnf"));
        let (key, certificate) = (format!("{stem}.key"), format!("{stem}.crt"));
        let (key, certificate) = (self.file(&key), self.file(&certificate));
        std::fs::write(
            &config,
            format!(
                "[req]\nprompt = no\nstring_mask = utf8only\ndistinguished_name = subject\n\
                 x509_extensions = extensions\n[subject]\n{subject}[extensions]\n{extensions}"
            ),
        )?;
        let mut args = vec!["req", "-x509", "-days", "30", "-noenc", "-config"];
        args.extend([text(&config)?, "-newkey", "ec", "-pkeyopt"]);
        args.extend(["ec_paramgen_curve:P-256", "-keyout", text(&key)?]);
        args.extend(["-out", text(&certificate)?]);
        args.extend(signer);
        run("openssl", &args).map(drop)
    }
}

/// Makes a key pair for signed tokens: `stem.key` and `stem.pub`.
///
/// # Errors
/// When openssl fails.
pub(crate) fn token_key(dir: &Path, stem: &str) -> Result<(PathBuf, PathBuf)> {
    let (key, public) = (
        dir.join(format!("{stem}.key")),
        dir.join(format!("{stem}.pub")),
    );
    let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let out = ["genpkey", "-out", text(&key)?];
    run("openssl", &[&out[..], &curve].concat())?;
    let from = text(&key)?;
    run(
        "openssl",
        &["pkey", "-in", from, "-pubout", "-out", text(&public)?],
    )?;
    Ok((key, public))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
