//! Whose wall clock log time follows: what the voters say of it, what an operator accepts, and how
//! it goes on while this node leads.
//!
//! Laws: only the leader asks, and what it heard holds for its term. An operator's word holds for
//! the term in which it was given; one that did not come into force by its deadline is taken back,
//! so that it is certainly not applied. Within a term a majority's word steers T and moves no
//! leadership.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::error::{GroupError, Reason};
use super::super::log_clock::{self, Look, StepAlarm, Voucher};
use super::super::proposer::Term;
use super::super::transport::PeerClient;
use super::super::types::NodeId;
use super::Group;
use crate::clock::SharedClock;
use crate::queue::ids::LogTime;

/// Between two looks at the wall clock, and two questions whether a majority agrees with it.
const EVERY: Duration = Duration::from_secs(1);

/// What the leader's T follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Its wall clock, with which a majority agrees.
    Agreed,
    /// Its wall clock, which an operator accepted for this term.
    Accepted,
    /// Nothing: T runs on by monotonic time.
    RunsOn,
    /// There is no T yet, and nothing is written before there is one.
    NoTime,
}

impl Follows {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Follows::Agreed => "agreed",
            Follows::Accepted => "accepted",
            Follows::RunsOn => "runs on",
            Follows::NoTime => "no time",
        }
    }
}

/// The leader's clock, as it is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// T as it ran just before; 0 = there was none.
    pub log_time: LogTime,
    /// The leader's wall clock at that moment, in microseconds since 1970.
    pub wall_us: u64,
    /// It was followed already, and nothing was done.
    pub was_agreed: bool,
}

/// An operator's word, with the term for which it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Acceptance {
    #[default]
    None,
    Asked(u64),
    InForce(u64, Followed),
}

/// What this node knows of clocks as the leader.
#[derive(Debug)]
pub(super) struct Clocks {
    clock: SharedClock,
    acceptance: watch::Sender<Acceptance>,
    /// One operator at a time: who takes back takes back his own.
    turn: tokio::sync::Mutex<()>,
    /// The term, and how far ahead of this node's the voters' clocks were when last asked.
    heard: Mutex<(u64, Vec<(NodeId, i128)>)>,
}

/// A word that is taken back unless it has come into force.
struct Word<'a> {
    acceptance: &'a watch::Sender<Acceptance>,
    term: u64,
}

impl Drop for Word<'_> {
    fn drop(&mut self) {
        self.acceptance.send_if_modified(|now| {
            let is_idle = *now == Acceptance::Asked(self.term);
            if is_idle {
                *now = Acceptance::None;
            }
            is_idle
        });
    }
}

impl Clocks {
    pub(super) fn new(clock: SharedClock) -> Clocks {
        Clocks {
            clock,
            acceptance: watch::Sender::default(),
            turn: tokio::sync::Mutex::default(),
            heard: Mutex::default(),
        }
    }

    /// This node's wall clock, in microseconds since 1970.
    pub(super) fn wall_us(&self) -> u64 {
        self.clock.wall_us()
    }

    fn ask(&self, term: u64) -> Word<'_> {
        self.acceptance.send_replace(Acceptance::Asked(term));
        Word { acceptance: &self.acceptance, term }
    }

    fn is_accepted(&self, term: u64) -> bool {
        let now = *self.acceptance.borrow();
        matches!(now, Acceptance::Asked(it) | Acceptance::InForce(it, _) if it == term)
    }

    /// This node's wall time, if an operator accepts it in this term, in which T is at `log_time`.
    /// The word is in force then and is not taken back any more.
    pub(super) fn accepted(&self, term: u64, log_time: LogTime) -> Option<u64> {
        let wall_us = self.clock.wall_us();
        let followed = Followed { log_time, wall_us, was_agreed: false };
        self.acceptance.send_if_modified(|now| {
            let is_asked = *now == Acceptance::Asked(term);
            if is_asked {
                *now = Acceptance::InForce(term, followed);
            }
            is_asked
        });
        self.is_accepted(term).then_some(wall_us)
    }

    /// Returns once an operator accepts this node's clock in this term.
    async fn until_accepted(&self, term: u64) {
        let mut acceptance = self.acceptance.subscribe();
        let mine = |it: &Acceptance| matches!(it, Acceptance::Asked(asked) if *asked == term);
        // The sender lives as long as this node.
        if acceptance.wait_for(mine).await.is_err() {
            std::future::pending().await
        }
    }

    fn in_force(&self, term: u64) -> Option<Followed> {
        match *self.acceptance.borrow() {
            Acceptance::InForce(it, followed) if it == term => Some(followed),
            _ => None,
        }
    }

    fn note(&self, term: u64, ahead: Vec<(NodeId, i128)>) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = (term, ahead);
    }

    /// How far ahead of this node's clock that of a voter was, in microseconds, when it was last
    /// asked in this term.
    fn heard(&self, term: u64, node: NodeId) -> Option<i64> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, ahead) = heard.1.iter().find(|(id, _)| *id == node && heard.0 == term)?;
        let far = if *ahead < 0 { i64::MIN } else { i64::MAX };
        Some(i64::try_from(*ahead).unwrap_or(far))
    }
}

impl Group {
    /// What the T of this node follows, where it leads.
    pub(super) fn follows(&self) -> Option<Follows> {
        if let Ok(term) = self.term() {
            return Some(match term.clock.voucher() {
                Some(Voucher::Majority) => Follows::Agreed,
                Some(Voucher::Operator) => Follows::Accepted,
                None => Follows::RunsOn,
            });
        }
        let has_time = self.store().read().state().log_time() > LogTime::default();
        (self.leads_raft() && !has_time).then_some(Follows::NoTime)
    }

    /// Whether this node leads, ready to propose or not.
    fn leads_raft(&self) -> bool {
        self.inner.leadership.borrow().leader == Some(self.node())
    }

    /// How far ahead of this node's clock that of a member was when it was last asked, in
    /// microseconds, where this node leads in this term.
    pub(super) fn clock_ahead_us(&self, term: u64, node: NodeId) -> Option<i64> {
        let heard =
            || if node == self.node() { Some(0) } else { self.inner.clocks.heard(term, node) };
        self.leads_raft().then(heard).flatten()
    }

    /// How far this node's wall clock is ahead of T as it runs, in microseconds, where it leads.
    pub(super) fn wall_ahead_us(&self) -> Option<i64> {
        self.term().ok().map(|term| term.clock.wall_ahead_us())
    }

    /// The clock of this node, where it leads and T follows it.
    #[must_use]
    pub fn followed(&self) -> Option<Followed> {
        let term = self.term().ok()?;
        term.clock.voucher()?;
        let wall_us = self.inner.clocks.clock.wall_us();
        Some(Followed { log_time: term.clock.stamp(), wall_us, was_agreed: true })
    }

    /// Lets T follow this node's wall clock for as long as it leads in this term, on an operator's
    /// word in the place of a majority's; answers when it does. Where it does so already nothing is
    /// done.
    ///
    /// # Errors
    /// *Not now*, not applied: this node does not lead, no longer leads, or did not get so far by
    /// the deadline.
    pub async fn accept_clock(&self, deadline: Instant) -> Result<Followed, GroupError> {
        let late = || GroupError::not_applied(Reason::Deadline);
        let clocks = &self.inner.clocks;
        let turn = tokio::time::timeout_at(deadline, clocks.turn.lock()).await;
        let _turn = turn.map_err(|_| late())?;
        let now = *self.inner.leadership.borrow();
        if now.leader != Some(self.node()) {
            return Err(self.not_leader());
        }
        if let Some(followed) = self.followed() {
            return Ok(followed);
        }
        let (mut leadership, mut terms) = (self.leadership(), self.inner.terms.clone());
        let is_over = |it: &super::Leadership| (it.term, it.leader) != (now.term, now.leader);
        let is_anchored =
            |it: &Option<Arc<Term>>| it.as_ref().is_some_and(|term| term.clock.voucher().is_some());
        let word = clocks.ask(now.term);
        let ended = async {
            tokio::select! {
                biased;
                _ = terms.wait_for(is_anchored) => Ok(()),
                _ = leadership.wait_for(is_over) => Err(self.not_leader()),
            }
        };
        let ended = tokio::time::timeout_at(deadline, ended).await;
        drop(word);
        // Whatever came first: what is in force was applied, and nothing else can be any more.
        match clocks.in_force(now.term).or_else(|| self.followed()) {
            Some(followed) => Ok(followed),
            None => Err(ended.ok().and_then(Result::err).unwrap_or_else(late)),
        }
    }
}

/// This node's wall time, if a majority of the voters agrees with it within the bound. What all
/// said that were heard is noted.
async fn asked(group: &Group) -> (Option<u64>, Option<NodeId>) {
    // A voter that does not answer by then has no say; the others may be a majority.
    let within = group.config().heartbeat.max(Duration::from_millis(250));
    let clock = &group.inner.clocks.clock;
    let (term, voters, others) = {
        let metrics = group.raft().metrics();
        let metrics = metrics.borrow_watched();
        let members = &metrics.membership_config;
        let voters: Vec<NodeId> = members.voter_ids().collect();
        let others: Vec<(NodeId, String)> = voters
            .iter()
            .filter(|id| **id != group.node())
            .filter_map(|id| Some((*id, members.get_node(id)?.peer_address.clone())))
            .collect();
        (metrics.current_term, voters.len(), others)
    };
    let mut asked: FuturesUnordered<_> = others
        .into_iter()
        .map(|(id, address)| async move {
            let mut peer = PeerClient::new(group.peers().clone(), id, &address);
            let theirs = peer.read_clock(within).await.ok()?;
            // How far ahead theirs is, at the moment it answered.
            Some((id, i128::from(theirs) - i128::from(clock.wall_us())))
        })
        .collect();
    let bound = bound_us(group);
    let mut ahead: Vec<(NodeId, i128)> = Vec::with_capacity(voters);
    let agreed = loop {
        let offsets: Vec<i128> = ahead.iter().map(|(_, by)| *by).collect();
        // A majority is enough: nobody waits for a zone that is gone.
        if log_clock::is_agreed(0, &offsets, voters, bound) {
            break Some(clock.wall_us());
        }
        match asked.next().await {
            Some(answer) => ahead.extend(answer),
            None => break None,
        }
    };
    let heir = agreed.is_none().then(|| log_clock::agreed_other(&ahead, voters, bound)).flatten();
    group.inner.clocks.note(term, ahead);
    (agreed, heir)
}

fn bound_us(group: &Group) -> u64 {
    u64::try_from(group.config().clock_bound.as_micros()).unwrap_or(u64::MAX)
}

/// This node's wall time, if a majority of the voters agrees with it within the bound. If one
/// agrees with another voter instead, that one is asked to lead, unless an operator accepts this
/// node's clock.
pub(super) async fn agreed_or_handed_over(group: &Group, term: u64) -> Option<u64> {
    let (agreed, heir) = asked(group).await;
    if let Some(heir) = heir
        && !group.inner.clocks.is_accepted(term)
    {
        tracing::error!(heir, "a majority's wall clocks disagree with this node's: it hands over");
        if let Err(error) = group.hand_over(Some(heir)).await {
            tracing::warn!(%error, "leadership was not handed over");
        }
    }
    agreed
}

/// The same term anchored, once a majority agrees with the wall clock after all, or an operator
/// accepts it. It goes on from the stamps given so far.
pub(super) async fn anchored_later(group: &Group, term: u64, known: &Term) -> Term {
    loop {
        tokio::select! {
            biased;
            () = group.inner.clocks.until_accepted(term) => {
                let at = log_time(group).max(known.clock.stamp());
                if let Some(wall_us) = group.inner.clocks.accepted(term, at) {
                    tell_accepted();
                    let clock = known.clock.anchored(at, wall_us, Voucher::Operator);
                    return Term { clock, ..*known };
                }
            }
            () = tokio::time::sleep(EVERY) => {
                if let Some(wall_us) = agreed_or_handed_over(group, term).await {
                    tracing::info!("a majority agrees with this node's wall clock again");
                    let clock = known.clock.anchored(log_time(group), wall_us, Voucher::Majority);
                    return Term { clock, ..*known };
                }
            }
        }
    }
}

pub(super) fn tell_accepted() {
    tracing::warn!(
        "an operator accepted this node's wall clock: log time follows it while this term lasts"
    );
}

/// The same term steered to the wall clock, once that has stepped and a majority agrees with it, or
/// agrees with what an operator accepted. A step that nobody agrees with is told of and changes
/// nothing.
pub(super) async fn steered(group: &Group, known: &Term, alarm: &mut StepAlarm) -> Term {
    // Two clocks that are within half of the bound of the true time are within the bound of each
    // other: a smaller step costs no clock its agreement.
    let most_us = bound_us(group) / 2;
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(step_us) = known.clock.step_us() else { continue };
        let look = alarm.look(step_us, most_us);
        match look {
            Look::Stepped => tracing::warn!(
                step_us,
                "this node's wall clock has stepped: log time goes on as it did, unless a majority \
                 agrees with the step"
            ),
            Look::Back => tracing::info!("this node's wall clock has come back to log time's"),
            Look::Even | Look::Apart => {}
        }
        let has_stepped = matches!(look, Look::Stepped | Look::Apart);
        if !has_stepped && known.clock.voucher() == Some(Voucher::Majority) {
            continue;
        }
        if let (Some(wall_us), _) = asked(group).await {
            *alarm = StepAlarm::default();
            let clock = known.clock.steered(log_time(group), wall_us);
            let apart_us = clock.wall_ahead_us();
            tracing::info!(
                apart_us,
                "a majority agrees with this node's wall clock: log time is steered to it"
            );
            return Term { clock, ..*known };
        }
    }
}

fn log_time(group: &Group) -> LogTime {
    group.store().read().state().log_time()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const T: LogTime = LogTime(5);

    fn clocks() -> Clocks {
        Clocks::new(Arc::new(ManualClock::at(9)))
    }

    #[test]
    fn a_word_that_did_not_come_into_force_is_taken_back() {
        let clocks = clocks();
        assert_eq!(clocks.accepted(3, T), None, "nobody asked");
        drop(clocks.ask(3));
        assert_eq!((clocks.accepted(3, T), clocks.in_force(3)), (None, None));
    }

    #[test]
    fn a_word_in_force_holds_for_its_term_and_for_no_other() {
        let clocks = clocks();
        let word = clocks.ask(3);
        assert_eq!(clocks.accepted(4, T), None);
        assert_eq!(clocks.accepted(3, T), Some(9));
        drop(word);
        let followed = Followed { log_time: T, wall_us: 9, was_agreed: false };
        assert_eq!(clocks.in_force(3), Some(followed));
        assert_eq!(clocks.accepted(3, LogTime(7)), Some(9), "of a term that is prepared anew");
        assert_eq!(clocks.in_force(3), Some(followed), "as it was accepted");
        assert_eq!((clocks.accepted(4, T), clocks.in_force(4)), (None, None));
    }

    #[test]
    fn what_was_heard_in_another_term_is_not_told() {
        let clocks = clocks();
        clocks.note(3, vec![(1, -7), (2, i128::from(u64::MAX))]);
        assert_eq!((clocks.heard(3, 1), clocks.heard(3, 2)), (Some(-7), Some(i64::MAX)));
        assert_eq!((clocks.heard(3, 3), clocks.heard(4, 1)), (None, None));
    }
}
