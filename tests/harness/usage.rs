//! What a process takes of the machine.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Result, at};

/// Memory and CPU time of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Memory in RAM now.
    pub resident_bytes: u64,
    /// The most memory it ever had in RAM.
    pub peak_resident_bytes: u64,
    /// CPU time, user and system, since its start.
    pub cpu: Duration,
    /// Its threads.
    pub threads: u64,
}

impl Usage {
    /// Reads it for a living process.
    pub fn of(process: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = PathBuf::from(format!("/proc/{process}/{file}"));
            std::fs::read_to_string(&path).map_err(at(&path))
        };
        let (status, stat) = (read("status")?, read("stat")?);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
            number.and_then(|number| number.parse::<u64>().ok()).unwrap_or_default()
        };
        let ticks: u64 =
            stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Self {
            resident_bytes: field("VmRSS") * 1024,
            peak_resident_bytes: field("VmHWM") * 1024,
            cpu: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)),
            threads: field("Threads"),
        })
    }
}
