//! Reads `/proc`: processor time, memory and bytes written by the lab's nodes, by this client and
//! by the rest of the machine.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokio::time::Instant;

/// Ticks a second in `/proc`, on every Linux.
const TICKS: f64 = 100.0;

/// Processor seconds of a process.
fn cpu_of(pid: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS
}

/// The number behind a key in a file of `/proc`.
fn field(path: &str, key: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// The fields of the machine's processors: user nice system idle iowait irq softirq steal.
fn machine() -> Vec<f64> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split_whitespace().skip(1).filter_map(|field| field.parse::<f64>().ok()).collect()
}

/// Processor seconds that the machine spent, and those the host took from it.
fn busy_and_steal() -> (f64, f64) {
    let fields = machine();
    let of = |at: usize| fields.get(at).copied().unwrap_or(0.0) / TICKS;
    (of(0) + of(1) + of(2) + of(5) + of(6), of(7))
}

/// Flushes that the disks completed, all of the machine.
fn flushes() -> f64 {
    let text = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let counts =
        text.lines().filter_map(|line| line.split_whitespace().nth(18)?.parse::<f64>().ok());
    counts.sum::<f64>()
}

/// The machine's load over the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Bytes allocated on disk below a folder.
#[must_use]
pub fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// What had been used when the measuring began.
#[derive(Debug)]
pub struct Probe {
    pids: Vec<u32>,
    begun: Instant,
    server: f64,
    client: f64,
    machine: (f64, f64),
    written: f64,
    flushes: f64,
}

impl Probe {
    /// Begins to measure. Without process ids there are no figures of the servers.
    #[must_use]
    pub fn start(pids: &[u32]) -> Probe {
        Probe {
            pids: pids.to_vec(),
            begun: Instant::now(),
            server: server_cpu(pids),
            client: cpu_of("self"),
            machine: busy_and_steal(),
            written: written(pids),
            flushes: flushes(),
        }
    }

    /// What was used since; for each message where there are any.
    #[must_use]
    pub fn end(&self, messages: u64) -> Value {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-6);
        let server = server_cpu(&self.pids) - self.server;
        let client = cpu_of("self") - self.client;
        let machine = busy_and_steal();
        let other = (machine.0 - self.machine.0 - server - client).max(0.0);
        let mut used = json!({
            "client_cores": hundredths(client / seconds),
            "other_cores": hundredths(other / seconds),
            "steal_cores": hundredths((machine.1 - self.machine.1) / seconds),
        });
        let known = !self.pids.is_empty();
        if known {
            used["server_cores"] = hundredths(server / seconds);
            used["server_rss_mib"] = self.memory();
        }
        if messages > 0 {
            let each = messages as f64;
            used["client_cpu_us_per_msg"] = hundredths(client * 1e6 / each);
            let flushes = (flushes() - self.flushes) / each;
            used["machine_flushes_per_msg"] = json!((flushes * 1000.0).round() / 1000.0);
            if known {
                used["server_cpu_us_per_msg"] = hundredths(server * 1e6 / each);
                let written = (written(&self.pids) - self.written) / each;
                used["server_written_bytes_per_msg"] = json!(written.round());
            }
        }
        used
    }

    /// Resident memory of each server, in MiB.
    #[must_use]
    pub fn memory(&self) -> Value {
        let mib = |pid: &u32| (field(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0).round();
        json!(self.pids.iter().map(mib).collect::<Vec<f64>>())
    }
}

fn server_cpu(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| cpu_of(&pid.to_string())).sum()
}

fn written(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| field(&format!("/proc/{pid}/io"), "write_bytes:")).sum()
}

fn hundredths(number: f64) -> Value {
    json!((number * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured_as_a_server_would_be() {
        let probe = Probe::start(&[std::process::id()]);
        let mut sum = 0u64;
        while cpu_of("self") < probe.client + 0.05 {
            sum = (0..100_000u64).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        let used = probe.end(10);
        assert!(used["server_cpu_us_per_msg"].as_f64() >= Some(4_000.0), "{sum} {used}");
        assert!(used["server_rss_mib"][0].as_f64() > Some(0.0), "{used}");
        assert!(Probe::start(&[]).end(0).get("server_cores").is_none(), "nothing made up");
    }
}
