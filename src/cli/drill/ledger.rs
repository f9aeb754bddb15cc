//! The client's own book of what it sent, was given and deleted, and what that proves.
//!
//! Laws: an operation is acknowledged, certainly not applied, or unknown, and unknown proves
//! nothing either way. Leases are compared in log time, the only clock that all nodes share. Of
//! an unknown update the lease may end at the earlier of the two times.
//!
//! Of regions: what a region acknowledged under an epoch that was ended by force, later than the
//! last sync time that was shown of it, may be undone ([`Fork`]); a send that is, must be in the
//! tail. All else counts as if there were one region.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::client::Durability;

/// What became of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    NotTried,
    Acknowledged,
    /// May have been applied.
    Unknown,
}

/// When an answer was true, in log time, and under which region's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub epoch: u32,
    pub at: SystemTime,
}

impl Mark {
    /// `None` where the answer told no time.
    #[must_use]
    pub fn of(durability: &Durability) -> Option<Mark> {
        let epoch = durability.epoch;
        durability.log_time.map(|at| Mark { epoch, at })
    }
}

/// One grant: the message in somebody's hands, in log time.
#[derive(Clone, Copy, Debug)]
struct Grant {
    count: u32,
    mark: Mark,
    /// The earliest time at which the lease may have ended, and where that was last said.
    ends: SystemTime,
    ends_by: Mark,
}

#[derive(Clone, Debug, Default)]
struct Page {
    /// As it was given out.
    id: Option<String>,
    sent: Fate,
    sent_by: Option<Mark>,
    deleted: Fate,
    /// Every acknowledged delete; a second one is of a message that came again.
    deletes: Vec<Mark>,
    grants: Vec<Grant>,
}

/// An epoch that was ended by force.
#[derive(Clone, Debug)]
pub struct Fork {
    pub epoch: u32,
    /// The latest last sync time that either region showed of it.
    pub sync: SystemTime,
    /// The numbers of the messages in the exported tail.
    pub tail: BTreeSet<u64>,
    /// The ids of those that were sent in the tail and deleted there. The answer to such a delete
    /// may be lost with the region, and the next try finds nothing.
    pub completed: BTreeSet<String>,
}

/// What was acknowledged under one epoch.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub first: SystemTime,
    pub last: SystemTime,
    /// The caller's own clock at the first acknowledgement.
    pub began: u64,
}

/// The book, by the number in each message's body.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pages: BTreeMap<u64, Page>,
    /// Messages that came though nobody sent them.
    strange: u64,
    acknowledged: u64,
    forks: Vec<Fork>,
    spans: BTreeMap<u32, Span>,
}

/// What the book proves once the queue is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acknowledged: u64,
    /// Acknowledged, never deleted, and not there, though no forced failover explains it.
    pub lost: u64,
    /// Lost by a forced failover, in the exported tail, and not sent again from there.
    pub lost_in_tail: u64,
    /// Sent and deleted in a tail, though the delete was not answered.
    pub completed_in_tail: u64,
    /// Acknowledged deletes and leases that a forced failover undid.
    pub undone: u64,
    /// Granted again before the lease of the grant before had ended.
    pub duplicated_while_leased: u64,
    /// Granted after an acknowledged delete.
    pub resurrected: u64,
    /// Came, though nobody sent it.
    pub never_sent: u64,
    /// Sends whose fate is not known, and how many of them were applied.
    pub unknown: u64,
    pub unknown_found: u64,
    /// The first few violations in words.
    pub findings: Vec<String>,
}

impl Verdict {
    #[must_use]
    pub fn ok(&self) -> bool {
        self.lost + self.duplicated_while_leased + self.resurrected + self.never_sent == 0
    }

    fn find(&mut self, text: String) {
        const MOST: usize = 20;
        if self.findings.len() < MOST {
            self.findings.push(text);
        }
    }
}

impl Ledger {
    fn page(&mut self, number: u64) -> &mut Page {
        self.pages.entry(number).or_default()
    }

    /// A send begins: until it is answered its fate is not known.
    pub fn sending(&mut self, number: u64) {
        self.page(number).sent = Fate::Unknown;
    }

    /// The send was acknowledged, `now` by the caller's own clock.
    pub fn sent(&mut self, number: u64, by: Option<Mark>, now: u64) {
        let page = self.page(number);
        (page.sent, page.sent_by) = (Fate::Acknowledged, by);
        self.acknowledged += 1;
        let Some(by) = by else { return };
        let first = Span { first: by.at, last: by.at, began: now };
        let span = self.spans.entry(by.epoch).or_insert(first);
        (span.first, span.last) = (span.first.min(by.at), span.last.max(by.at));
    }

    /// The send was certainly not applied.
    pub fn not_sent(&mut self, number: u64) {
        self.page(number).sent = Fate::NotTried;
    }

    /// A message was received under a lease to that log time.
    pub fn granted(&mut self, number: u64, count: u32, mark: Mark, ends: SystemTime) {
        match self.pages.get_mut(&number) {
            Some(page) => page.grants.push(Grant { count, mark, ends, ends_by: mark }),
            None => self.strange += 1,
        }
    }

    /// A message was received under this id.
    pub fn named(&mut self, number: u64, id: &str) {
        if let Some(page) = self.pages.get_mut(&number) {
            page.id = Some(id.to_owned());
        }
    }

    /// The lease of a grant was moved, as `by` says; `ends` is `None` when that is not known, and
    /// `by` is then when it was asked for.
    pub fn moved(&mut self, number: u64, count: u32, by: Mark, ends: Option<SystemTime>) {
        let page = self.page(number);
        // The newest of that count: after a forced failover the same count is given again.
        if let Some(grant) = page.grants.iter_mut().rfind(|grant| grant.count == count) {
            grant.ends_by = by;
            grant.ends = match ends {
                Some(ends) => ends,
                None => grant.ends.min(by.at),
            };
        }
    }

    /// The delete was acknowledged.
    pub fn deleted(&mut self, number: u64, by: Mark) {
        let page = self.page(number);
        page.deleted = Fate::Acknowledged;
        page.deletes.push(by);
    }

    /// The delete may have been applied.
    pub fn delete_unknown(&mut self, number: u64) {
        let page = self.page(number);
        if page.deleted == Fate::NotTried {
            page.deleted = Fate::Unknown;
        }
    }

    /// Sends acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// An epoch was ended by force.
    pub fn forked(&mut self, fork: Fork) {
        self.forks.push(fork);
    }

    /// What was acknowledged under an epoch; `None` = nothing.
    #[must_use]
    pub fn span(&self, epoch: u32) -> Option<Span> {
        self.spans.get(&epoch).copied()
    }

    /// How many of these messages were acknowledged under an epoch. A send whose region was lost
    /// before it answered is acknowledged by the next one, and is no loss.
    #[must_use]
    pub fn sent_of(&self, numbers: &BTreeSet<u64>, epoch: u32) -> u64 {
        let sent = |number: &&u64| {
            let page = self.pages.get(*number);
            page.and_then(|page| page.sent_by).is_some_and(|by| by.epoch == epoch)
        };
        numbers.iter().filter(sent).count() as u64
    }

    /// Whether a forced failover may have undone it.
    fn may_be_undone(&self, by: Mark) -> bool {
        self.forks.iter().any(|fork| fork.epoch == by.epoch && by.at > fork.sync)
    }

    /// Whether a send that is gone is where it must be.
    fn is_in_tail(&self, number: u64, by: Option<Mark>) -> bool {
        let Some(by) = by else { return false };
        let mut forks = self.forks.iter().filter(|fork| fork.epoch == by.epoch);
        forks.any(|fork| by.at > fork.sync && fork.tail.contains(&number))
    }

    /// Whether the old region lists it among what was sent and deleted there alone.
    fn is_completed_in_tail(&self, page: &Page) -> bool {
        let (Some(by), Some(id)) = (page.sent_by, &page.id) else { return false };
        let mut forks = self.forks.iter().filter(|fork| fork.epoch == by.epoch);
        forks.any(|fork| by.at > fork.sync && fork.completed.contains(id))
    }

    /// Judges the book. The queue must be empty: all that was there was received and deleted.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let mut verdict = Verdict { never_sent: self.strange, ..Verdict::default() };
        for (number, page) in &self.pages {
            match page.sent {
                Fate::Acknowledged => verdict.acknowledged += 1,
                Fate::Unknown => {
                    verdict.unknown += 1;
                    verdict.unknown_found += u64::from(!page.grants.is_empty());
                }
                Fate::NotTried if !page.grants.is_empty() => {
                    verdict.never_sent += 1;
                    verdict.find(format!("message {number} came, though its send was refused"));
                }
                Fate::NotTried => {}
            }
            if page.sent == Fate::Acknowledged && page.deleted == Fate::NotTried {
                self.judge_gone(*number, page, &mut verdict);
            }
            self.judge_grants(*number, page, &mut verdict);
        }
        verdict
    }

    fn judge_gone(&self, number: u64, page: &Page, verdict: &mut Verdict) {
        if self.is_in_tail(number, page.sent_by) {
            verdict.lost_in_tail += 1;
            return;
        }
        if self.is_completed_in_tail(page) {
            verdict.completed_in_tail += 1;
            return;
        }
        verdict.lost += 1;
        let times = page.grants.len();
        let mut text = format!("message {number} is lost; it was received {times} times");
        if let Some(by) = page.sent_by.filter(|_| !self.forks.is_empty()) {
            let listed = self.forks.iter().any(|fork| fork.tail.contains(&number));
            let listed = if listed { "in a tail" } else { "in no tail" };
            let epoch = by.epoch;
            text += &format!("; acknowledged in epoch {epoch} at {}, {listed}", micros(by.at));
        }
        verdict.find(text);
    }

    fn judge_grants(&self, number: u64, page: &Page, verdict: &mut Verdict) {
        let mut grants = page.grants.clone();
        grants.sort_by_key(|grant| (grant.mark.epoch, grant.count, grant.mark.at));
        for pair in grants.windows(2) {
            let [before, after] = pair else { continue };
            if after.mark.at >= before.ends {
                continue;
            }
            if self.may_be_undone(before.mark) || self.may_be_undone(before.ends_by) {
                verdict.undone += 1;
                continue;
            }
            verdict.duplicated_while_leased += 1;
            let early = before.ends.duration_since(after.mark.at).unwrap_or_default();
            verdict.find(format!(
                "message {number} was given again (delivery {} after {}) {} us before its lease \
                 ended",
                after.count,
                before.count,
                early.as_micros()
            ));
        }
        for deleted in &page.deletes {
            let later =
                |grant: &&Grant| (grant.mark.epoch, grant.mark.at) > (deleted.epoch, deleted.at);
            let Some(grant) = grants.iter().find(later) else { continue };
            if self.may_be_undone(*deleted) {
                verdict.undone += 1;
                continue;
            }
            verdict.resurrected += 1;
            let count = grant.count;
            verdict.find(format!(
                "message {number} was given (delivery {count}) after it was deleted"
            ));
        }
    }
}

fn micros(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn mark(seconds: u64) -> Mark {
        Mark { epoch: 1, at: at(seconds) }
    }

    /// Sent, granted at 10 to 20, deleted at 15.
    fn whole() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.sending(1);
        ledger.sent(1, Some(mark(5)), 0);
        ledger.granted(1, 1, mark(10), at(20));
        ledger.deleted(1, mark(15));
        ledger
    }

    #[test]
    fn a_message_sent_received_and_deleted_is_well() {
        let verdict = whole().judge();
        assert!(verdict.ok(), "{verdict:?}");
        assert_eq!(verdict.acknowledged, 1);
    }

    #[test]
    fn an_acknowledged_message_that_is_not_there_is_lost() {
        let mut ledger = whole();
        ledger.sending(2);
        ledger.sent(2, None, 0);
        ledger.sending(3);
        ledger.sent(3, None, 0);
        ledger.granted(3, 1, mark(1), at(2));
        ledger.sending(4);
        assert_eq!(ledger.judge().lost, 2, "2 never came, 3 came and was not deleted");
        ledger.delete_unknown(3);
        assert_eq!(ledger.judge().lost, 1, "3 may have been deleted");
        assert_eq!((ledger.judge().unknown, ledger.judge().unknown_found), (1, 0), "4 may be");
    }

    #[test]
    fn a_second_grant_before_the_lease_ended_is_found() {
        let mut ledger = whole();
        ledger.granted(1, 2, mark(14), at(24));
        assert_eq!(ledger.judge().duplicated_while_leased, 1);

        let mut shortened = whole();
        shortened.moved(1, 1, mark(12), Some(at(13)));
        shortened.granted(1, 2, mark(14), at(24));
        assert!(shortened.judge().ok(), "the lease had been shortened");

        let mut unknown = whole();
        unknown.moved(1, 1, mark(12), None);
        unknown.granted(1, 2, mark(14), at(24));
        assert!(unknown.judge().ok(), "it may have been shortened");
    }

    #[test]
    fn a_grant_after_an_acknowledged_delete_is_a_resurrection() {
        let mut ledger = whole();
        ledger.granted(1, 2, mark(21), at(30));
        let verdict = ledger.judge();
        assert_eq!((verdict.resurrected, verdict.ok()), (1, false));
        assert!(verdict.findings[0].contains("message 1"), "{verdict:?}");
    }

    #[test]
    fn a_message_that_nobody_sent_is_found() {
        let mut ledger = Ledger::default();
        ledger.granted(9, 1, mark(1), at(2));
        assert_eq!(ledger.judge().never_sent, 1);
        let mut refused = Ledger::default();
        refused.sending(1);
        refused.not_sent(1);
        assert!(refused.judge().ok());
        refused.granted(1, 1, mark(1), at(2));
        assert_eq!(refused.judge().never_sent, 1);
    }

    #[test]
    fn a_message_that_was_deleted_twice_came_again_after_the_first() {
        let mut ledger = whole();
        ledger.granted(1, 2, mark(21), at(30));
        ledger.deleted(1, mark(22));
        assert_eq!(ledger.judge().resurrected, 1);
    }

    /// Epoch 1 was ended by force when 12 was the last sync time.
    fn forked(tail: &[u64]) -> Fork {
        let tail = tail.iter().copied().collect();
        Fork { epoch: 1, sync: at(12), tail, completed: BTreeSet::new() }
    }

    #[test]
    fn what_a_forced_failover_lost_must_be_in_the_tail_and_later_than_the_last_sync() {
        let sent = |seconds, tail: &[u64]| {
            let mut ledger = Ledger::default();
            ledger.sending(1);
            ledger.sent(1, Some(mark(seconds)), 0);
            ledger.forked(forked(tail));
            ledger.judge()
        };
        let verdict = sent(13, &[1]);
        assert!(verdict.ok() && verdict.lost_in_tail == 1, "{verdict:?}");
        assert_eq!(sent(13, &[2]).lost, 1, "in no tail");
        let early = sent(12, &[1]);
        assert_eq!(early.lost, 1, "the last sync time was later than the truth");
        assert!(early.findings[0].contains("epoch 1"), "{early:?}");
    }

    #[test]
    fn a_message_that_was_sent_and_deleted_in_a_tail_is_no_loss_where_the_old_region_lists_it() {
        let sent = |seconds, listed: &str| {
            let mut ledger = Ledger::default();
            ledger.sending(1);
            ledger.sent(1, Some(mark(seconds)), 0);
            ledger.granted(1, 1, mark(14), at(24));
            ledger.named(1, "an-id");
            ledger.forked(Fork { completed: [listed.to_owned()].into(), ..forked(&[]) });
            ledger.judge()
        };
        assert_eq!((sent(13, "an-id").lost, sent(13, "an-id").completed_in_tail), (0, 1));
        assert_eq!(sent(13, "another").lost, 1, "nobody says that it was deleted");
        assert_eq!(sent(12, "an-id").lost, 1, "it was in the copy");
    }

    #[test]
    fn deletes_and_leases_are_undone_by_a_forced_failover_only_after_the_last_sync() {
        let mut ledger = whole();
        ledger.forked(forked(&[]));
        let again = Mark { epoch: 2, at: at(16) };
        ledger.granted(1, 2, again, at(26));
        let verdict = ledger.judge();
        assert_eq!((verdict.undone, verdict.resurrected), (1, 0), "deleted at 15");
        assert_eq!(verdict.duplicated_while_leased, 1, "leased at 10");
        let mut late = whole();
        late.forked(Fork { sync: at(9), ..forked(&[]) });
        late.granted(1, 2, again, at(26));
        assert!(late.judge().ok(), "{:?}", late.judge());
        let mut other = whole();
        other.forked(Fork { epoch: 2, ..forked(&[]) });
        other.granted(1, 2, Mark { epoch: 3, at: at(30) }, at(40));
        assert_eq!(other.judge().resurrected, 1, "its own epoch was not ended by force");
    }
}
