//! Where two histories of one lineage part, seen from one of them.
//!
//! Law: what both have is a common beginning of their ledgers; the first line that differs says
//! where each went on. A position is of the log of its epoch's region, so what this side wrote
//! alone begins either where the other left an epoch of this region, or where this region began
//! an epoch of its own.

use super::{Authority, Fork, LedgerLine};

impl Authority {
    /// Where this cluster's own entries begin that the history with that ledger does not have;
    /// `None` = the ledgers share no epoch, and nothing is known.
    #[must_use]
    pub fn fork(&self, theirs: &[LedgerLine]) -> Option<Fork> {
        let shared = |line: &LedgerLine| theirs.iter().position(|it| it.epoch == line.epoch);
        let (own, their) = self
            .ledger
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, line)| Some((at, shared(line)?)))?;
        let common = self.ledger.get(own)?;
        if common.epoch.region == self.region {
            let next = theirs.get(their + 1)?;
            return Some(Fork { after: next.previous, next_number: next.next_number });
        }
        let next = self.ledger.get(own + 1)?;
        Some(Fork { after: next.first, next_number: next.next_number })
    }
}

/// The first message number that two histories may have given to different messages, or `None`
/// where one is a beginning of the other and goes on in its last epoch; 0 = they share nothing.
#[must_use]
pub fn first_unshared(one: &[LedgerLine], other: &[LedgerLine]) -> Option<u64> {
    let same = |line: &LedgerLine| other.iter().position(|it| it.epoch == line.epoch);
    let common = one.iter().enumerate().rev().find_map(|(at, line)| Some((at, same(line)?)));
    let Some((own, their)) = common else { return Some(0) };
    let next = one.get(own + 1).into_iter().chain(other.get(their + 1));
    next.map(|line| line.next_number).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::RegionEpoch;
    use crate::queue::ids::{Epoch, Position};

    fn at(index: u64) -> Option<Position> {
        Some(Position { term: 1, node: 1, index })
    }

    fn line(
        number: u32,
        region: &str,
        (previous, first): (Option<Position>, Option<Position>),
        next_number: u64,
    ) -> LedgerLine {
        let epoch = RegionEpoch { number: Epoch(number), region: region.to_owned() };
        LedgerLine { epoch, previous, first, next_number }
    }

    fn east(ledger: &[LedgerLine]) -> Authority {
        Authority { region: "east".into(), ledger: ledger.to_vec(), ..Authority::default() }
    }

    #[test]
    fn a_deposed_primary_forks_where_its_copy_ended() {
        let first = line(1, "east", (None, None), 1);
        let theirs = [first.clone(), line(2, "west", (at(9), at(4)), 30)];
        let fork = east(&[first]).fork(&theirs);
        assert_eq!(fork, Some(Fork { after: at(9), next_number: 30 }));
    }

    #[test]
    fn who_took_itself_back_forks_from_the_epoch_both_had() {
        let first = line(1, "east", (None, None), 1);
        let own = [first.clone(), line(3, "east", (at(12), at(13)), 40)];
        let theirs = [first, line(4, "west", (at(9), at(4)), 30)];
        assert_eq!(east(&own).fork(&theirs), Some(Fork { after: at(9), next_number: 30 }));
    }

    #[test]
    fn who_left_an_epoch_of_the_other_region_forks_at_its_own_first_entry() {
        let first = line(1, "west", (None, None), 1);
        let own = [first.clone(), line(2, "east", (at(9), at(4)), 30)];
        let theirs = [first, line(3, "west", (at(12), at(13)), 40)];
        assert_eq!(east(&own).fork(&theirs), Some(Fork { after: at(4), next_number: 30 }));
    }

    #[test]
    fn strangers_have_no_fork() {
        let theirs = [line(1, "north", (None, None), 1)];
        assert_eq!(east(&[line(1, "east", (None, None), 1)]).fork(&theirs), None);
    }

    #[test]
    fn numbers_are_shared_until_the_first_of_both_goes_its_own_way() {
        let first = line(1, "east", (None, None), 1);
        let of_west = [first.clone(), line(2, "west", (at(9), at(4)), 30)];
        let of_east = [first.clone(), line(3, "east", (at(12), at(13)), 40)];
        let old = std::slice::from_ref(&first);
        assert_eq!(first_unshared(&of_west, old), Some(30), "the old epoch may have gone on");
        assert_eq!(first_unshared(old, &of_west), Some(30));
        assert_eq!(first_unshared(&of_west, &of_east), Some(30), "neither has the other's epoch");
        assert_eq!(first_unshared(&of_east, &of_west), Some(30));
        assert_eq!(first_unshared(&of_west, &of_west), None);
        assert_eq!(first_unshared(&of_west, &[line(1, "north", (None, None), 1)]), Some(0));
    }
}
