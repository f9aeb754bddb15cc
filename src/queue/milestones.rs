//! Digests of the state at fixed positions of the log, so that replicas that are written to can be
//! compared.
//!
//! Laws: a milestone is set after an entry of data at every so many entries, by its index alone, so
//! that all replicas set the same; a secondary sets those of its primary's entries. Milestones are no
//! part of the rows and of the digest: after a restart, or a state that was given, there are none until
//! the next. Of each distance, a power of two, the newest two are kept: two replicas that are far
//! apart have one in common as well. The digest is kept in parts, by the ids of the queues, so that
//! it can be told what differs.

use std::sync::Arc;

use super::ids::{Digest, Epoch, Position};
use super::state::State;

/// Entries between two milestones, where there are few queues.
pub const EVERY: u64 = 1_024;
/// With so many more queues the distance doubles: their sums are looked at each time.
const FEW_QUEUES: usize = 16_384;
/// Parts of queues; a queue has that of its id modulo this.
const PARTS: usize = 4_096;
/// After those of queues: sessions, and accounts with the counters.
const SESSIONS: usize = PARTS;
const REST: usize = PARTS + 1;
/// Milestones of one distance.
const OF_EACH: usize = 2;
/// Queues that are named of one part.
const NAMED: usize = 8;

/// The digest of a state, and of its parts, after an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestone {
    pub epoch: Epoch,
    /// In the log of who was the primary in that epoch.
    pub at: Position,
    pub digest: Digest,
    parts: Arc<[u128]>,
}

/// What one replica says of its milestones to another: where, and the digest there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub epoch: Epoch,
    pub at: Position,
    pub digest: Digest,
}

/// What came of comparing two replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal(Mark),
    /// They differ after the same entry, in these parts; the other one has this digest.
    Differ {
        own: Mark,
        other: Digest,
        parts: Vec<usize>,
    },
    /// They were never seen after the same entry.
    NothingInCommon,
}

/// The milestones that a state keeps.
#[derive(Clone, Debug, Default)]
pub struct Milestones {
    /// In the order in which they were set.
    kept: Vec<Milestone>,
}

impl Milestone {
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { epoch: self.epoch, at: self.at, digest: self.digest }
    }

    /// Which of two with the same distance from the beginning it is.
    fn distance(&self) -> u32 {
        (self.at.index / EVERY).trailing_zeros()
    }

    /// The parts, 16 bytes each.
    #[must_use]
    pub fn part_bytes(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    /// What was compared with another replica, which has this digest and these parts there.
    #[must_use]
    pub fn compared(&self, other: Digest, part_bytes: &[u8]) -> Comparison {
        if other == self.digest {
            return Comparison::Equal(self.mark());
        }
        let theirs = part_bytes
            .chunks_exact(16)
            .map(|bytes| u128::from_be_bytes(<[u8; 16]>::try_from(bytes).unwrap_or_default()));
        let pairs = self.parts.iter().zip(theirs).enumerate();
        let parts = pairs.filter(|(_, (own, other))| **own != *other).map(|(at, _)| at).collect();
        Comparison::Differ { own: self.mark(), other, parts }
    }
}

/// The newest of these that another replica has marked as well, and the mark.
#[must_use]
pub fn in_common<'a>(own: &'a [Milestone], asked: &[Mark]) -> Option<(&'a Milestone, Mark)> {
    let same = |mark: &Mark, it: &Milestone| (mark.epoch, mark.at) == (it.epoch, it.at);
    let pairs = own.iter().filter_map(|it| Some((it, *asked.iter().find(|mark| same(mark, it))?)));
    pairs.max_by_key(|(it, _)| (it.epoch, it.at.index))
}

impl Milestones {
    fn add(&mut self, milestone: Milestone) {
        self.kept.retain(|it| it.epoch == milestone.epoch && it.at.index < milestone.at.index);
        let distance = milestone.distance();
        let mut of_it = self.kept.iter().filter(|it| it.distance() == distance);
        let oldest = of_it.next().map(|it| it.at);
        if of_it.count() + 1 >= OF_EACH {
            self.kept.retain(|it| Some(it.at) != oldest);
        }
        self.kept.push(milestone);
    }
}

impl State {
    /// Sets a milestone where the entry that was run just now is one.
    pub(super) fn note_milestone(&mut self, epoch: Epoch, at: Position) {
        let many = (self.catalog.count() / FEW_QUEUES + 1).next_power_of_two() as u64;
        if at.index.is_multiple_of(EVERY * many) {
            let milestone = self.milestone(epoch, at);
            self.milestones.add(milestone);
        }
    }

    /// The state as a milestone after this entry, which is the last of data that it holds.
    #[must_use]
    pub fn milestone(&self, epoch: Epoch, at: Position) -> Milestone {
        let mut parts = vec![0u128; REST + 1];
        let mut queues = 0u128;
        for queue in self.catalog.all() {
            let sum = queue.digest();
            queues = queues.wrapping_add(sum);
            if let Some(part) = parts.get_mut(queue.row.id.0 as usize % PARTS) {
                *part = part.wrapping_add(sum);
            }
        }
        let (digest, sessions) = (self.digest(), self.sessions.sum());
        if let Some([part, rest]) = parts.get_mut(SESSIONS..=REST) {
            *part = sessions;
            *rest = digest.0.wrapping_sub(queues).wrapping_sub(sessions);
        }
        Milestone { epoch, at, digest, parts: parts.into() }
    }

    /// Those that are kept, the oldest first.
    #[must_use]
    pub fn milestones(&self) -> &[Milestone] {
        &self.milestones.kept
    }

    /// What a part is of, in words.
    #[must_use]
    pub fn part_name(&self, part: usize) -> String {
        match part {
            SESSIONS => "the sessions of clients".to_owned(),
            REST => "the quotas of accounts or the counters".to_owned(),
            _ => {
                let queues = self.catalog.all().filter(|it| it.row.id.0 as usize % PARTS == part);
                let name = |row: &super::rows::QueueRow| {
                    format!("queue {:?} of account {:?}", row.name, row.account)
                };
                let names: Vec<String> = queues.take(NAMED).map(|it| name(&it.row)).collect();
                match names.as_slice() {
                    [] => "a queue that is not here".to_owned(),
                    names => names.join(" or "),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        Position { term: 1, node: 1, index }
    }

    #[test]
    fn of_each_distance_the_newest_two_stay() {
        let mut milestones = Milestones::default();
        let state = State::new();
        for number in 1..=1_000 {
            milestones.add(state.milestone(Epoch(1), at(number * EVERY)));
        }
        let kept: Vec<u64> = milestones.kept.iter().map(|it| it.at.index / EVERY).collect();
        assert!(kept.is_sorted() && kept.len() <= 20, "{kept:?}");
        assert!(kept.ends_with(&[996, 997, 998, 999, 1_000]), "{kept:?}");
        // Replicas that are as far apart as this have one in common.
        for behind in [1, 10, 100, 400] {
            let mut other = Milestones::default();
            for number in 1..=1_000 - behind {
                other.add(state.milestone(Epoch(1), at(number * EVERY)));
            }
            let marks: Vec<Mark> = other.kept.iter().map(Milestone::mark).collect();
            assert!(in_common(&milestones.kept, &marks).is_some(), "{behind} behind");
        }
        milestones.add(state.milestone(Epoch(2), at(5 * EVERY)));
        assert_eq!(milestones.kept.len(), 1, "another epoch has positions of another log");
    }
}
