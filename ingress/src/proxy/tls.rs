//! TLS of clients: the certificate by server name, of the present table; sessions can be resumed.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Certificates;

/// The certificates of now. A handshake reads them, a request never does.
#[derive(Default)]
pub struct Resolver(RwLock<Certificates>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// From the next handshake on these are shown; connections that are there stay.
    pub fn swap(&self, certificates: Certificates) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificates;
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let certificates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = certificates.find(name.as_deref())?;
        Some(found.key.clone())
    }
}

/// TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1.
///
/// # Errors
/// The cryptography cannot be set up.
pub fn server_config(resolver: Arc<Resolver>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}
