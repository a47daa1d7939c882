//! What many Services cost in the mode nftables, to the kernel: `cargo build --release -p services --example tables`, then
//! `unshare -n target/release/examples/tables [N [local]]`: with `local` each is a load balancer's with policy Local. It writes to the network namespace that it is started in, and takes all back.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement"
)]

mod objects;

use std::sync::Arc;
use std::time::Instant;

use netfilter::nft::{Message, Parts, Reading, Steps, plan, removal, repair, requests};
use netfilter::{Family, InterfaceName};
use routes::{NfTables, NftRequest};
use services::proxy::index::{Index, Place};
use services::proxy::model::Model;
use services::proxy::nftables::{Compiler, Options};

use objects::{balanced, service, slice};

const FAMILY: Family = Family::V4;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = work();
    let took = start.elapsed().as_secs_f64() * 1e3;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let resident = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    println!("{what:44} {took:9.3} ms   {resident:>8} kB");
    made
}

struct Kernel {
    runtime: tokio::runtime::Runtime,
    socket: NfTables,
}

fn request(message: Message) -> NftRequest {
    let Message { kind, flags, body } = message;
    NftRequest { kind, flags, body }
}

impl Kernel {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        let socket = runtime.block_on(async { NfTables::open().unwrap() });
        Self { runtime, socket }
    }

    fn write(&mut self, steps: Steps) {
        for transaction in steps.transactions {
            let requests = transaction.into_iter().map(request).collect();
            let committed = self.socket.commit(requests);
            self.runtime.block_on(committed).unwrap();
        }
    }

    fn read(&mut self) -> Reading {
        let mut reading = Reading::default();
        let mut ask = |reading: &mut Reading, message| {
            let told = self.runtime.block_on(self.socket.dump(request(message)));
            for (kind, body) in told.unwrap() {
                reading.take(kind, &body);
            }
        };
        for message in requests(FAMILY) {
            ask(&mut reading, message);
        }
        for message in reading.element_requests(FAMILY) {
            ask(&mut reading, message);
        }
        reading
    }
}

fn main() {
    let count = std::env::args().nth(1);
    let count = count.map_or(10_000, |text| text.parse().unwrap());
    let is_local = std::env::args().nth(2).is_some_and(|word| word == "local");
    let make = if is_local { balanced } else { service };
    let (mut index, mut model) = (Index::default(), Model::default());
    // One endpoint of each is here, or none.
    let mut touched = index.set_place(Place {
        node: if is_local { "n0" } else { "other" }.to_owned(),
        ..Place::default()
    });
    let kind = if is_local { "of policy Local " } else { "" };
    println!("{count} Services {kind}with 5 endpoints each");
    for number in 0..count {
        touched.extend(index.set_service(make(number)));
        touched.extend(index.set_slice(slice(number, 5)));
    }
    let changed = timed("model", || model.refresh(&index, &touched));
    let mut compiler = Compiler::new(Options::new(InterfaceName::new("ptl").unwrap()));
    timed("tables", || compiler.update(&model, &changed));
    let mut kernel = Kernel::open();
    let mut held: Arc<Parts> = compiler.parts(FAMILY).clone();
    let steps = timed("plan of all", || repair(FAMILY, &Reading::default(), &held));
    let octets: usize = steps
        .transactions
        .iter()
        .flatten()
        .map(|one| one.body.len() + 16)
        .sum();
    println!(
        "{} requests, {octets} octets, {} transactions",
        steps.requests(),
        steps.transactions.len()
    );
    timed("all to the kernel", || kernel.write(steps));
    let read = timed("read back", || kernel.read());
    let more = timed("what differs", || repair(FAMILY, &read, &held));
    assert!(more.is_empty());
    drop(read);
    for (what, endpoints, of) in [
        ("one endpoint more", Some(6), 17),
        ("another endpoint more", Some(6), 21),
        ("the last endpoint gone", Some(0), 18),
        ("an endpoint again", Some(5), 18),
        ("a Service more", None, count),
    ] {
        let start = Instant::now();
        timed(&format!("{what}: model and tables"), || {
            let touched = match endpoints {
                Some(endpoints) => index.set_slice(slice(of, endpoints)),
                None => index.set_service(make(of)),
            };
            let changed = model.refresh(&index, &touched);
            compiler.update(&model, &changed);
        });
        let wanted = compiler.parts(FAMILY).clone();
        let steps = timed(&format!("{what}: plan"), || plan(FAMILY, &held, &wanted));
        timed(&format!("{what}: to the kernel"), || kernel.write(steps));
        println!(
            "{what}: {:.3} ms in all",
            start.elapsed().as_secs_f64() * 1e3
        );
        held = wanted;
    }
    timed("all away", || kernel.write(removal(FAMILY)));
}
