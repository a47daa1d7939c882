//! What is wrong with an object: in a cluster each becomes an Event of it.

use std::fmt;

use crate::objects::Key;

/// A part of an object that is not served as it is written, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whose it is.
    pub object: Key,
    /// The reason in one word.
    pub reason: Reason,
    /// The field, what is wrong there and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.reason, self.message)
    }
}

/// The reasons of [`Problem`]s, as Events write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// An annotation of ours that cannot be read.
    InvalidAnnotation,
    /// A host that is no DNS name and no wildcard.
    InvalidHost,
    /// A path that no request can match, or of a type that is unknown.
    InvalidPath,
    /// Nothing in it can be served.
    NothingToServe,
    /// An older Ingress has the same host and path.
    PathConflict,
    /// An older Ingress has the default backend.
    DefaultBackendConflict,
    /// A `resource` backend, or none at all.
    UnsupportedBackend,
    /// The Service of a backend is absent.
    ServiceNotFound,
    /// The Service has no such port.
    PortNotFound,
    /// The Service is of type ExternalName, behind which no controller that serves several tenants may look.
    ExternalName,
    /// The port is not TCP, or speaks a protocol that is not served.
    UnsupportedProtocol,
    /// The Secret of a `tls` entry is absent.
    SecretNotFound,
    /// The Secret holds no certificate that can be used.
    InvalidSecret,
    /// The certificate does not hold for a host that it is to be shown for.
    CertificateMismatch,
    /// An older Ingress shows another certificate for the host.
    CertificateConflict,
    /// Two default IngressClasses disagree about whose Ingresses without a class are.
    AmbiguousClass,
}

impl Reason {
    /// UpperCamelCase, as an Event's `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::InvalidHost => "InvalidHost",
            Self::InvalidPath => "InvalidPath",
            Self::NothingToServe => "NothingToServe",
            Self::PathConflict => "PathConflict",
            Self::DefaultBackendConflict => "DefaultBackendConflict",
            Self::UnsupportedBackend => "UnsupportedBackend",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::PortNotFound => "PortNotFound",
            Self::ExternalName => "ExternalName",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::SecretNotFound => "SecretNotFound",
            Self::InvalidSecret => "InvalidSecret",
            Self::CertificateMismatch => "CertificateMismatch",
            Self::CertificateConflict => "CertificateConflict",
            Self::AmbiguousClass => "AmbiguousClass",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
