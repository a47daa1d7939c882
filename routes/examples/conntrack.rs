//! Measures how long 50,000 tracked flows take to be listed, and some of them to be deleted, beside the tool; needs root.
//!
//! `cargo run --release -p routes --example conntrack [FLOWS [SETS]]`, in network namespaces of its own.
#![allow(clippy::print_stdout, reason = "a measurement prints its numbers")]

use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sched::{CloneFlags, unshare};
use routes::conntrack::{
    ConntrackEntry, Filter, Place, Ports, Status, TcpState, Tuple, delete, list,
};
use routes::rule_notices::set_headers;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 7;

fn main() -> Outcome<()> {
    let number = |place: usize, default| {
        let given = std::env::args().nth(place);
        given.map_or(Ok(default), |n| n.parse::<u32>())
    };
    let (flows, sets) = (number(1, 50_000)?, number(2, 2_000)?);
    let panicked = |_| "the measurement panicked";
    let work = std::thread::spawn(move || in_namespace(measure_flows(flows)));
    work.join().map_err(panicked)??;
    let work = std::thread::spawn(move || in_namespace(measure_sets(sets)));
    work.join().map_err(panicked)?
}

/// Makes a namespace for this thread and measures there.
fn in_namespace(work: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build()?.block_on(work)
}

async fn measure_flows(count: u32) -> Outcome<()> {
    create(0..count)?;
    let mut all = Vec::new();
    let mut rows = [const { Vec::new() }; 3];
    let one = Filter {
        family: None,
        address: Some((Place::OriginalSource, client(0))),
    };
    let [listed, filtered, by_tool] = &mut rows;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        all = list(Filter::default()).await?;
        listed.push(start.elapsed());
        let start = Instant::now();
        let some = list(one).await?.len();
        filtered.push(start.elapsed());
        by_tool.push(timed("conntrack", "-L")?);
        println!("{} flows, {some} of one client", all.len());
    }
    println!("list all              {:>9.2?}", median(listed));
    println!("list one client's     {:>9.2?}", median(filtered));
    println!("conntrack -L          {:>9.2?}", median(by_tool));

    let mut singles = Vec::new();
    let mut singles_by_tool = Vec::new();
    for entry in all.drain(..ROUNDS) {
        let start = Instant::now();
        let outcome = delete(vec![entry]).await?;
        singles.push(start.elapsed());
        if outcome.deleted != 1 {
            return Err(format!("{outcome:?}").into());
        }
    }
    for entry in all.drain(..ROUNDS) {
        let Ports::Ports { source, .. } = entry.original.ports else {
            continue;
        };
        let words = format!(
            "-D -p tcp --orig-src {} --sport {source}",
            entry.original.source
        );
        singles_by_tool.push(timed("conntrack", &words)?);
    }
    println!("delete 1 (known)      {:>9.2?}", median(&mut singles));
    println!(
        "conntrack -D 1        {:>9.2?}",
        median(&mut singles_by_tool)
    );
    let thousand: Vec<_> = all.drain(..all.len().min(1000)).collect();
    let start = Instant::now();
    let outcome = delete(thousand).await?;
    println!(
        "delete {:<6}         {:>9.2?}",
        outcome.deleted,
        start.elapsed()
    );
    let start = Instant::now();
    let mut found = list(Filter::default()).await?;
    found.retain(|entry| entry.original.source == client(0));
    let outcome = delete(found).await?;
    println!(
        "find and delete {:<4}  {:>9.2?}",
        outcome.deleted,
        start.elapsed()
    );
    let took = timed("conntrack", &format!("-D --orig-src {}", client(1)))?;
    println!("conntrack -D, as many {took:>9.2?}");
    Ok(())
}

async fn measure_sets(count: u32) -> Outcome<()> {
    let mut text = String::new();
    for set in 0..count {
        text += &format!("create ptl4-{set} hash:ip\n");
        for member in 0..10_u32 {
            let address = Ipv4Addr::from(0x0a00_0000 + set * 16 + member);
            text += &format!("add ptl4-{set} {address}\n");
        }
    }
    let mut child = Command::new("ipset")
        .arg("restore")
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().ok_or("no input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    if !child.wait()?.success() {
        return Err("ipset restore failed".into());
    }
    let (mut looks, mut by_tool) = (Vec::new(), Vec::new());
    let mut cpu = Duration::ZERO;
    for _ in 0..ROUNDS {
        let before = cpu_time()?;
        let start = Instant::now();
        let headers = set_headers().await?.len();
        looks.push(start.elapsed());
        cpu += cpu_time()?.saturating_sub(before);
        if headers != count as usize {
            return Err(format!("{headers} of {count} sets").into());
        }
        by_tool.push(timed("ipset", "list -t")?);
    }
    println!("headers of {count} sets  {:>9.2?}", median(&mut looks));
    println!("  CPU of it           {:>9.2?}", cpu / 7);
    println!("ipset list -t         {:>9.2?}", median(&mut by_tool));
    Ok(())
}

fn client(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a01_0000 + n).into()
}

/// Makes flows of 100 ports from each client through a Service to one of ten pods.
fn create(numbers: std::ops::Range<u32>) -> Outcome<()> {
    const NEW: u16 = 0x0100;
    const REQUEST_CREATE: u16 = 0x0401;
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let mut batch = Vec::new();
    for n in numbers {
        let start = batch.len();
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&NEW.to_ne_bytes());
        batch.extend_from_slice(&REQUEST_CREATE.to_ne_bytes());
        batch.extend_from_slice(&[0; 8]);
        flow(n)?.write(&mut batch);
        let length = u32::try_from(batch.len() - start)?;
        batch
            .get_mut(start..start + 4)
            .ok_or("no header")?
            .copy_from_slice(&length.to_ne_bytes());
        if batch.len() > 60_000 {
            socket.send(&batch, 0)?;
            batch.clear();
        }
    }
    socket.send(&batch, 0)?;
    Ok(())
}

fn flow(n: u32) -> Outcome<ConntrackEntry> {
    let port = u16::try_from(40_000 + n % 100)?;
    let pod: IpAddr = Ipv4Addr::from(0x0af4_0000 + n % 10).into();
    let ports = |source, destination| Ports::Ports {
        source,
        destination,
    };
    let tuple = |source, destination, ports| Tuple {
        source,
        destination,
        ports,
        zone: None,
    };
    let (client, vip) = (client(n / 100), IpAddr::from([10, 96, 0, 1]));
    Ok(ConntrackEntry {
        protocol: 6,
        original: tuple(client, vip, ports(port, 80)),
        reply: tuple(pod, client, ports(8080, port)),
        zone: 0,
        mark: 0,
        id: 0,
        tcp_state: Some(TcpState::ESTABLISHED),
        // Seen in both directions, assured, confirmed.
        status: Status(2 | 4 | 8),
        timeout: 3600,
    })
}

fn timed(program: &str, words: &str) -> Outcome<Duration> {
    let start = Instant::now();
    let mut command = Command::new(program);
    command.args(words.split_whitespace());
    let status = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("{program} {words}: {status}").into());
    }
    Ok(start.elapsed())
}

/// The CPU time of all threads of this process, in hundredths of a second.
fn cpu_time() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let sum = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(sum * 10))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
