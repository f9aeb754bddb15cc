//! The client's own book of what it sent, was given and deleted, and what that proves.
//!
//! Laws: an operation is acknowledged, certainly not applied, or unknown, and unknown proves
//! nothing either way. Leases are compared in log time, the only clock that all nodes share. Of
//! an unknown update the lease may end at the earlier of the two times.

use std::collections::BTreeMap;
use std::time::SystemTime;

/// What became of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    NotTried,
    Acknowledged,
    /// May have been applied.
    Unknown,
}

/// One grant: the message in somebody's hands, in log time.
#[derive(Clone, Copy, Debug)]
struct Grant {
    count: u32,
    at: SystemTime,
    /// The earliest time at which the lease may have ended.
    ends: SystemTime,
}

#[derive(Clone, Debug, Default)]
struct Page {
    sent: Fate,
    deleted: Fate,
    deleted_at: Option<SystemTime>,
    grants: Vec<Grant>,
}

/// The book, by the number in each message's body.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pages: BTreeMap<u64, Page>,
    /// Messages that came though nobody sent them.
    strange: u64,
}

/// What the book proves once the queue is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acknowledged: u64,
    /// Acknowledged, never deleted, and not there.
    pub lost: u64,
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

    pub fn sent(&mut self, number: u64) {
        self.page(number).sent = Fate::Acknowledged;
    }

    /// The send was certainly not applied.
    pub fn not_sent(&mut self, number: u64) {
        self.page(number).sent = Fate::NotTried;
    }

    /// A message was received, at this log time, under a lease to that one.
    pub fn granted(&mut self, number: u64, count: u32, at: SystemTime, ends: SystemTime) {
        match self.pages.get_mut(&number) {
            Some(page) => page.grants.push(Grant { count, at, ends }),
            None => self.strange += 1,
        }
    }

    /// The lease of a grant was moved; `ends` is `None` when that is not known.
    pub fn moved(
        &mut self,
        number: u64,
        count: u32,
        asked_at: SystemTime,
        ends: Option<SystemTime>,
    ) {
        let page = self.page(number);
        if let Some(grant) = page.grants.iter_mut().find(|grant| grant.count == count) {
            grant.ends = match ends {
                Some(ends) => ends,
                None => grant.ends.min(asked_at),
            };
        }
    }

    /// The delete was acknowledged at this log time.
    pub fn deleted(&mut self, number: u64, at: SystemTime) {
        let page = self.page(number);
        page.deleted = Fate::Acknowledged;
        page.deleted_at = Some(at);
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
        let acknowledged = self.pages.values().filter(|page| page.sent == Fate::Acknowledged);
        acknowledged.count() as u64
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
                verdict.lost += 1;
                let times = page.grants.len();
                verdict.find(format!("message {number} is lost; it was received {times} times"));
            }
            page.judge_grants(*number, &mut verdict);
        }
        verdict
    }
}

impl Page {
    fn judge_grants(&self, number: u64, verdict: &mut Verdict) {
        let mut grants = self.grants.clone();
        grants.sort_by_key(|grant| (grant.count, grant.at));
        for pair in grants.windows(2) {
            let [before, after] = pair else { continue };
            if after.at < before.ends {
                verdict.duplicated_while_leased += 1;
                let early = before.ends.duration_since(after.at).unwrap_or_default();
                verdict.find(format!(
                    "message {number} was given again (delivery {} after {}) {} us before its \
                     lease ended",
                    after.count,
                    before.count,
                    early.as_micros()
                ));
            }
        }
        let Some(deleted) = self.deleted_at else { return };
        if let Some(grant) = grants.iter().find(|grant| grant.at > deleted) {
            verdict.resurrected += 1;
            verdict.find(format!(
                "message {number} was given (delivery {}) after it was deleted",
                grant.count
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Sent, granted at 10 to 20, deleted at 15.
    fn whole() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.sending(1);
        ledger.sent(1);
        ledger.granted(1, 1, at(10), at(20));
        ledger.deleted(1, at(15));
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
        ledger.sent(2);
        ledger.sending(3);
        ledger.sent(3);
        ledger.granted(3, 1, at(1), at(2));
        ledger.sending(4);
        assert_eq!(ledger.judge().lost, 2, "2 never came, 3 came and was not deleted");
        ledger.delete_unknown(3);
        assert_eq!(ledger.judge().lost, 1, "3 may have been deleted");
        assert_eq!((ledger.judge().unknown, ledger.judge().unknown_found), (1, 0), "4 may be");
    }

    #[test]
    fn a_second_grant_before_the_lease_ended_is_found() {
        let mut ledger = whole();
        ledger.granted(1, 2, at(14), at(24));
        assert_eq!(ledger.judge().duplicated_while_leased, 1);

        let mut shortened = whole();
        shortened.moved(1, 1, at(12), Some(at(13)));
        shortened.granted(1, 2, at(14), at(24));
        assert!(shortened.judge().ok(), "the lease had been shortened");

        let mut unknown = whole();
        unknown.moved(1, 1, at(12), None);
        unknown.granted(1, 2, at(14), at(24));
        assert!(unknown.judge().ok(), "it may have been shortened");
    }

    #[test]
    fn a_grant_after_an_acknowledged_delete_is_a_resurrection() {
        let mut ledger = whole();
        ledger.granted(1, 2, at(21), at(30));
        let verdict = ledger.judge();
        assert_eq!((verdict.resurrected, verdict.ok()), (1, false));
        assert!(verdict.findings[0].contains("message 1"), "{verdict:?}");
    }

    #[test]
    fn a_message_that_nobody_sent_is_found() {
        let mut ledger = Ledger::default();
        ledger.granted(9, 1, at(1), at(2));
        assert_eq!(ledger.judge().never_sent, 1);
        let mut refused = Ledger::default();
        refused.sending(1);
        refused.not_sent(1);
        assert!(refused.judge().ok());
        refused.granted(1, 1, at(1), at(2));
        assert_eq!(refused.judge().never_sent, 1);
    }
}
