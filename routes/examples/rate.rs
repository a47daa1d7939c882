//! Measures how fast routes go into the kernel and how fast lost gateways are taken out of them; needs root.
//!
//! `cargo run --release -p routes --example rate [ROUTES]`, each row in a network namespace of its own.
#![allow(clippy::print_stdout, reason = "a measurement prints its numbers")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, unshare};
use routes::{Gateway, Monitor, Options, RouteTable, Target};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What one row measures.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    v6: bool,
    /// Gateways of every route.
    ways: u8,
    options: Options,
}

/// One row: rates in routes a second.
struct Row {
    installed: f64,
    replaced: f64,
    adopted: Duration,
    repointed: Duration,
    deleted: f64,
    /// CPU time of the first installation, of all threads.
    cpu: Duration,
}

fn main() -> Outcome<()> {
    let count = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let objects = Options {
        next_hop_objects: true,
    };
    let inline = Options {
        next_hop_objects: false,
    };
    let case = |name, v6, ways, options| Case {
        name,
        v6,
        ways,
        options,
    };
    let cases = [
        case("v4, 1 gateway", false, 1, objects),
        case("v6, 1 gateway", true, 1, objects),
        case("v4, 2-way group", false, 2, objects),
        case("v6, 2-way group", true, 2, objects),
        case("v4, 4-way group", false, 4, objects),
        case("v6, 4-way group", true, 4, objects),
        case("v4, 4-way RTA_MULTIPATH", false, 4, inline),
        case("v6, 4-way RTA_MULTIPATH", true, 4, inline),
    ];
    println!("{count} routes; table's bookkeeping included; a monitor listens");
    println!(
        "{:<24} {:>10} {:>12} {:>10} {:>9} {:>11} {:>9}",
        "", "install/s", "CPU us/route", "replace/s", "adopt ms", "repoint ms", "delete/s"
    );
    let bare = std::thread::spawn(move || in_namespace(|| ceiling(count)));
    let (rate, cpu) = bare.join().map_err(|_| "the measurement panicked")??;
    let cpu = cpu.as_secs_f64() * 1e6 / f64::from(count);
    println!("{:<24} {rate:>10.0} {cpu:>12.2}", "v4, the kernel alone");
    for case in cases {
        let row = std::thread::spawn(move || measured(case, count));
        let row = row.join().map_err(|_| "the measurement panicked")??;
        println!(
            "{:<24} {:>10.0} {:>12.2} {:>10.0} {:>9.1} {:>11.1} {:>9.0}",
            case.name,
            row.installed,
            row.cpu.as_secs_f64() * 1e6 / f64::from(count),
            row.replaced,
            row.adopted.as_secs_f64() * 1e3,
            row.repointed.as_secs_f64() * 1e3,
            row.deleted,
        );
    }
    Ok(())
}

fn measured(case: Case, count: u32) -> Outcome<Row> {
    in_namespace(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build()?.block_on(measure(case, count))
    })
}

/// Makes a namespace for this thread and measures there.
fn in_namespace<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip("link set lo up")?;
    ip("link add up0 type veth peer name up1")?;
    ip("addr add 192.0.2.1/24 dev up0")?;
    ip("-6 addr add 2001:db8::1/64 dev up0 nodad")?;
    ip("link set up1 up")?;
    ip("link set up0 up")?;
    work()
}

/// What the kernel takes at most: the same requests, made beforehand, nobody listening.
fn ceiling(count: u32) -> Outcome<(f64, Duration)> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut batches = vec![Vec::new()];
    for n in 0..count {
        if batches.last().is_some_and(|batch| batch.len() > 60_000) {
            batches.push(Vec::new());
        }
        if let (Some(batch), IpAddr::V4(address)) = (batches.last_mut(), prefix(false, n)?.addr()) {
            // Header: length 52, RTM_NEWROUTE, request and create and exclusive, number, no port.
            batch.extend_from_slice(&52u32.to_ne_bytes());
            batch.extend_from_slice(&24u16.to_ne_bytes());
            batch.extend_from_slice(&0x601u16.to_ne_bytes());
            batch.extend_from_slice(&[0; 8]);
            batch.extend_from_slice(&[2, 26, 0, 0, 254, 179, 0, 1, 0, 0, 0, 0]);
            // RTA_DST, RTA_PRIORITY, RTA_GATEWAY.
            let values = [
                (1u16, address.octets()),
                (6, 179u32.to_ne_bytes()),
                (5, [192, 0, 2, 2]),
            ];
            for (kind, value) in values {
                batch.extend_from_slice(&8u16.to_ne_bytes());
                batch.extend_from_slice(&kind.to_ne_bytes());
                batch.extend_from_slice(&value);
            }
        }
    }
    for batch in &mut batches {
        let flags = batch.len() - 52 + 6;
        batch.splice(flags..flags + 2, 0x605u16.to_ne_bytes());
    }
    let (before, start) = (cpu()?, Instant::now());
    for batch in &batches {
        socket.send(batch, 0)?;
        let (answer, _) = socket.recv_from_full()?;
        if answer.get(16..20) != Some(&[0; 4]) {
            return Err(format!("the kernel answered {answer:?}").into());
        }
    }
    let took = start.elapsed();
    Ok((f64::from(count) / took.as_secs_f64(), cpu()? - before))
}

async fn measure(case: Case, count: u32) -> Outcome<Row> {
    let mut table = RouteTable::open_with(case.options).await?;
    let mut monitor = Monitor::open(&table)?;
    let listener = tokio::spawn(async move {
        loop {
            monitor.next().await;
        }
    });
    let before = cpu()?;
    let installed = write(&mut table, case, count, 2).await?;
    let cpu = cpu()? - before;
    let replaced = write(&mut table, case, count, 32).await?;
    let start = Instant::now();
    let found = RouteTable::open_with(case.options).await?.status().adopted;
    let adopted = start.elapsed();
    if found != count as usize {
        return Err(format!("adopted {found}").into());
    }
    let start = Instant::now();
    let first = gateway(case.v6, 32);
    let done = table.handle_gateway_down(first, None).await;
    if done.waiting > 0 {
        table.apply().await;
    }
    let repointed = start.elapsed();
    let start = Instant::now();
    for n in 0..count {
        table.set(prefix(case.v6, n)?, None);
    }
    let report = table.apply().await;
    let took = start.elapsed();
    table.remove_all().await;
    listener.abort();
    if report.deleted != count as usize || table.status().nexthops > 0 {
        return Err(format!("deleted {report:?}").into());
    }
    Ok(Row {
        installed,
        replaced,
        adopted,
        repointed,
        deleted: f64::from(count) / took.as_secs_f64(),
        cpu,
    })
}

/// Sets all routes and applies, timing both; `first` numbers the first gateway.
async fn write(table: &mut RouteTable, case: Case, count: u32, first: u8) -> Outcome<f64> {
    let gateways = (first..first + case.ways).map(|n| Gateway::new(gateway(case.v6, n)));
    let target = Target::Gateways(gateways.collect());
    let start = Instant::now();
    for n in 0..count {
        table.set(prefix(case.v6, n)?, Some(target.clone()));
    }
    let report = table.apply().await;
    let took = start.elapsed();
    if report.written != count as usize {
        let first = report.failed.first();
        return Err(format!("wrote {} of {count}: {first:?}", report.written).into());
    }
    Ok(f64::from(count) / took.as_secs_f64())
}

/// This process's CPU time so far, by the kernel's clock of 100 ticks a second.
fn cpu() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let sum = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(sum * 10))
}

fn gateway(v6: bool, n: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2, n).into()
    }
}

fn prefix(v6: bool, n: u32) -> Outcome<IpNet> {
    Ok(if v6 {
        let bits = (0x2001_0db9u128 << 96) | (u128::from(n) << 64);
        IpNet::new(Ipv6Addr::from_bits(bits).into(), 64)?
    } else {
        IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + n * 64).into(), 26)?
    })
}

fn ip(arguments: &str) -> Outcome<()> {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments} failed").into())
    }
}
