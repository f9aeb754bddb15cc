//! The promotion of a secondary by force: what it loses, and what it waits for.
//!
//! Laws: where region leases were agreed to, granting is stopped first, by an entry, and the
//! promotion names that entry. The wait counts from the moment when this process knew that it
//! was committed, so that the verb may be run again and goes on waiting; another leader waits
//! anew. What is lost is said as of the primary's last word. Asked again after an epoch that is over
//! because of a promotion here, the verb answers that promotion: who does not know what became of
//! it asks again until he does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::toward::elsewhere;
use super::{ALONE, Pair};
use crate::consensus::group::Standing;
use crate::geo::error::PairError;
use crate::geo::herald::ClockAhead;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::ahead::Ahead;
use crate::queue::authority::command::{RegionReply, RegionVerb};
use crate::queue::authority::lease::Leasing;
use crate::queue::authority::loss::{ForcedLoss, KeptLoss, LostMessages};
use crate::queue::authority::{Authority, RegionEpoch, Role};
use crate::queue::ids::{Epoch, LogTime, Number, Position, Span};
use crate::storage::codec;

/// Between two tries of a promotion that cannot be now.
const AGAIN: Duration = Duration::from_millis(100);

/// What this process remembers of promotions by force; what they lost is in the state too.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    /// Since when it knows, by its monotonic clock, that granting was stopped at an entry.
    stopped: Option<(Position, u64)>,
    /// What a promotion to an epoch was known to lose, when it was asked for.
    loss: Option<(Epoch, Loss)>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a forced promotion is known to lose, as of the primary's last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Positions of the primary's log that this copy lacks, bookkeeping included; `None` = the
    /// primary was never heard.
    pub positions: Option<u64>,
    /// How much later the primary's time was.
    pub time: Option<Duration>,
    /// How long ago that was known; `None` = not since this node leads.
    pub age: Option<Duration>,
    pub is_complete: bool,
    /// Messages that the primary has and this copy lacks, by queue, those with the most first.
    pub queues: Option<LostMessages>,
    /// The most that clients can have written there and this copy lacks, by the limit at which it
    /// lets writes wait, as that was when it was heard last.
    pub bytes_at_most: Option<u64>,
    /// How long the last region lease may still run; `None` = none was ever agreed to.
    pub lease_wait: Option<Duration>,
    /// How far the clock of the primary's node was ahead of this one's when it was heard last;
    /// `None` = not heard since this process started.
    pub clock: Option<ClockAhead>,
}

impl Loss {
    /// As it is kept beside the epoch that begins.
    fn kept(&self) -> KeptLoss {
        let span = |it: Duration| Span(u64::try_from(it.as_micros()).unwrap_or(u64::MAX));
        Arc::new(ForcedLoss {
            epoch: RegionEpoch::default(),
            entries: self.positions,
            time: self.time.map(span),
            age: self.age.map(span),
            messages: self.queues.clone(),
            bytes_at_most: self.bytes_at_most,
            is_complete: self.is_complete,
        })
    }

    /// Of what was kept; waits and clocks are not.
    fn of(kept: &ForcedLoss) -> Loss {
        Loss {
            positions: kept.entries,
            time: kept.time.map(|span| Duration::from_micros(span.0)),
            age: kept.age.map(|span| Duration::from_micros(span.0)),
            is_complete: kept.is_complete,
            queues: kept.messages.clone(),
            bytes_at_most: kept.bytes_at_most,
            lease_wait: None,
            clock: None,
        }
    }

    /// Messages that the primary has and this copy lacks.
    #[must_use]
    pub fn messages(&self) -> Option<u64> {
        self.queues.as_ref().map(LostMessages::total)
    }
}

/// Of what the primary says that it has, what a copy lacks whose next message has that number:
/// exact where the primary names each message, and else as it says.
#[must_use]
pub fn lacking(word: &pb::Ahead, next: u64) -> Vec<Ahead> {
    let left = |it: &pb::QueueAhead| match it.numbers.as_slice() {
        [] => it.messages,
        numbers => numbers.iter().filter(|number| **number >= next).count() as u64,
    };
    let queue = |it: &pb::QueueAhead| Ahead {
        account: it.account.clone(),
        queue: it.queue.clone(),
        messages: left(it),
        numbers: Vec::new(),
    };
    let mut queues: Vec<Ahead> = word.queues.iter().map(queue).collect();
    queues.retain(|it| it.messages > 0);
    queues.sort_by_key(|it| std::cmp::Reverse(it.messages));
    queues
}

/// Messages of all queues. What the other region says of its own is not believed to have an end.
#[must_use]
pub fn all(queues: &[Ahead]) -> u64 {
    queues.iter().fold(0, |sum, queue| sum.saturating_add(queue.messages))
}

impl Pair {
    /// What this cluster has from a message number on, for a copy that lacks it.
    pub(in crate::geo) fn ahead(&self, from: u64) -> pb::Ahead {
        let (queues, (more_queues, more_messages)) =
            self.group.store().read().state().ahead(Number(from));
        let queue = |it: Ahead| pb::QueueAhead {
            account: it.account,
            queue: it.queue,
            messages: it.messages,
            numbers: it.numbers,
        };
        pb::Ahead {
            queues: queues.into_iter().map(queue).collect(),
            more: more_queues > 0,
            more_queues,
            more_messages,
        }
    }

    /// Of what the primary had at its last word, what this copy still lacks.
    pub(super) fn missing(&self, word: &pb::GetStatusResponse) -> Option<LostMessages> {
        let next = self.group.store().read().state().next_message();
        let ahead = word.ahead.as_ref()?;
        let queues = lacking(ahead, next);
        Some(LostMessages::of(&queues, (ahead.more_queues, ahead.more_messages)))
    }

    /// Messages that the primary has and the copy lacks: as the primary's word says, or here, where
    /// the copy's next message has that number.
    pub(super) fn messages_behind(
        &self,
        own: Option<&Authority>,
        word: Option<&pb::GetStatusResponse>,
        next: Option<u64>,
    ) -> Option<u64> {
        if own.is_some_and(|it| it.role == Role::Secondary) {
            return Some(self.missing(word?)?.total());
        }
        Some(self.group.store().read().state().count_ahead(Number(next?)))
    }

    /// What a promotion by force would lose, as far as it is known here.
    ///
    /// # Errors
    /// Refused on a side that is no secondary.
    pub fn loss(&self) -> Result<Loss, PairError> {
        let standing = self.group.standing();
        let Some(Standing { authority, log_time, .. }) = standing else {
            return Err(PairError::Refused(ALONE.to_owned()));
        };
        if authority.role != Role::Secondary {
            let why = format!(
                "only a secondary is promoted by force: this cluster is {}",
                authority.role.name()
            );
            return Err(elsewhere(&why, &authority, "failover --force"));
        }
        let heard = self.heard.borrow().clone();
        let now = self.clock.monotonic_us();
        let fresh = heard.filter(|it| {
            it.status.epoch.clone().map(codec::epoch_from).as_ref() == Some(&authority.epoch)
        });
        let queues = fresh.as_ref().and_then(|it| self.missing(&it.status));
        let clock = fresh.as_ref().and_then(|it| it.clock);
        let bytes_at_most = fresh.as_ref().and_then(|it| it.status.max_unshipped_bytes);
        // A batch may have told of more than the word that was heard last.
        let told = authority.head.map(|head| (head.position.index, head.log_time));
        let (head, age) = match fresh {
            Some(it) => {
                let at = it.status.applied.map(|at| (at.index, LogTime(it.status.log_time_us)));
                (at.max(told), Some(Duration::from_micros(now.saturating_sub(it.at_us))))
            }
            None => (told, None),
        };
        let through = authority.applied_through.map_or(0, |at| at.index);
        Ok(Loss {
            positions: head.map(|(index, _)| index.saturating_sub(through)),
            time: head.map(|(_, at)| Duration::from_micros(at.since(log_time).0)),
            age,
            is_complete: authority.is_complete,
            queues,
            bytes_at_most,
            lease_wait: self.lease_wait(&authority.leasing),
            clock,
        })
    }

    /// Promotes this secondary by force. What the primary had not shipped is its tail. Where region
    /// leases were agreed to, that takes as long as the longest of them, and a little more.
    ///
    /// # Errors
    /// Refused on a side that is no secondary, and on a copy that never was complete, or has nothing
    /// yet, unless that is `accepted`. *Not now* when leadership moves: run it again.
    pub async fn force(&self, who: &str, accepted: bool) -> Result<Loss, PairError> {
        self.loss()?;
        let authority = self.in_pair()?;
        let number = authority.next_number();
        // What `apply` would refuse anyway stops nothing.
        let is_fit = authority.is_complete || accepted;
        let stopped = match authority.must_stop_granting() && is_fit {
            true => Some(self.stop_granting(who).await?),
            false => None,
        };
        let loss = self.loss()?;
        self.memory.lock().loss = Some((number, loss.clone()));
        let kept = Some(loss.kept());
        self.propose(RegionVerb::Promote { number, accepted, stopped, loss: kept }, who).await?;
        Ok(loss)
    }

    /// As [`Pair::force`], upon the epoch `from`, or the one in force: tried again until the
    /// deadline as long as this node leads, and where this region was promoted after that epoch, that
    /// is answered. So it may be asked again where its outcome is not known.
    ///
    /// # Errors
    /// As there.
    pub async fn force_from(
        &self,
        who: &str,
        accepted: bool,
        from: Option<Epoch>,
        deadline: Instant,
    ) -> Result<Loss, PairError> {
        let from = from.or_else(|| Some(self.authority()?.epoch.number));
        loop {
            if let Some(loss) = self.promoted_since(from) {
                return Ok(loss);
            }
            let tried = self.force(who, accepted).await;
            let again = tried.as_ref().is_err_and(PairError::is_not_now)
                && self.group.leadership().borrow().is_me
                && Instant::now() + AGAIN < deadline;
            if !again {
                return match self.promoted_since(from) {
                    Some(loss) => Ok(loss),
                    None => tried,
                };
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The epoch that a promotion by force would follow, as this node knows it.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.authority().filter(|it| it.role == Role::Secondary).map(|it| it.epoch.number)
    }

    /// What was lost by the promotion of this region after that epoch, where there was one.
    fn promoted_since(&self, from: Option<Epoch>) -> Option<Loss> {
        let own = self.authority()?;
        let is_promoted = matches!(own.role, Role::Standalone | Role::Primary)
            && own.epoch.region == own.region
            && from.is_some_and(|from| own.epoch.number > from);
        let known = self.memory.lock().loss.clone().filter(|(at, _)| *at == own.epoch.number);
        let kept = own.loss.as_ref().filter(|it| it.epoch == own.epoch);
        let of_kept = || kept.map(|kept| Loss::of(kept)).unwrap_or_default();
        is_promoted.then(|| known.map_or_else(of_kept, |(_, loss)| loss))
    }

    /// Stops granting, and returns when no grant runs any more; answers the entry that stopped it.
    async fn stop_granting(&self, who: &str) -> Result<Position, PairError> {
        let reply = self.propose(RegionVerb::SetGranting { on: false }, who).await?;
        let RegionReply::At(entry) = reply else {
            return Err(PairError::Refused("granting was not stopped".to_owned()));
        };
        self.note_stopped(entry);
        loop {
            let leasing = self.in_pair()?.leasing;
            let left = self.lease_wait(&leasing).unwrap_or(Duration::ZERO);
            if left.is_zero() || leasing.stopped != Some(entry) {
                return Ok(entry);
            }
            tokio::time::sleep(left).await;
        }
    }

    /// The first time that it is known counts.
    fn note_stopped(&self, entry: Position) {
        let now = self.clock.monotonic_us();
        let mut known = self.memory.lock();
        if known.stopped.is_none_or(|(at, _)| at != entry) {
            known.stopped = Some((entry, now));
        }
    }

    /// How long a promotion still has to wait, by what this process knows.
    fn lease_wait(&self, leasing: &Leasing) -> Option<Duration> {
        let whole = Duration::from_micros(leasing.wait()?.0);
        let known = self.memory.lock().stopped;
        let since = known.filter(|(at, _)| Some(*at) == leasing.stopped).map(|(_, since)| since);
        let waited = since.map_or(0, |since| self.clock.monotonic_us().saturating_sub(since));
        Some(whole.saturating_sub(Duration::from_micros(waited)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_region_says_of_its_messages_may_pass_the_end_of_the_numbers() {
        let queue = |messages, numbers| pb::QueueAhead { messages, numbers, ..Default::default() };
        let word = |queues| pb::Ahead { queues, ..pb::Ahead::default() };
        let lacks = lacking(&word(vec![queue(9, vec![5, 6, 7]), queue(0, vec![])]), 6);
        assert_eq!(lacks.iter().map(|it| it.messages).collect::<Vec<_>>(), [2], "those it named");
        assert_eq!(all(&lacks), 2);
        let endless = lacking(&word(vec![queue(u64::MAX, vec![]), queue(1, vec![])]), 0);
        assert_eq!(all(&endless), u64::MAX);
    }
}
