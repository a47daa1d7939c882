//! Which certificate is shown for which host. Routing is by the Host header, never by the name that TLS was asked for.

use api::NamespacedName;

use super::Problems;
use crate::certificate::Certificates;
use crate::host::HostPattern;
use crate::objects::{Ingress, Key, Objects, Tls};
use crate::problem::Reason;
use crate::settings::Settings;

/// Compiles the `tls` entries of Ingresses, the oldest first.
pub(super) fn compile(
    objects: &Objects,
    ours: &[&Ingress],
    settings: &Settings,
    problems: &mut Problems,
) -> Certificates {
    let mut certificates = Certificates::default();
    for ingress in ours {
        for tls in &ingress.tls {
            entry(objects, ingress, tls, &mut certificates, problems);
        }
    }
    if let Some(name) = &settings.default_certificate {
        let secret = objects.secrets.get(name);
        certificates.default = secret.and_then(|secret| secret.certificate.clone());
        let fault = match secret {
            None => Some("the default certificate: there is no such Secret".to_owned()),
            Some(secret) => secret
                .fault
                .as_ref()
                .map(|fault| format!("the default certificate: {fault}")),
        };
        if let Some(fault) = fault {
            problems.add(Key::Secret(name.clone()), Reason::InvalidSecret, fault);
        }
    }
    certificates
}

/// An entry without a Secret is for who has the default certificate: the text lets TLS be routed by name alone.
fn entry(
    objects: &Objects,
    ingress: &Ingress,
    tls: &Tls,
    certificates: &mut Certificates,
    problems: &mut Problems,
) {
    let Some(secret) = &tls.secret else { return };
    let name = NamespacedName::new(&ingress.name.namespace, secret);
    let Some(known) = objects.secrets.get(&name) else {
        let why = format!("spec.tls: there is no Secret {name}");
        return problems.of(ingress, Reason::SecretNotFound, why);
    };
    if let Some(fault) = &known.fault {
        let kept = match known.certificate {
            Some(_) => "; what it held before is still shown",
            None => "",
        };
        let why = format!("spec.tls: Secret {name}: {fault}{kept}");
        problems.of(ingress, Reason::InvalidSecret, why);
    }
    let Some(certificate) = &known.certificate else {
        return;
    };
    for host in hosts(ingress, tls, problems) {
        if !certificate.holds_for(&host) {
            let why = format!(
                "spec.tls: the certificate of Secret {name} does not hold for {}",
                host.text()
            );
            problems.of(ingress, Reason::CertificateMismatch, why);
        }
        if let Err(other) = certificates.offer(&host, certificate) {
            let why = format!(
                "spec.tls: host {} is shown the certificate of Secret {}, which an older Ingress names",
                host.text(),
                other.secret
            );
            problems.of(ingress, Reason::CertificateConflict, why);
        }
    }
}

/// Those of the entry; the reference lets an entry without hosts be for every host.
fn hosts(ingress: &Ingress, tls: &Tls, problems: &mut Problems) -> Vec<HostPattern> {
    if tls.hosts.is_empty() {
        return vec![HostPattern::Any];
    }
    let mut hosts = Vec::new();
    for host in &tls.hosts {
        match HostPattern::read(Some(host)) {
            Ok(host) => hosts.push(host),
            Err(why) => problems.of(
                ingress,
                Reason::InvalidHost,
                format!("spec.tls: host {why}"),
            ),
        }
    }
    hosts
}
