//! How much clients may have in progress: requests and their bytes, both bounded.
//!
//! Laws: a permit is held from before the request is proposed until its answer is made; what
//! does not fit is refused at once as overloaded, certainly not applied, and never queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget of one node. A clone is the same budget.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    most_requests: usize,
    most_bytes: usize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

/// What of a budget is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub requests: usize,
    pub bytes: usize,
    pub most_requests: usize,
    pub most_bytes: usize,
}

/// What is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has {most} {what} of clients in progress, which is its limit")]
pub struct Overloaded {
    pub what: &'static str,
    pub most: usize,
}

impl Admission {
    #[must_use]
    pub fn new(most_requests: usize, most_bytes: usize) -> Admission {
        Admission(Arc::new(Budget {
            most_requests,
            most_bytes,
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }))
    }

    /// Takes one request of this many bytes into progress.
    ///
    /// # Errors
    /// [`Overloaded`] when requests or bytes are used up.
    pub fn admit(&self, bytes: usize) -> Result<Permit, Overloaded> {
        let budget = &self.0;
        if budget.requests.fetch_add(1, Ordering::Relaxed) >= budget.most_requests {
            budget.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(Overloaded { what: "requests", most: budget.most_requests });
        }
        // From here on dropping the permit gives back what was taken.
        let permit = Permit { budget: Arc::clone(budget), bytes };
        let before = budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A request larger than the whole budget may pass alone.
        if before > 0 && before.saturating_add(bytes) > budget.most_bytes {
            return Err(Overloaded { what: "bytes", most: budget.most_bytes });
        }
        Ok(permit)
    }

    /// What is in progress now, and what may be.
    #[must_use]
    pub fn used(&self) -> Used {
        let Budget { most_requests, most_bytes, requests, bytes } = &*self.0;
        Used {
            requests: requests.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            most_requests: *most_requests,
            most_bytes: *most_bytes,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.requests.fetch_sub(1, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_refused_until_it_is_given_back() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(60).expect("room");
        let error = admission.admit(50).expect_err("110 bytes");
        assert_eq!((error.what, error.most), ("bytes", 100));
        let second = admission.admit(40).expect("exactly full");
        assert_eq!(admission.admit(0).expect_err("a third").what, "requests");
        drop(first);
        assert!(admission.admit(60).is_ok(), "a refusal holds nothing back");
        drop(second);
        assert_eq!((admission.used().requests, admission.used().bytes), (0, 0));
    }
}
