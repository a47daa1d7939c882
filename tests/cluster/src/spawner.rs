//! Starts programs that end with the test process, whatever ends that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context as _, Result};
use tests::process::Process;

/// A program to start, and who waits for it.
struct Order {
    name: String,
    command: Command,
    log: PathBuf,
    answer: Sender<Result<Process>>,
}

/// How many programs wait to be started at most.
const WAITING: usize = 16;

static SPAWNER: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();

/// Starts `command` with its output appended to `log`. The kernel kills it when this process ends, be it by SIGKILL: that is
/// bound to the thread that started it, so one that lasts as long as the process does it, not the test's own.
///
/// # Errors
/// When the log can't be opened or the program can't be started.
pub fn start(name: &str, command: Command, log: &Path) -> Result<Process> {
    let orders = SPAWNER.get_or_init(|| {
        let (orders, waiting) = sync_channel(WAITING);
        std::thread::spawn(move || serve(&waiting));
        Mutex::new(orders)
    });
    let (answer, started) = channel();
    let order = Order {
        name: name.to_owned(),
        command,
        log: log.to_owned(),
        answer,
    };
    let orders = orders
        .lock()
        .map_err(|_| anyhow::anyhow!("a poisoned lock"))?;
    orders.send(order).ok().context("the spawner is gone")?;
    drop(orders);
    started.recv().context("the spawner is gone")?
}

/// A command whose process gets SIGKILL when the thread that starts it ends; [`start`] is the one to start it.
#[must_use]
pub(crate) fn bound(program: &Path) -> Vec<std::ffi::OsString> {
    let words = ["setpriv", "--pdeathsig", "KILL"];
    let words = words.into_iter().map(Into::into);
    words.chain([program.as_os_str().to_owned()]).collect()
}

fn serve(orders: &Receiver<Order>) {
    for order in orders {
        let process = Process::start(&order.name, order.command, &order.log);
        // Whoever ordered it may have panicked: the process ends with its handle then.
        let _ = order.answer.send(process);
    }
}
