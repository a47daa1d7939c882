//! What the numbers were measured on.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// A machine, a day and a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processors' model and number.
    pub processor: String,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The day, UTC.
    pub date: String,
}

impl Machine {
    /// This one, now.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn here() -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = value(&cpuinfo, "model name").unwrap_or("unknown processor");
        let count = std::thread::available_parallelism()?;
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let kib = value(&meminfo, "MemTotal").and_then(|text| text.split(' ').next());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            processor: format!("{count} × {model}"),
            memory_gib: kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20,
            kernel: kernel.trim().to_owned(),
            date: tests::netns::run("date", &["-u", "+%F"])?.trim().to_owned(),
        })
    }
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim())
}
