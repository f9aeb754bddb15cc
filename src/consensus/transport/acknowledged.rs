//! What each peer acknowledged to this node as its leader.
//!
//! The law: within a term a follower's durable log only grows for its leader. A peer that refuses
//! an entry it acknowledged in this term has lost it (its last segments are gone, or its disk
//! forgot what it said it wrote), and with it, perhaps, a promise it gave. openraft takes such a
//! peer for impossible; here its answers are turned away, so that it counts for nothing.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The newest acknowledgement of a peer, and whether its loss was reported.
#[derive(Clone, Copy, Debug)]
struct Newest {
    term: u64,
    index: u64,
    reported: bool,
}

/// The newest acknowledgements, by peer.
#[derive(Debug, Default)]
pub struct Acknowledged(Mutex<BTreeMap<u64, Newest>>);

/// A peer that has lost what it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FellBack {
    /// The newest entry it acknowledged in this term.
    pub acknowledged: u64,
    /// Whether nobody was told yet.
    pub first: bool,
}

impl Acknowledged {
    /// The peer holds everything up to `index`, durably, in this node's `term` as leader.
    pub fn note(&self, peer: u64, term: u64, index: u64) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = newest.entry(peer).or_insert(Newest { term, index, reported: false });
        if held.term != term {
            *held = Newest { term, index, reported: false };
        }
        held.index = held.index.max(index);
    }

    /// Whether a peer that does not hold entry `refused` acknowledged it before.
    pub fn fell_back(&self, peer: u64, term: u64, refused: u64) -> Option<FellBack> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = newest.get_mut(&peer)?;
        if held.term != term || refused > held.index {
            return None;
        }
        let first = !std::mem::replace(&mut held.reported, true);
        Some(FellBack { acknowledged: held.index, first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_refuses_what_it_acknowledged_fell_back_and_is_reported_once() {
        let acknowledged = Acknowledged::default();
        assert_eq!(acknowledged.fell_back(2, 5, 7), None, "nothing is known of it");
        acknowledged.note(2, 5, 9);
        acknowledged.note(2, 5, 8);
        assert_eq!(acknowledged.fell_back(2, 5, 10), None, "it never held that");
        let fell_back = |first| Some(FellBack { acknowledged: 9, first });
        assert_eq!(acknowledged.fell_back(2, 5, 9), fell_back(true));
        assert_eq!(acknowledged.fell_back(2, 5, 4), fell_back(false));
        assert_eq!(acknowledged.fell_back(3, 5, 4), None, "another peer");
    }

    #[test]
    fn in_a_new_term_a_log_may_have_been_cut() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(2, 5, 9);
        assert_eq!(acknowledged.fell_back(2, 6, 7), None);
        acknowledged.note(2, 6, 3);
        assert_eq!(acknowledged.fell_back(2, 6, 7), None);
    }
}
