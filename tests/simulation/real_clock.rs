//! The machine's own clocks, made to follow the simulation.
//!
//! Libraries below ours ask the machine what time it is: HTTP/2 remembers a stream that was reset
//! for a second of it. Answered by the machine, a seed would not repeat when its process is slow
//! or stopped for a while.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::history::Micros;

/// Where the steady clock stands when a simulation begins, in seconds; 0 while none has.
static BEGAN: AtomicI64 = AtomicI64::new(0);
static NOW_US: AtomicU64 = AtomicU64::new(0);
/// 2027-01-15 08:00:00 UTC, where every run begins.
const WALL_SECONDS: i64 = 1_800_000_000;

/// From here on the clocks of this process show the simulation's time.
pub fn follow(now: Micros) {
    if BEGAN.load(Ordering::Relaxed) == 0 {
        // Not before what was read already.
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to the place that it is given.
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
        BEGAN.store(time.tv_sec.saturating_add(1), Ordering::Relaxed);
    }
    NOW_US.store(now, Ordering::Relaxed);
}

/// Stands in the place of the C library's function of this name, for this test binary alone.
///
/// # Safety
/// `time` is valid for writes, as the C library's callers promise.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let began = BEGAN.load(Ordering::Relaxed);
    if began == 0 {
        // SAFETY: the caller's promise is the system's.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return libc::c_int::try_from(result).unwrap_or(-1);
    }
    let now = NOW_US.load(Ordering::Relaxed);
    let seconds = i64::try_from(now / 1_000_000).unwrap_or(i64::MAX);
    let is_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let from = if is_wall { WALL_SECONDS } else { began };
    let nanos = (now % 1_000_000) as i64 * 1_000;
    // SAFETY: the caller gives a place to write to.
    unsafe { time.write(libc::timespec { tv_sec: from.saturating_add(seconds), tv_nsec: nanos }) };
    0
}
