//! I2: after an acknowledged delete or clear no later receive or linearizable read returns the
//! message, after any restart. A stale read may, and then its T is before the delete's.

use crate::history::{Call, Life, Mark, Op, Shown, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut risen = Vec::new();
    for (id, life) in &story.lives {
        for (removed_by, mark) in removals(story, life) {
            for (seen_by, at, shown) in sightings(life) {
                if is_after(removed_by, mark, seen_by, at, shown) {
                    risen.push(format!(
                        "{id} of {} was removed at {mark:?} and returned by {:?} at {at:?}",
                        life.queue, seen_by.call
                    ));
                }
            }
        }
    }
    risen
}

/// Acknowledged deletes of it, and acknowledged clears of its queue after it was sent.
fn removals<'a>(story: &Story<'a>, life: &Life<'a>) -> Vec<(&'a Op, Mark)> {
    let mut removals: Vec<(&Op, Mark)> =
        life.deletes.iter().map(|delete| (delete.op, delete.mark)).collect();
    let inserted = life.shown().map(|(_, shown)| shown.inserted_at).next();
    let Some(inserted) = life.sent.map(|sent| sent.what.inserted_at).or(inserted) else {
        return removals;
    };
    let clears = story.clears.iter().filter(|(op, _)| op.call.queue() == life.queue);
    removals.extend(clears.filter(|(_, mark)| mark.at > inserted).copied());
    removals
}

/// Where in the log it was seen: a grant has a place, a read only the T of its state.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Granted(Mark),
    Read(u64),
}

fn sightings<'a>(life: &Life<'a>) -> Vec<(&'a Op, Seen, &'a Shown)> {
    let grants = life.grants.iter().map(|g| (g.op, Seen::Granted(g.mark), g.what));
    let reads = life.sightings.iter().map(|(op, at, shown)| (*op, Seen::Read(*at), *shown));
    grants.chain(reads).collect()
}

fn is_after(removed_by: &Op, removed: Mark, seen_by: &Op, at: Seen, _: &Shown) -> bool {
    match at {
        Seen::Granted(grant) => {
            grant.index > removed.index || seen_by.invoked >= removed_by.returned
        }
        // The state at the delete's T holds the delete.
        Seen::Read(read) if read >= removed.at => true,
        Seen::Read(_) => !is_stale(seen_by) && seen_by.invoked >= removed_by.returned,
    }
}

fn is_stale(op: &Op) -> bool {
    matches!(op.call, Call::Peek { stale: true, .. } | Call::Get { stale: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::{Sample, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn deleted() -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 2, 5, 1);
        sample.delete("m", "r2", 3);
        sample
    }

    #[test]
    fn a_message_that_is_never_seen_again_stays_deleted() {
        assert_eq!(broken(deleted()), 0);
    }

    #[test]
    fn a_receive_after_the_delete_betrays_a_resurrection() {
        let mut sample = deleted();
        sample.receive("m", 9, 12, 2);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_linearizable_read_after_the_delete_betrays_a_stale_leader() {
        let mut sample = deleted();
        let op = sample.peek(shown("m", 1, "", 5, 1), 2, false);
        (op.invoked, op.returned) = (100, 101);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_stale_read_may_show_it_only_from_before_the_delete() {
        let mut sample = deleted();
        let op = sample.peek(shown("m", 1, "", 5, 1), 2, true);
        (op.invoked, op.returned) = (100, 101);
        assert_eq!(broken(sample), 0);

        let mut sample = deleted();
        sample.peek(shown("m", 1, "", 5, 1), 3, true);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn what_was_cleared_does_not_come_back() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.clear(4);
        sample.receive("m", 6, 9, 1);
        assert_eq!(broken(sample), 1);
    }
}
