//! Changes under load: not one request of a client that does nothing wrong fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::lab::{LEAVING, Lab, READY, eventually, ingress, secret, secured, service};

/// Several curls that ask again and again, each over connections that are kept and new ones.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(lab: &Arc<Lab>, url: &str, arguments: &[&str]) -> Self {
        let (is_over, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let clients = (0..3).map(|_| {
            let (lab, is_over, answered) = (lab.clone(), is_over.clone(), answered.clone());
            let url = format!("{url}/[1-40]");
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                arguments.extend(["-o", "/dev/null", "-w", "%{http_code}\n"]);
                while !is_over.load(Ordering::Relaxed) {
                    let output = lab.curl_output(&url, &arguments);
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let good = text.lines().filter(|line| *line == "200").count();
                    answered.fetch_add(u64::try_from(good).unwrap(), Ordering::Relaxed);
                    if good != 40 || !output.status.success() {
                        let why = String::from_utf8_lossy(&output.stderr).into_owned();
                        failed.push(format!("{text}{why}"));
                    }
                }
                failed
            })
        });
        Self {
            clients: clients.collect(),
            is_over,
            answered,
        }
    }

    /// Waits until so many more requests have been answered.
    fn go_on(&self, more: u64) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        eventually("answered", || {
            self.answered.load(Ordering::Relaxed) >= until
        });
    }

    /// Ends it; every request was answered by 200.
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            assert_eq!(client.join().unwrap(), [""; 0]);
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[test]
fn certificates_are_replaced_under_load_without_a_failed_request() {
    let a = Backend::start("a");
    let manifests = [
        secured("one", "a.com", "a", "own"),
        service("a", "", &[(a.address, READY)]),
    ]
    .concat();
    let lab = Arc::new(Lab::start(&manifests, &[]));
    lab.put("own.yaml", &secret("own", "a.com").0);
    let load = Load::start(&lab, "https://a.com", &["-k"]);
    for _ in 0..5 {
        load.go_on(200);
        lab.put("own.yaml", &secret("own", "a.com").0);
    }
    load.go_on(200);
    assert!(load.end() >= 1200);
}

#[test]
fn endpoints_come_drain_and_go_under_load_without_a_failed_request() {
    let backends: Vec<Backend> = (0..4)
        .map(|index| Backend::start(&index.to_string()))
        .collect();
    let manifests = |first: usize| {
        let ready =
            [&backends[first % 4], &backends[(first + 1) % 4]].map(|one| (one.address, READY));
        let leaving = (backends[(first + 3) % 4].address, LEAVING);
        [
            ingress("one", "a.com", "a", ""),
            service("a", "", &[ready[0], ready[1], leaving]),
        ]
        .concat()
    };
    let lab = Arc::new(Lab::start(&manifests(0), &[]));
    // A long request to an endpoint that leaves meanwhile is finished by it.
    let load = Load::start(&lab, "http://a.com", &[]);
    for turn in 1..9 {
        load.go_on(200);
        let slow = lab.clone();
        let running = std::thread::spawn(move || slow.curl("http://a.com/drip/400", &[]));
        load.go_on(20);
        lab.put("all.yaml", &manifests(turn));
        // Who is no longer ready gets no new request once the table is in force.
        load.go_on(150);
        let left = &backends[(turn + 3) % 4];
        let before = left.requests();
        load.go_on(200);
        assert_eq!(left.requests(), before);
        assert_eq!(running.join().unwrap().status, 200);
    }
    let answered = load.end();
    assert!(answered >= 4000, "{answered}");
    assert!(backends.iter().all(|backend| backend.requests() > 200));
}

#[test]
fn an_endpoint_whose_machine_dies_under_load_costs_a_few_requests_time_and_none_fails() {
    let backends = ["a", "b", "c"].map(Backend::start);
    let endpoints: Vec<_> = backends.iter().map(|one| (one.address, READY)).collect();
    let manifests = [
        ingress("one", "a.com", "a", ""),
        service("a", "", &endpoints),
    ]
    .concat();
    let flags = [
        "--unacknowledged-timeout",
        "1s",
        "--connect-timeout",
        "500ms",
    ];
    let lab = Arc::new(Lab::start(&manifests, &flags));
    let load = Load::start(&lab, "http://a.com", &[]);
    load.go_on(300);
    let before = lab.log(300).len();
    let [dead, ..] = &backends;
    dead.fall_silent();
    let asked = dead.requests();
    let start = Instant::now();
    // Long enough for it to be tried again twice.
    while start.elapsed() < Duration::from_secs(8) {
        load.go_on(100);
    }
    let answered = load.end();
    assert!(answered >= 1500, "{answered}");
    assert!(asked >= 80 && dead.requests() <= asked + 3, "{asked}");
    let lines = lab.log(before);
    let slow = lines
        .iter()
        .filter(|line| line["seconds"].as_f64().unwrap() > 0.4);
    // Those of the three clients that were at it, and one for each try of each of two workers.
    let slow = slow.count();
    assert!((1..=3 + 2 * 4).contains(&slow), "{slow} of {}", lines.len());
}
