//! What the machine gives: file descriptors, ports, space, and how fast the disk syncs.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::clock::{Clock as _, SystemClock};
use crate::server::Config;
use crate::storage::disk::real::RealDisk;
use crate::storage::disk::{Disk as _, OpenMode};

const PAGE: usize = 4096;
/// The log keeps segments of 64 MiB ready; below this a new node does not even start.
const LEAST_SPACE: u64 = 256 << 20;
const GOOD_SPACE: u64 = 4 << 30;
/// Every client and peer is a descriptor, every body segment another.
const LEAST_FILES: u64 = 1_024;
const GOOD_FILES: u64 = 16_384;
/// File systems that lose everything with the power.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

pub(super) fn file_descriptors() -> Check {
    const NAME: &str = "file descriptors";
    const ADVICE: &str =
        "Raise it: `ulimit -n 65536`, or LimitNOFILE=65536 in the unit of systemd.";
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Check::ok(NAME, "no limit");
    };
    let found = format!("this process may open {limit}");
    match limit {
        0..LEAST_FILES => Check::fail(NAME, found, ADVICE),
        LEAST_FILES..GOOD_FILES => Check::warn(NAME, found, ADVICE),
        _ => Check::ok(NAME, found),
    }
}

/// Whether a node could listen now. A node that runs on this data directory has them already.
pub(super) fn ports(config: &Config, running: bool) -> Vec<Check> {
    let each = [("grpc_listen", config.grpc_listen), ("peer_listen", config.peer_listen)];
    let look = |(key, address): (&'static str, std::net::SocketAddr)| {
        let port = address.port();
        match TcpListener::bind(address) {
            Ok(_) => Check::ok(key, format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
                Check::ok(key, format!("{address} is in use, as it is while the node runs"))
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Check::fail(
                key,
                format!("{address} is in use by another process"),
                format!("`ss -ltnp 'sport = :{port}'` names it; end it, or choose another port."),
            ),
            Err(error) => Check::fail(
                key,
                format!("nothing can listen on {address}: {error}"),
                "Give an address of this machine, and a port from 1024 on or the right to lower \
                 ones.",
            ),
        }
    };
    each.into_iter().map(look).collect()
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|above| above.is_dir());
    match there {
        Some(found) if !found.as_os_str().is_empty() => found.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// Bytes of the files in a folder and below.
fn used(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(known) if known.is_dir() => used(&entry.path()),
        Ok(known) => known.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

pub(super) fn space(data_dir: &Path) -> Check {
    const NAME: &str = "disk space";
    let place = nearest(data_dir);
    let free = match RealDisk.free_bytes(&place) {
        Ok(free) => free,
        Err(error) => {
            let found = format!("{} cannot be measured: {error}", place.display());
            return Check::fail(NAME, found, "Give a data_dir that this user may write to.");
        }
    };
    let mut found = format!("{} free in {}", bytes_text(free), place.display());
    if data_dir.is_dir() {
        let (log, tables) = (used(&data_dir.join("log")), used(&data_dir.join("tables")));
        found.push_str(&format!(
            "; the log takes {}, tables and bodies {}",
            bytes_text(log),
            bytes_text(tables)
        ));
    }
    let advice = "Make the disk larger, or let consumers empty the queues; files in the data \
                  directory must not be deleted.";
    match free {
        0..LEAST_SPACE => Check::fail(NAME, found, advice),
        LEAST_SPACE..GOOD_SPACE => Check::warn(NAME, found, advice),
        _ => Check::ok(NAME, found),
    }
}

/// How long the disk takes to keep 4 KiB, as the log writes: over what is there already.
pub(super) fn disk_speed(config: &Config, writes: u32) -> Vec<Check> {
    const NAME: &str = "disk speed";
    let place = nearest(&config.data_dir);
    let mut checks = Vec::new();
    if let Ok(system) = rustix::fs::statfs(&place)
        && matches!(system.f_type, TMPFS | RAMFS)
    {
        checks.push(Check::warn(
            "file system",
            format!("{} is in memory", place.display()),
            "What is acknowledged is gone when the machine stops; use a disk.",
        ));
    }
    let path = place.join(format!("doctor-{}.tmp", std::process::id()));
    let measured = measure(&path, writes);
    let removed = match path.exists() {
        true => RealDisk.remove_file(&path),
        false => Ok(()),
    };
    checks.push(match measured.and_then(|times| removed.map(|()| times)) {
        Ok(times) => judge(&times, config),
        Err(error) => Check::fail(
            NAME,
            format!("{} cannot be written: {error}", place.display()),
            "The node's user needs the right to write there, and space.",
        ),
    });
    checks
}

/// Sorted times of a write and its fdatasync.
fn measure(path: &Path, writes: u32) -> io::Result<Vec<Duration>> {
    let clock = SystemClock::default();
    let file = RealDisk.open(path, OpenMode::CreateNew)?;
    file.write_all_at(&vec![0; PAGE * writes as usize], 0)?;
    file.sync_data()?;
    let mut times = Vec::with_capacity(writes as usize);
    for number in 0..u64::from(writes) {
        let page = [number as u8 | 1; PAGE];
        let begun = clock.monotonic_us();
        file.write_all_at(&page, number * PAGE as u64)?;
        file.sync_data()?;
        times.push(Duration::from_micros(clock.monotonic_us() - begun));
    }
    times.sort_unstable();
    Ok(times)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

/// What the times mean for a cluster of such disks.
fn judge(sorted: &[Duration], config: &Config) -> Check {
    const NAME: &str = "disk speed";
    let (half, most) = (percentile(sorted, 50), percentile(sorted, 99));
    let found = format!(
        "{} syncs of 4 KiB take {} (p50) and {} (p99), so one send waits about {}",
        sorted.len(),
        ms(half),
        ms(most),
        ms(half)
    );
    let silence = Duration::from_millis(config.election_ms.min);
    if most * 2 > silence {
        let advice = format!(
            "A sync may last nearly as long as the silence before an election ({} ms): leaders \
             will change for no reason. Use a faster disk, or a larger election_ms.",
            silence.as_millis()
        );
        return Check::warn(NAME, found, advice);
    }
    if half > Duration::from_millis(10) {
        let advice = "That is a spinning disk or a distant one: many sends at once share a sync, \
                      but each waits for it.";
        return Check::warn(NAME, found, advice);
    }
    if half < Duration::from_micros(30) {
        let advice = "Hardly any disk is as fast: without power-loss protection it keeps writes in \
                      a cache that a power cut empties. Make sure that it does not.";
        return Check::warn(NAME, found, advice);
    }
    Check::ok(NAME, found)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn judged(half_us: u64, most_us: u64) -> State {
        let mut times = vec![Duration::from_micros(half_us); 95];
        times.extend([Duration::from_micros(most_us); 5]);
        judge(&times, &Config::new(1, "c", "z", "/nowhere")).state
    }

    #[test]
    fn a_disk_is_good_too_slow_or_too_fast_to_be_true() {
        assert_eq!(judged(800, 3_000), State::Ok);
        assert_eq!(judged(800, 300_000), State::Warn, "half of the silence before an election");
        assert_eq!(judged(12_000, 20_000), State::Warn);
        assert_eq!(judged(3, 10), State::Warn);
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&times, 50), Duration::from_micros(100));
        assert_eq!(percentile(&times, 99), Duration::from_micros(198));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn the_file_that_measures_is_written_in_the_nearest_folder_and_removed() {
        let home = tempfile::tempdir().expect("a folder");
        let config = Config::new(1, "c", "z", home.path().join("not/yet"));
        let checks = disk_speed(&config, 10);
        assert!(checks.iter().all(|check| check.state != State::Fail), "{checks:?}");
        assert!(std::fs::read_dir(home.path()).expect("a folder").next().is_none());
        assert_eq!(nearest(Path::new("not/there")), PathBuf::from("."));
    }

    #[test]
    fn a_port_that_is_taken_fails_unless_the_node_itself_has_it() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut config = Config::new(1, "c", "z", "/nowhere");
        config.grpc_listen = held.local_addr().expect("bound");
        config.peer_listen = "127.0.0.1:0".parse().expect("an address");
        let states = |running| -> Vec<State> {
            ports(&config, running).iter().map(|check| check.state).collect()
        };
        assert_eq!(states(false), [State::Fail, State::Ok]);
        assert_eq!(states(true), [State::Ok, State::Ok]);
    }
}
