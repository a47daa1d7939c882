//! Certificates from Secrets, and which one is shown for a server name.

use std::fmt;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::Secret;
use rustc_hash::FxHashMap;
use rustls::client::verify_server_name;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::host::{HostPattern, wildcard_of};

/// A certificate chain with its key.
pub struct Certificate {
    /// The Secret that it is of.
    pub secret: NamespacedName,
    /// As rustls shows it.
    pub key: Arc<CertifiedKey>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.secret)
    }
}

impl Certificate {
    /// Reads `tls.crt` and `tls.key` of a Secret (type `kubernetes.io/tls`).
    ///
    /// # Errors
    /// What is wrong, without a word of what is secret.
    pub fn read(secret: &Secret) -> Result<Self, String> {
        let value = |key: &str| {
            let value = secret.get(key).map(api::resources::SecretValue::expose);
            value.ok_or_else(|| format!("it has no {key}: make it by kubectl create secret tls"))
        };
        let chain = CertificateDer::pem_slice_iter(value("tls.crt")?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "tls.crt is no PEM")?;
        let Some(first) = chain.first() else {
            return Err("tls.crt holds no certificate in PEM".to_owned());
        };
        ParsedCertificate::try_from(first)
            .map_err(|error| format!("tls.crt: its first certificate cannot be read: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(value("tls.key")?)
            .map_err(|_| "tls.key holds no private key in PEM")?;
        let key = any_supported_type(&key).map_err(
            |_| "tls.key is of no kind that is known: RSA, ECDSA P-256/P-384 or Ed25519",
        )?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match()
            .map_err(|_| "tls.key is not the key of the first certificate of tls.crt")?;
        Ok(Self {
            secret: secret.name.clone(),
            key: Arc::new(key),
        })
    }

    /// Whether the certificate holds for a host: for a wildcard, for a label under it.
    #[must_use]
    pub fn holds_for(&self, host: &HostPattern) -> bool {
        let name = match host {
            HostPattern::Exact(name) => name.to_string(),
            HostPattern::Wildcard(suffix) => format!("portolan-asks{suffix}"),
            HostPattern::Any => return true,
        };
        let Some(first) = self.key.cert.first() else {
            return false;
        };
        let Ok(name) = ServerName::try_from(name) else {
            return false;
        };
        ParsedCertificate::try_from(first)
            .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
    }
}

/// Which certificate is shown: by precise name, then by wildcard, then to everybody.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    exact: FxHashMap<Box<str>, Arc<Certificate>>,
    wildcard: FxHashMap<Box<str>, Arc<Certificate>>,
    any: Option<Arc<Certificate>>,
    pub(crate) default: Option<Arc<Certificate>>,
}

impl Certificates {
    /// The certificate for a server name (SNI) in lower case, or for a client that sends none.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Certificate>> {
        let exact = name.and_then(|name| self.exact.get(name));
        exact
            .or_else(|| self.wildcard.get(wildcard_of(name?)?))
            .or(self.any.as_ref())
            .or(self.default.as_ref())
    }

    /// How many hosts have one of their own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + usize::from(self.any.is_some())
    }

    /// Whether there is none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.default.is_none()
    }

    /// Gives a host its certificate, unless it has one: then that one is told.
    pub(crate) fn offer(
        &mut self,
        host: &HostPattern,
        certificate: &Arc<Certificate>,
    ) -> Result<(), Arc<Certificate>> {
        let known = match host {
            HostPattern::Exact(name) => self
                .exact
                .entry(name.clone())
                .or_insert_with(|| certificate.clone()),
            HostPattern::Wildcard(suffix) => self
                .wildcard
                .entry(suffix.clone())
                .or_insert_with(|| certificate.clone()),
            HostPattern::Any => self.any.get_or_insert_with(|| certificate.clone()),
        };
        match known.secret == certificate.secret {
            true => Ok(()),
            false => Err(known.clone()),
        }
    }
}
