//! The process itself, under the names that every Prometheus client library gives them. They are
//! read from `/proc`; where there is none they are absent.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::page::Page;
use crate::clock::{Clock as _, SystemClock};

/// When the process started, in seconds since 1970, by the wall clock of now: to be asked once, so
/// that it stays the same when that clock is set.
pub(super) fn started() -> Option<f64> {
    let since_boot = clock_gettime(ClockId::Boottime);
    let since_boot = since_boot.tv_sec as f64 + since_boot.tv_nsec as f64 / 1e9;
    let began = Stat::own()?.start_ticks as f64 / clock_ticks_per_second() as f64;
    let wall = SystemClock::default().wall_us() as f64 / 1e6;
    Some(wall - (since_boot - began).max(0.0))
}

pub(super) fn fill(page: &mut Page, started: Option<f64>) {
    if let Some(stat) = Stat::own() {
        let ticks = clock_ticks_per_second() as f64;
        let cpu = (stat.user_ticks + stat.system_ticks) as f64 / ticks;
        page.counter_of("process_cpu_seconds_total", "User and system CPU time.", &[], cpu);
        let resident = stat.resident_pages.saturating_mul(page_size() as u64) as f64;
        page.gauge("process_resident_memory_bytes", "Memory that is resident.", resident);
        let virtual_bytes = stat.virtual_bytes as f64;
        page.gauge("process_virtual_memory_bytes", "Memory that is mapped.", virtual_bytes);
        page.gauge("process_threads", "Threads.", stat.threads as f64);
    }
    if let Some(started) = started {
        let help = "When the process started, in seconds since 1970.";
        page.gauge("process_start_time_seconds", help, started);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is open for this very look.
        let open = open.count().saturating_sub(1) as f64;
        page.gauge("process_open_fds", "File descriptors that are open.", open);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "File descriptors that may be open.", most as f64);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn own() -> Option<Stat> {
        Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// Fields 14, 15, 20, 22, 23 and 24 of `/proc/PID/stat`; the name in field 2 may hold anything.
    fn parse(text: &str) -> Option<Stat> {
        // The first field behind the name is the third.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse().ok();
        Some(Stat {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read_whatever_the_name_of_the_process() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 5 0 0 0 250 50 0 0 20 0 9 0 1234 777 42 18 0";
        let stat = Stat {
            user_ticks: 250,
            system_ticks: 50,
            threads: 9,
            start_ticks: 1_234,
            virtual_bytes: 777,
            resident_pages: 42,
        };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_told_of() {
        let mut page = Page::default();
        let now = SystemClock::default().wall_us() as f64 / 1e6;
        let started = started().expect("a Linux");
        assert!(started > now - 3_600.0 && started <= now + 0.1, "{started} is not before {now}");
        fill(&mut page, Some(started));
        let text = page.text().expect("text");
        for name in
            ["process_cpu_seconds_total ", "process_open_fds ", "process_start_time_seconds "]
        {
            assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
        }
    }
}
