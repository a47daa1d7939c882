//! Who reaches whom, by real connections, against a table of who should.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::lab::Lab;
use tests::reach::{Transport, Verdict, attempt, server_at};

/// All that can be a source or a destination.
const PLACES: [&str; 6] = [
    "shop/web",
    "shop/cache",
    "shop/db",
    "team/client",
    "team/tester",
    "outside",
];

/// What `examples/demo-policy/db-only-from-web.yaml` leaves open into namespace shop; TCP only.
const OPEN_INTO_SHOP: [(&str, &str); 3] = [
    ("shop/web", "shop/db"),
    ("team/client", "shop/web"),
    ("outside", "shop/web"),
];

/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// None.
    Absent,
    /// The file of the demo.
    InForce,
}

struct Cell {
    from: &'static str,
    to: &'static str,
    transport: Transport,
    verdict: Verdict,
}

/// Tries every pair over TCP and UDP, prints the matrix, and fails where it isn't as it should be.
pub(crate) fn show(lab: &Lab, policy: Policy) -> Result<()> {
    let cells = measure(lab)?;
    println!("  tcp/udp: ✓ answered, · dropped, x refused; rows connect to columns");
    print!("  {:<12}", "");
    PLACES.iter().for_each(|to| print!(" {to:<12}"));
    println!();
    for from in PLACES {
        print!("  {from:<12}");
        for to in PLACES {
            print!(" {:<12}", signs(&cells, from, to));
        }
        println!();
    }
    let wrong: Vec<String> = cells
        .iter()
        .filter(|cell| cell.verdict != expected(cell, policy))
        .map(|c| format!("{} {} → {}: {:?}", c.transport, c.from, c.to, c.verdict))
        .collect();
    ensure!(
        wrong.is_empty(),
        "not as it should be: {}",
        wrong.join("; ")
    );
    println!("  {} connections tried, all as they should be", cells.len());
    Ok(())
}

fn measure(lab: &Lab) -> Result<Vec<Cell>> {
    let pairs = PLACES
        .iter()
        .flat_map(|from| PLACES.iter().map(move |to| (*from, *to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    let wanted: Vec<_> = pairs
        .flat_map(|(from, to)| [(from, to, Transport::Tcp), (from, to, Transport::Udp)])
        .collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = wanted
            .iter()
            .map(|&(from, to, transport)| scope.spawn(move || try_one(lab, from, to, transport)))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(cell) => cell,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

fn try_one(lab: &Lab, from: &'static str, to: &'static str, transport: Transport) -> Result<Cell> {
    let (netns, _) = lab.place(from, false)?;
    let (_, address) = lab.place(to, false)?;
    let verdict = attempt(netns, server_at(address), transport, PATIENCE)?;
    Ok(Cell {
        from,
        to,
        transport,
        verdict,
    })
}

fn expected(cell: &Cell, policy: Policy) -> Verdict {
    let is_isolated = policy == Policy::InForce && cell.to.starts_with("shop/");
    let is_open =
        cell.transport == Transport::Tcp && OPEN_INTO_SHOP.contains(&(cell.from, cell.to));
    if is_isolated && !is_open {
        Verdict::Silent
    } else {
        Verdict::Answered
    }
}

fn signs(cells: &[Cell], from: &str, to: &str) -> String {
    let sign = |transport| {
        let mut of_pair = cells
            .iter()
            .filter(|cell| cell.from == from && cell.to == to);
        match of_pair
            .find(|cell| cell.transport == transport)
            .map(|cell| cell.verdict)
        {
            None => "-",
            Some(Verdict::Answered) => "✓",
            Some(Verdict::Silent) => "·",
            Some(Verdict::Refused) => "x",
        }
    };
    format!("{}/{}", sign(Transport::Tcp), sign(Transport::Udp))
}
