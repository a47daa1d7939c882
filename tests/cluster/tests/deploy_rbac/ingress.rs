//! The rights of the ingress controller: the real program with all of them, and with each one missing.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use cluster::{ControlPlane, Options, Place, Scratch};
use serde_json::{Value, json};
use tests::agent::binaries;
use tests::netns::Netns;
use tests::process::Process;
use tests::require_root;
use tests::wait::eventually;

use crate::rights::{self, Account, Right};
use crate::{A_WHILE, SOON, make, refused};

/// Of the API server and of the one endpoint.
const ADDRESS: &str = "10.0.0.1";
const SITE: &str = "site.example.org";
/// How long one answer may take, in seconds.
const ANSWER: &str = "5";
/// What is read: before anything is served all is listed.
const READ: usize = 5;

struct Lab {
    netns: Netns,
    plane: ControlPlane,
    scratch: Scratch,
}

/// A controller, as one account.
struct Controller {
    account: Account,
    process: Process,
}

impl Lab {
    /// A server as in `crate::plane`, in a namespace in which a controller may ask an endpoint.
    fn start() -> Result<Self> {
        let netns = Netns::new("rights", "n1")?;
        netns.ip("link add eth0 type veth peer name eth1")?;
        netns.ip(&format!("addr add {ADDRESS}/24 dev eth0"))?;
        netns.ip("link set eth0 up")?;
        netns.ip("link set eth1 up")?;
        let plane = ControlPlane::start(Options {
            place: Place::Namespace {
                name: netns.name().to_owned(),
                address: ADDRESS.parse()?,
            },
            feature_gates: "WatchList=false".to_owned(),
            ..Options::default()
        });
        let scratch = Scratch::new("ptl-rights-")?;
        Ok(Self {
            netns,
            plane,
            scratch,
        })
    }

    /// A key, and a certificate for the site.
    fn certificate(&self, name: &str) -> Result<[String; 2]> {
        let path = |end: &str| self.scratch.path().join(format!("{name}.{end}"));
        let [key, certificate] = ["key", "crt"].map(path);
        let made = self
            .netns
            .command("openssl")
            .args(["req", "-x509", "-nodes"])
            .args([
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=site", "-addext"])
            .arg(format!("subjectAltName=DNS:{SITE}"))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        Ok([
            std::fs::read_to_string(key)?,
            std::fs::read_to_string(certificate)?,
        ])
    }

    fn controller(&self, account: &Account) -> Result<Controller> {
        let name = &account.name;
        let mut command = self.netns.command(binaries()?.join("portolan-ingress"));
        command
            .arg("--kubeconfig")
            .arg(account.kubeconfig(&self.plane))
            .arg(format!("--controller=example.com/{name}"))
            .args([format!("--lease={name}"), format!("--namespace={name}")])
            .args([
                format!("--pod={name}"),
                format!("--publish-service={name}/front"),
            ])
            .args([format!("--http=127.0.0.1:{}", port(account, 0))])
            .args([format!("--https=127.0.0.1:{}", port(account, 1))])
            .args([format!("--status=[::]:{}", port(account, 2))])
            .args(["--workers=1", "--drain-delay=0s", "--drain-timeout=1s"]);
        let log = self.scratch.path().join(format!("{name}.log"));
        let process = cluster::start("portolan-ingress", command, &log)?;
        Ok(Controller {
            account: account.clone(),
            process,
        })
    }

    /// What `kubectl get` has.
    fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self
            .plane
            .try_kubectl(&[&["get", "-o", "json"], words].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    fn asks(&self, words: &[&str]) -> Result<String> {
        let words = [&["-s", "-f", "-m", ANSWER], words].concat();
        self.netns.run("curl", &words)
    }
}

/// Each controller has ports of its own, below those that the kernel gives.
fn port(account: &Account, number: usize) -> usize {
    20_000 + 10 * account.number + number
}

fn ingress(account: &Account, name: &str, class: &str, service: &str) -> Value {
    let service = json!({"name": service, "port": {"number": 80}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": service}});
    let host = if name == "site" {
        SITE.to_owned()
    } else {
        format!("{name}.example.org")
    };
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": account.name},
        "spec": {"ingressClassName": class, "rules": [{"host": host, "http": {"paths": [path]}}]},
    });
    if name == "site" {
        object["spec"]["tls"] = json!([{"hosts": [SITE], "secretName": "site"}]);
    }
    object
}

fn class(account: &Account, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name},
        "spec": {"controller": format!("example.com/{}", account.name)},
    })
}

fn secret(account: &Account, [key, certificate]: &[String; 2]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "site", "namespace": account.name},
        "stringData": {"tls.key": key, "tls.crt": certificate},
    })
}

fn service(account: &Account, name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": account.name},
        "spec": {"ports": [{"port": 80}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

/// The class that comes after the Ingress that names it.
fn late(account: &Account) -> String {
    format!("late-{}", account.name)
}

/// What is there before.
fn before(account: &Account, certificate: &[String; 2]) -> Vec<Value> {
    let name = &account.name;
    vec![
        class(account, name),
        ingress(account, "site", name, "web"),
        ingress(account, "broken", name, "absent"),
        ingress(account, "of-late", &late(account), "web"),
        service(account, "web", &json!({})),
        service(account, "front", &json!({"externalIPs": ["192.0.2.1"]})),
        secret(account, certificate),
    ]
}

/// What comes, or changes, when all is read: who may not watch does not hear of it.
fn after(account: &Account, certificate: &[String; 2]) -> Vec<Value> {
    // Its own /livez is what it leads to.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "web-1", "namespace": account.name, "labels": {"kubernetes.io/service-name": "web"},
        },
        "ports": [{"port": port(account, 2)}],
        "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": true}}],
    });
    vec![
        class(account, &late(account)),
        ingress(account, "later", &account.name, "web"),
        slice,
        service(account, "front", &json!({"externalIPs": ["192.0.2.2"]})),
        secret(account, certificate),
    ]
}

impl Controller {
    /// The addresses in an Ingress's status.
    fn addresses(&self, lab: &Lab, ingress: &str) -> Result<String> {
        let found = lab.get(&["-n", &self.account.name, "ingress", ingress])?;
        Ok(found["status"]["loadBalancer"]["ingress"].to_string())
    }

    fn is_ready(&self, lab: &Lab) -> bool {
        let url = format!("http://127.0.0.1:{}/readyz", port(&self.account, 2));
        lab.asks(&[&url]).is_ok()
    }

    /// The site's answer, over TLS if the second certificate is to be shown.
    fn answers(&self, lab: &Lab, is_tls: bool) -> bool {
        let port = port(&self.account, usize::from(is_tls));
        let scheme = if is_tls { "https" } else { "http" };
        let resolve = format!("{SITE}:{port}:127.0.0.1");
        let authority = lab.scratch.path().join("second.crt");
        let authority = authority.to_string_lossy();
        let url = format!("{scheme}://{SITE}:{port}/livez");
        let words = ["--resolve", &resolve, "--cacert", &authority, &url];
        lab.asks(&words).is_ok_and(|said| said == "ok\n")
    }

    /// Whether it is seen that it has the right.
    ///
    /// # Panics
    /// When nothing is known that shows the right.
    fn is_seen(&self, lab: &Lab, right: &Right) -> Result<bool> {
        let has = |ingress: &str, text: &str| -> Result<bool> {
            Ok(self.addresses(lab, ingress)?.contains(text))
        };
        let words = right.words();
        Ok(match words.as_str() {
            "watch ingressclasses" => has("of-late", "192.0.2")?,
            "watch ingresses" => has("later", "192.0.2")?,
            "watch services" => has("site", "192.0.2.2")?,
            "watch endpointslices" => self.answers(lab, false),
            "watch secrets" => self.answers(lab, true),
            // Who cannot take the Lease writes nothing.
            "patch ingresses/status" | "create leases" | "get leases" => has("site", "192.0.2")?,
            "create events" => {
                let events = lab.get(&["-n", &self.account.name, "events.events.k8s.io"])?;
                let events = events["items"].as_array().context("no items")?.clone();
                let is_of = |event: &Value| event["regarding"]["name"] == "broken";
                events.iter().any(is_of)
            }
            // It is given back at the end.
            "update leases" => {
                let lease = lab.get(&["-n", &self.account.name, "lease", &self.account.name])?;
                lease["spec"]["holderIdentity"].as_str().unwrap_or_default() == ""
            }
            _ if right.verb == "list" => self.is_ready(lab),
            _ => panic!("nothing shows {words}"),
        })
    }
}

fn is_at_the_end(right: &Right) -> bool {
    right.words() == "update leases"
}

#[test]
fn every_right_lets_the_ingress_do_something_that_it_cannot_do_without() {
    require_root!();
    let rights = rights::of_ingress();
    assert_eq!(rights.len(), 2 * READ + 5);
    let lab = Lab::start().unwrap();
    let certificates = ["first", "second"].map(|name| lab.certificate(name).unwrap());
    let accounts = Account::all("ingress-", &rights);
    let mut objects = Vec::new();
    for account in &accounts {
        // Controllers that are not replicas of one another have Leases with names of their own.
        let own = |right: &Right| right.clone().for_object(&account.name);
        let as_own = Account {
            lacks: account.lacks.as_ref().map(own),
            ..account.clone()
        };
        objects.extend(as_own.objects(&rights.iter().map(own).collect::<Vec<_>>()));
        objects.extend(before(account, &certificates[0]));
    }
    make(&lab.plane, &objects);
    let start = |account| lab.controller(account).unwrap();
    let mut controllers: Vec<Controller> = accounts.iter().map(start).collect();
    eventually(SOON, "all that may read ready", || {
        for one in &controllers {
            let lacks = one.account.lacks.as_ref();
            let may_read = lacks.is_none_or(|right| right.verb != "list");
            ensure!(!may_read || one.is_ready(&lab), "{}", one.process.log());
        }
        Ok(())
    })
    .unwrap();
    let all = accounts.iter();
    let changes: Vec<Value> = all.flat_map(|one| after(one, &certificates[1])).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": changes});
    lab.plane.apply(&list.to_string());
    eventually(SOON, "all that is done with all rights", || {
        let whole = &controllers[0];
        for right in rights.iter().filter(|right| !is_at_the_end(right)) {
            let is_seen = whole.is_seen(&lab, right)?;
            ensure!(is_seen, "{}: {}", right.words(), whole.process.log());
        }
        Ok(())
    })
    .unwrap();
    each_lacks_what_it_lacks(&lab, &controllers);
    for controller in &mut controllers {
        let ended = controller.process.terminate(SOON).unwrap();
        assert!(ended.success(), "{}", controller.process.log());
    }
    let last: Vec<&Right> = rights.iter().filter(|right| is_at_the_end(right)).collect();
    assert_eq!(last.len(), 1);
    for controller in &controllers {
        let lacks = controller.account.lacks.as_ref();
        if lacks.is_none_or(is_at_the_end) {
            let is_given_back = controller.is_seen(&lab, last[0]).unwrap();
            assert_eq!(
                is_given_back,
                lacks.is_none(),
                "{}",
                controller.process.log()
            );
        }
    }
}

fn each_lacks_what_it_lacks(lab: &Lab, controllers: &[Controller]) {
    eventually(SOON, "a refusal of each", || {
        for Controller { account, .. } in controllers {
            let wanted: BTreeSet<String> = account.lacks.iter().map(Right::words).collect();
            let refused = refused(&lab.plane, &account.user());
            ensure!(refused == wanted, "{}: {refused:?}", account.name);
        }
        Ok(())
    })
    .unwrap();
    std::thread::sleep(A_WHILE);
    let mut looked_at = 0;
    for controller in controllers {
        let Some(right) = &controller.account.lacks else {
            continue;
        };
        if !is_at_the_end(right) {
            let is_seen = controller.is_seen(lab, right).unwrap();
            assert!(!is_seen, "seen of {}", controller.account.name);
        }
        let said = controller.process.log();
        assert!(right.verb != "list" || said.contains("orbidden"), "{said}");
        looked_at += 1;
    }
    assert_eq!(looked_at + 1, controllers.len());
}
