//! Callers that know of a higher epoch of this pair than this cluster: the other region is asked
//! before such a call is answered as by the region that writes.
//!
//! Laws: what a caller says is no proof. It makes this node ask, and the other region's own word
//! is what deposes this one. A call is taken only after a question that began after the call came,
//! and to which every node of the other region answered that it is not so; until then it is *not
//! now*, not applied. Only the call that says it is held up: whoever made the epoch up stops
//! nobody but himself, also while the line is cut. However many say it, one question is under way,
//! and one a second begins.
//!
//! A cluster that is of no pair, or holds the copy of another one, answers nobody who knows of a
//! pair: what it has, or has not, says nothing of that one's queues.
//!
//! Who asks is the floor between regions.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::error::{Fate, GroupError, Reason};
use super::Group;
use crate::proto::epoch::KnownEpoch;
use crate::queue::authority::Role;

/// A call waits for the answer so long at most: until the next question may begin, and some.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Who wants to know, and what was found out.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// The calls so far that wait for a question which begins after them.
    wishes: watch::Sender<u64>,
    verdict: watch::Sender<Verdict>,
}

/// What came of the newest question.
#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    /// It began after so many wishes.
    wishes: u64,
    /// The other region answered it: all of its nodes, or one that it is so.
    is_answered: bool,
    /// None begins before.
    next: Option<Instant>,
}

impl Group {
    /// Takes what a call says that it knows: whether it may be answered as by the region that
    /// writes, as far as that goes.
    ///
    /// # Errors
    /// *Not now*, not applied, where its epoch is above all that this cluster knows and the other
    /// region did not answer whether it is so, and where this cluster is not of that pair.
    pub async fn check_told(&self, told: &KnownEpoch, deadline: Instant) -> Result<(), GroupError> {
        self.check_pair(told, Fate::NotApplied)?;
        if !self.is_news(told) {
            return Ok(());
        }
        let inquiry = &self.inner.inquiry;
        let last = *inquiry.verdict.borrow();
        let left = last.next.map(|next| next.saturating_duration_since(Instant::now()));
        if let (Some(left), false) = (left.filter(|left| !left.is_zero()), last.is_answered) {
            return Err(untold(left));
        }
        let mut verdicts = inquiry.verdict.subscribe();
        let mut wish = 0;
        inquiry.wishes.send_modify(|wishes| {
            *wishes += 1;
            wish = *wishes;
        });
        let until = deadline.min(Instant::now() + PATIENCE);
        let answered = verdicts.wait_for(|verdict| verdict.wishes >= wish);
        match tokio::time::timeout_at(until, answered).await {
            Ok(Ok(verdict)) if verdict.is_answered => Ok(()),
            _ if !self.is_news(told) => Ok(()),
            _ => Err(untold(PATIENCE)),
        }
    }

    /// Whether what is here may be what the caller means. It may not where there never was a pair,
    /// or a wipe ended it, nor in a copy of another one. Who stands alone with data of a pair that
    /// came to an end is not told from its rightful heir, and serves. An answer is checked after it
    /// was made, too: the wipe may have come in between.
    ///
    /// # Errors
    /// *Not now*, with this fate.
    pub fn check_pair(&self, told: &KnownEpoch, fate: Fate) -> Result<(), GroupError> {
        let known = self.store().known_epoch();
        if known.is_some_and(|known| known.lineage() == told.lineage()) {
            return Ok(());
        }
        let is_copy = || {
            let store = self.store().read();
            let role = store.state().authority().map(|it| &it.role);
            matches!(role, Some(Role::Secondary | Role::Detached | Role::Released { .. }))
        };
        if known.is_some() && !is_copy() {
            return Ok(());
        }
        let (reason, retry_after) = (Reason::OtherPair, PATIENCE);
        Err(GroupError::NotNow { reason, fate, retry_after, leader: None })
    }

    /// Whether an epoch would depose this cluster if it is so, and nobody has said so yet.
    fn is_news(&self, told: &KnownEpoch) -> bool {
        if !self.store().known_epoch().is_some_and(|known| told.is_above(&known)) {
            return false;
        }
        // What was heard refuses by itself, and so does a role that does not write.
        let store = self.store().read();
        let role = store.state().authority().map(|it| &it.role);
        let writes = matches!(role, Some(Role::Standalone | Role::Primary | Role::Sealed { .. }));
        drop(store);
        writes && self.check_heard().is_ok()
    }

    /// Waits until somebody wants to know more than was asked after `asked` wishes; how many there
    /// are by then.
    pub async fn until_asked(&self, asked: u64) -> u64 {
        let mut wishes = self.inner.inquiry.wishes.subscribe();
        let more = wishes.wait_for(|wishes| *wishes > asked).await.map(|wishes| *wishes);
        match more {
            Ok(wishes) => wishes,
            // Its other end goes with the group, and so does who waits here.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends a question that began after so many wishes; `is_answered` = by all nodes of the other
    /// region, or by one that told of its promotion. None begins before `next`.
    pub fn end_inquiry(&self, wishes: u64, is_answered: bool, next: Instant) {
        let next = Some(next);
        self.inner.inquiry.verdict.send_replace(Verdict { wishes, is_answered, next });
    }
}

fn untold(retry_after: Duration) -> GroupError {
    let (reason, fate) = (Reason::Untold, Fate::NotApplied);
    GroupError::NotNow { reason, fate, retry_after, leader: None }
}
