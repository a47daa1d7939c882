//! What the processes of a namespace use: memory and processor time, from /proc.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tests::netns::Netns;

/// The processes of a daemon, and when watching them began.
#[derive(Debug)]
pub struct Watch {
    processes: Vec<i32>,
    start: Instant,
    daemon: Duration,
    own: Duration,
    busy: Duration,
}

/// What was used since the watch began.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of the daemon.
    pub daemon: Duration,
    /// Processor time of neither the daemon nor the generator, as a part of all processors: 0 to 1.
    pub foreign: f64,
}

impl Watch {
    /// Begins to watch the processes inside `netns`.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn start(netns: &Netns) -> Result<Self> {
        Self::of(netns.processes()?)
    }

    /// Begins to watch these processes.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn of(processes: Vec<i32>) -> Result<Self> {
        Ok(Self {
            daemon: processor_time(&processes)?,
            processes,
            own: own_time()?,
            busy: busy_time()?,
            start: Instant::now(),
        })
    }

    /// What was used until now.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn usage(&self) -> Result<Usage> {
        let daemon = processor_time(&self.processes)?.saturating_sub(self.daemon);
        let own = own_time()?.saturating_sub(self.own);
        let busy = busy_time()?.saturating_sub(self.busy);
        let processors = std::thread::available_parallelism()?.get();
        let all = self.start.elapsed().as_secs_f64() * processors as f64;
        let foreign = busy.saturating_sub(daemon + own).as_secs_f64() / all;
        Ok(Usage { daemon, foreign })
    }

    /// The most memory its processes ever had resident, summed; KiB.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn peak_memory(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// The memory its processes have resident now, summed; KiB.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn memory_now(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The memory that is theirs alone and no file's, summed; KiB.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn anonymous_memory(&self) -> Result<u64> {
        self.memory("RssAnon:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let of = |pid: &i32| -> Result<u64> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            let word = line.and_then(|rest| rest.split_whitespace().next());
            Ok(word.with_context(|| field.to_owned())?.parse()?)
        };
        self.processes.iter().map(of).sum()
    }
}

/// What a process and the programs that it has run to their end have used since it was started, in ticks of 10 ms.
///
/// # Errors
/// When it is gone.
pub fn with_programs(process: i32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name in brackets: state is the first, utime the 12th; then stime, cutime, cstime.
    let rest = text.rsplit(") ").next().unwrap_or_default();
    let words = rest.split(' ').skip(11).take(4);
    let ticks = words.filter_map(|word| word.parse::<u64>().ok());
    Ok(Duration::from_millis(ticks.sum::<u64>() * 10))
}

/// What all threads of these processes have run for, to the nanosecond.
fn processor_time(processes: &[i32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in processes {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the reading.
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let nanos = text.split_whitespace().next().unwrap_or_default();
            sum += Duration::from_nanos(nanos.parse().unwrap_or(0));
        }
    }
    Ok(sum)
}

/// What this process has run for, its ended threads too.
fn own_time() -> Result<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}

/// What all processors have been busy for, interrupts and stolen time too.
fn busy_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let numbers = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse::<u64>().ok());
    // user nice system idle iowait irq softirq steal: all but idle and iowait, in ticks of 10 ms.
    let ticks: u64 = numbers
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}
