//! When the messages of an open loop are due.
//!
//! tokio's timers go in steps of a millisecond: a sender that slept on one would be half a
//! millisecond late on average and a whole one at worst, and all of it would count as latency of
//! the servers. So a thread sleeps instead, on the kernel's own timers.
//!
//! Law: no due time is left out. A sender that falls behind finds the next one waiting.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// The due times of one sender. Its thread ends at the first due time after this is dropped.
#[derive(Debug)]
pub struct Timetable {
    due: mpsc::Receiver<Instant>,
}

impl Timetable {
    /// Due at `first` and then every `gap`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(first: Instant, gap: Duration) -> io::Result<Timetable> {
        let (tell, due) = mpsc::channel(1);
        let run = move || {
            let mut next = first;
            loop {
                sleep_until(next);
                if tell.blocking_send(next).is_err() {
                    return;
                }
                next += gap;
            }
        };
        std::thread::Builder::new().name("timetable".into()).spawn(run)?;
        Ok(Timetable { due })
    }

    /// Waits for the next due time; `None` = the thread has ended, which it does not by itself.
    pub async fn next(&mut self) -> Option<Instant> {
        self.due.recv().await
    }
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own: no worker is blocked")]
fn sleep_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_due_time_comes_once_and_none_too_early() {
        let (first, gap) = (Instant::now(), Duration::from_millis(2));
        let mut timetable = Timetable::start(first, gap).expect("a thread");
        for n in 0..20 {
            let due = timetable.next().await.expect("it goes on");
            assert_eq!(due, first + n * gap);
            assert!(Instant::now() >= due, "it was told before it was due");
        }
    }
}
