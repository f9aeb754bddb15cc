//! I5: only the newest receipt works, and it does. A send, a grant, an update and a release each
//! give one, and each makes all earlier ones of that message void; nobody has the one that a
//! release gives. The newest is refused only when the message has expired, or when its last
//! allowed lease has run out: then it may be among the dead letters, and is *not found*.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::highest::Highest;
use crate::history::LogTime;
use crate::known::Known;
use crate::story::{Life, Story};
use crate::times::When;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, life) in &story.lives {
        let issued = Issued::of(life);
        for (used, when) in uses(life) {
            let newer = issued.newer(used, when);
            let known = before(life, when).filter(|known| known.receipt != Some(used));
            let newer = newer.map(|at| at.by).or(known.map(|known| known.after));
            if let Some(newer) = newer {
                wrong.push(format!(
                    "{id}: the receipt {used} worked by T {}, though a newer one was given at T \
                     {newer}",
                    when.by
                ));
            }
        }
        wrong.extend(refused(id, life));
    }
    wrong
}

/// Every receipt that was given, with its T; `None`: one that nobody has.
struct Issued<'a> {
    all: Vec<(Option<&'a str>, When)>,
    first: BTreeMap<&'a str, When>,
    /// From the last to the first: behind which T each was given, and the earliest by when.
    earliest: Highest<Reverse<LogTime>, Reverse<LogTime>>,
}

impl<'a> Issued<'a> {
    fn of(life: &Life<'a>) -> Issued<'a> {
        let exact = |receipt: &'a str, at: LogTime| (Some(receipt), When::exact(at));
        let sent = life.sent.iter().map(|sent| (&*sent.message.receipt, sent.message.inserted_at));
        let granted = life.grants.iter().map(|grant| (&*grant.shown.receipt, grant.at));
        let changed = life.changes.iter().map(|change| (change.gave, change.when));
        let told = life.first_receipt.map(|receipt| (receipt, life.inserted_at));
        let all = sent.chain(told).chain(granted).map(|(receipt, at)| exact(receipt, at));
        let all: Vec<(Option<&str>, When)> = all.chain(changed).collect();
        let earliest = all.iter().map(|(_, at)| (Reverse(at.after), Reverse(at.by))).collect();
        let mut first = BTreeMap::new();
        for (receipt, at) in &all {
            receipt.map(|receipt| first.entry(receipt).or_insert(*at));
        }
        Issued { all, first, earliest }
    }

    /// When another was given behind this one, and before it was used.
    fn newer(&self, used: &str, when: When) -> Option<When> {
        let given = self.first.get(used)?;
        // Seldom is there any.
        self.earliest.through(&Reverse(given.by)).filter(|by| by.0 <= when.after)?;
        let between = |at: &When| given.by <= at.after && at.by <= when.after;
        let newer = self.all.iter().find(|(other, at)| *other != Some(used) && between(at));
        newer.map(|(_, at)| *at)
    }
}

/// Every receipt that worked.
fn uses<'a>(life: &Life<'a>) -> impl Iterator<Item = (&'a str, When)> {
    let changed = life.changes.iter().map(|change| (change.used, change.when));
    changed.chain(life.deletes.iter().map(|delete| (delete.used, delete.when)))
}

/// The state that something acted on, if it is known.
fn before<'k, 'a>(life: &'k Life<'a>, when: When) -> Option<&'k Known<'a>> {
    if when != When::exact(when.by) {
        return None;
    }
    let at = life.known.partition_point(|known| known.after < when.by).checked_sub(1)?;
    life.known.get(at).filter(|known| known.through >= when.after)
}

/// The newest receipt, refused while the message was there.
fn refused(id: &str, life: &Life<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for refusal in &life.refusals {
        let at = life.known.partition_point(|known| known.after < refusal.at);
        let Some(known) = at.checked_sub(1).and_then(|at| life.known.get(at)) else { continue };
        let expired = life.expires_at(refusal.queue).is_some_and(|expires| refusal.at >= expires);
        if known.through >= refusal.at
            && known.queue == refusal.queue
            && known.receipt == Some(refusal.used)
            && !expired
        {
            let what = if refusal.not_found { "not found" } else { "a mismatch" };
            let (used, given, at) = (refusal.used, known.after, refusal.at);
            wrong.push(format!(
                "{id}: the newest receipt {used}, given at T {given}, met {what} at T {at}"
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Deleted, Outcome};
    use crate::invariants::sample::{Sample, new, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn received_twice() -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 2, 4, 1);
        sample.receive("m", 5, 8, 2);
        sample
    }

    #[test]
    fn the_newest_receipt_may_delete() {
        let mut sample = received_twice();
        sample.delete("m", "r5", 6);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_receipt_from_before_the_newest_grant_is_found() {
        let mut sample = received_twice();
        sample.delete("m", "r2", 6);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_receipt_that_an_update_replaced_is_found() {
        let mut sample = received_twice();
        sample.update("m", "r5", 6, 20);
        sample.update("m", "r5", 7, 20);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_receipt_that_a_release_voided_is_found() {
        let mut sample = received_twice();
        sample.release("m", "r5", 6, 7);
        sample.delete("m", "r5", 8);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn the_receipt_of_a_send_that_a_lost_region_answered_works_until_there_is_a_newer_one() {
        let sent = || {
            let mut sample = Sample::default();
            sample.send("m", 1).outcome = Outcome::Unknown("its region was lost".to_owned());
            sample.peek(shown("m", 1, "", 1, 0), 2, false);
            sample.history.first_receipts.insert("m".to_owned(), "r1".to_owned());
            sample
        };
        let mut sample = sent();
        sample.delete("m", "r1", 3);
        assert_eq!(broken(sample), 0);
        let mut sample = sent();
        sample.delete("m", "r2", 3);
        assert_eq!(broken(sample), 1, "that is another one");
        let mut sample = sent();
        sample.receive("m", 3, 5, 1);
        sample.delete("m", "r1", 6);
        assert_eq!(broken(sample), 1, "a newer one was given");
    }

    #[test]
    fn the_newest_receipt_that_is_refused_is_found() {
        for outcome in [Deleted::Mismatch, Deleted::NotFound] {
            let mut sample = received_twice();
            sample.delete_is_refused("m", "r5", 6, outcome);
            assert_eq!(broken(sample), 1, "{outcome:?}");
        }
        let mut older = received_twice();
        older.delete_is_refused("m", "r2", 6, Deleted::Mismatch);
        assert_eq!(broken(older), 0);
    }

    #[test]
    fn after_the_last_allowed_lease_the_newest_receipt_may_meet_not_found() {
        let died = |at| {
            let mut sample = Sample::default();
            sample.send_new("gamma-dead", "m", 1, new(1));
            for (at, count) in [(2, 1), (5, 2)] {
                let message = shown("m", 1, &format!("r{at}"), at + 2, count);
                sample.receive_from("gamma-dead", 2, vec![message], at, 2);
            }
            sample.delete_is_refused("m", "r5", at, Deleted::NotFound);
            let last = sample.history.ops.last_mut().expect("a delete");
            if let Call::Delete { queue, .. } = &mut last.call {
                *queue = "gamma-dead".to_owned();
            }
            broken(sample)
        };
        assert_eq!(died(7), 0);
        assert_eq!(died(6), 1);
    }
}
