//! The system's random numbers, made to repeat.
//!
//! Hash maps of the standard library and of dependencies take their seeds from `getrandom`, and
//! the order of their items then differs from run to run. Here that call answers from a counter
//! of this process, and so does the system call behind it, which is never made.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0x7a6f_6e65_7100_0001);

fn next() -> u64 {
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

/// Stands in the place of the C library's function of this name, for this test binary alone.
///
/// # Safety
/// `buffer` is valid for `length` bytes, as the C library's callers promise.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller gives a buffer of this length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        let random = next().to_le_bytes();
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
