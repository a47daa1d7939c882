//! Certificates: by name, by wildcard, by default, and Secrets that are wrong.

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// A Secret with a certificate for these names.
fn secret(name: &str, hosts: &[&str]) -> Value {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "namespace": "shop"},
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()}})
}

fn with_tls(name: &str, age: u8, tls: &Value) -> Value {
    let host = format!("{name}.org");
    ingress(
        name,
        age,
        &json!({"rules": [rule(&host, &[path("Prefix", "/", "a")])], "tls": tls}),
    )
}

fn shown(compiled: &Compiled, name: Option<&str>) -> String {
    let found = compiled.certificates.find(name);
    found.map_or("-".to_owned(), |certificate| {
        certificate.secret.name.clone()
    })
}

#[test]
fn a_certificate_is_shown_by_name_then_by_wildcard_then_by_default() {
    let mut settings = settings();
    settings.default_certificate = Some(NamespacedName::new("shop", "fallback"));
    let values = world(&[
        secret("precise", &["a.foo.com"]),
        secret("wild", &["*.foo.com"]),
        secret("fallback", &["else.com"]),
        with_tls(
            "one",
            1,
            &json!([{"hosts": ["a.foo.com"], "secretName": "precise"}]),
        ),
        with_tls(
            "two",
            2,
            &json!([{"hosts": ["*.foo.com"], "secretName": "wild"}, {"hosts": ["no.secret.com"]}]),
        ),
    ]);
    let compiled = compile(&objects(&values), &settings);
    for (name, wanted) in [
        (Some("a.foo.com"), "precise"),
        (Some("b.foo.com"), "wild"),
        (Some("x.b.foo.com"), "fallback"),
        (Some("foo.com"), "fallback"),
        (Some("no.secret.com"), "fallback"),
        (None, "fallback"),
    ] {
        assert_eq!(shown(&compiled, name), wanted, "{name:?}");
    }
    assert_eq!(compiled.problems, []);
}

#[test]
fn an_entry_without_hosts_is_for_every_host() {
    let values = world(&[
        secret("all", &["x.com"]),
        with_tls("one", 1, &json!([{"secretName": "all"}])),
    ]);
    let compiled = compiled(&values);
    assert_eq!(shown(&compiled, Some("y.com")), "all");
    assert_eq!(shown(&compiled, None), "all");
}

#[test]
fn a_secret_that_became_wrong_keeps_its_last_certificate_and_takes_nothing_from_others() {
    let mut broken = secret("good", &["one.org"]);
    broken["stringData"]["tls.crt"] =
        "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n".into();
    let values = world(&[
        secret("good", &["one.org"]),
        secret("other", &["two.org"]),
        with_tls(
            "one",
            1,
            &json!([{"hosts": ["one.org"], "secretName": "good"}]),
        ),
        with_tls(
            "two",
            2,
            &json!([{"hosts": ["two.org"], "secretName": "other"}, {"hosts": ["three.org"], "secretName": "gone"}]),
        ),
    ]);
    let mut objects = objects(&values);
    objects.apply(Change::Is(object(&broken)));
    let compiled = compile(&objects, &settings());
    assert_eq!(shown(&compiled, Some("one.org")), "good");
    assert_eq!(shown(&compiled, Some("two.org")), "other");
    assert_eq!(shown(&compiled, Some("three.org")), "-");
    assert_eq!(
        reasons(&compiled),
        [
            ("Ingress shop/one".to_owned(), Reason::InvalidSecret),
            ("Ingress shop/two".to_owned(), Reason::SecretNotFound),
        ]
    );
    assert!(
        compiled.problems[0].message.contains("still shown"),
        "{}",
        compiled.problems[0]
    );
    // A better one is shown at once, and the last word on a Secret that is gone is that it is gone.
    objects.apply(Change::Is(object(&secret("good", &["one.org"]))));
    assert_eq!(compile(&objects, &settings()).problems.len(), 1);
    objects.apply(Change::Gone(Key::Secret(NamespacedName::new(
        "shop", "good",
    ))));
    assert_eq!(shown(&compile(&objects, &settings()), Some("one.org")), "-");
}

#[test]
fn faults_of_a_secret_say_what_is_wrong_and_nothing_of_what_it_holds() {
    let good = secret("s", &["one.org"]);
    let other = secret("s", &["one.org"]);
    let faults = [
        (
            json!({"tls.crt": good["stringData"]["tls.crt"]}),
            "no tls.key",
        ),
        (
            json!({"tls.key": good["stringData"]["tls.key"]}),
            "no tls.crt",
        ),
        (
            json!({"tls.crt": "words", "tls.key": good["stringData"]["tls.key"]}),
            "no certificate in PEM",
        ),
        (
            json!({"tls.crt": good["stringData"]["tls.crt"], "tls.key": "words"}),
            "no private key",
        ),
        (
            json!({"tls.crt": good["stringData"]["tls.crt"], "tls.key": other["stringData"]["tls.key"]}),
            "not the key of",
        ),
    ];
    for (data, wanted) in faults {
        let mut secret = good.clone();
        secret["stringData"] = data;
        let Object::Secret(secret) = object(&secret) else {
            panic!()
        };
        let fault = crate::Certificate::read(&secret).unwrap_err();
        assert!(
            fault.contains(wanted) && !fault.contains("words"),
            "{fault}"
        );
    }
}

#[test]
fn a_certificate_for_other_names_is_shown_and_told() {
    let compiled = compiled(&world(&[
        secret("s", &["one.org", "*.wild.org"]),
        with_tls(
            "one",
            1,
            &json!([{"hosts": ["one.org", "*.wild.org", "b.wild.org", "two.org", "*.one.org"], "secretName": "s"}]),
        ),
    ]));
    assert_eq!(shown(&compiled, Some("two.org")), "s");
    let told: Vec<&str> = compiled
        .problems
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("*.one.org") && told[1].contains("two.org"),
        "{told:?}"
    );
}

#[test]
fn of_two_certificates_for_a_host_the_older_ingresss_is_shown() {
    let compiled = compiled(&world(&[
        secret("first", &["x.org"]),
        secret("second", &["x.org"]),
        with_tls(
            "young",
            2,
            &json!([{"hosts": ["x.org"], "secretName": "second"}]),
        ),
        with_tls(
            "old",
            1,
            &json!([{"hosts": ["x.org"], "secretName": "first"}]),
        ),
    ]));
    assert_eq!(shown(&compiled, Some("x.org")), "first");
    assert_eq!(
        reasons(&compiled),
        [("Ingress shop/young".to_owned(), Reason::CertificateConflict)]
    );
}
