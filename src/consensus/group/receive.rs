//! Receiving: look, wait in line, propose.
//!
//! Laws: a receive is proposed only when there is something that nobody else is about to take, or
//! a send that brings it is being proposed, so waiting costs no entry of the log; an empty answer has a majority's word.

use std::time::Duration;

use tokio::time::Instant;

use super::waiting::{Claim, Turn};
use super::{Group, GroupError, stopped};
use crate::consensus::proposer::Done;
use crate::queue::command::{Command, Envelope, NewMessage, Receive, SessionTag};
use crate::queue::error::Rejection;
use crate::queue::ids::{LogTime, QueueId, Span};
use crate::queue::outcome::Reply;

/// The shortest wait for time alone: the clock of the log may run a little slower than ours.
const NAP: Duration = Duration::from_millis(1);
/// The longest the lines are left alone when nothing gives a reason to look.
const REST: Duration = Duration::from_secs(60);
/// A majority's word serves the others who need it at about the same time.
const WORD: Duration = Duration::from_millis(100);

impl Group {
    /// Leases messages, waiting up to `wait` for the first. `None` = nothing was visible, by a
    /// majority's word.
    ///
    /// # Errors
    /// A rejection, or *not now* when leadership moved while it waited.
    pub async fn receive(
        &self,
        account: &str,
        receive: &Receive,
        session: Option<SessionTag>,
        wait: Duration,
        deadline: Instant,
    ) -> Result<Option<Done>, GroupError> {
        // The last confirmation needs its time before the deadline.
        let latest = deadline.checked_sub(self.inner.config.heartbeat).unwrap_or(deadline);
        let came = Instant::now();
        let give_up = (came + wait).min(latest);
        let mut confirmed = false;
        loop {
            // A client that knows both regions must not wait at the wrong one.
            self.check_writable()?;
            // A grant that was made under this tag is answered again, whatever is visible now.
            if session.is_some_and(|tag| self.inner.store.read().state().is_answered(&tag)) {
                return self.propose_receive(account, receive, session, deadline).await.map(Some);
            }
            let seen = self.visible(account, &receive.queue)?;
            let over = Instant::now() >= give_up;
            let visible = seen.as_ref().map_or(0, |(_, visible)| *visible);
            let most = u64::from(receive.max_messages);
            let mut claim = seen
                .as_ref()
                .ok()
                .and_then(|(queue, _)| self.inner.waiting.claim(*queue, most, visible));
            if claim.is_none() && visible == 0 && !confirmed && (over || seen.is_err()) {
                // A leader that was replaced without knowing it sees neither the messages nor
                // the queues of its successor: *nothing* takes a majority's word, and then
                // another look.
                self.confirm_after(came, deadline).await?;
                confirmed = true;
                continue;
            }
            let (queue, _) = seen?;
            if claim.is_none() && over && visible == 0 {
                return Ok(None);
            }
            // Whose time is over while others are about to take all there is tries with them.
            if claim.is_none() && !over {
                claim = self.stand_in_line(queue, most, give_up).await?;
                if claim.is_none() {
                    continue;
                }
            }
            let done = self.propose_receive(account, receive, session, deadline).await?;
            drop(claim);
            // Another receiver was faster. No session keeps an empty answer, so this one may ask
            // again under its number.
            if !gave_nothing(&done) {
                return Ok(Some(done));
            }
            if over {
                return Ok(None);
            }
        }
    }

    async fn propose_receive(
        &self,
        account: &str,
        receive: &Receive,
        session: Option<SessionTag>,
        deadline: Instant,
    ) -> Result<Done, GroupError> {
        let command = Command::Receive(receive.clone());
        let envelope = Envelope { session, account: account.to_owned(), command };
        self.propose(envelope, deadline).await
    }

    /// Waits for a turn; `None` says to look again.
    async fn stand_in_line(
        &self,
        queue: QueueId,
        most: u64,
        give_up: Instant,
    ) -> Result<Option<Claim>, GroupError> {
        let mut leadership = self.leadership();
        let mut ticket = self.inner.waiting.join(queue, most);
        // A change before these lines shows in the term, a later one ends the wait.
        leadership.borrow_and_update();
        self.term()?;
        tokio::select! {
            turn = ticket.turn() => Ok(match turn {
                Turn::Take(claim) => Some(claim),
                Turn::Look => None,
            }),
            changed = leadership.changed() => {
                changed.map_err(|_| stopped())?;
                Ok(None)
            }
            () = tokio::time::sleep_until(give_up) => Ok(None),
        }
    }

    /// How many messages receives that are proposed now would find, and in which queue.
    fn visible(
        &self,
        account: &str,
        queue: &str,
    ) -> Result<Result<(QueueId, u64), Rejection>, GroupError> {
        let now = self.term()?.clock.stamp();
        let store = self.inner.store.read();
        let state = store.state();
        let visible = |id| (id, state.visible_in(id, now).unwrap_or(0));
        Ok(state.queue_id(account, queue).map(visible))
    }

    /// Gives those who wait their turns for the messages of a send that is about to be proposed,
    /// so that their receives travel with it and not behind it. Where the send comes to nothing,
    /// so do they, and those who wait ask again.
    pub(super) fn announce(&self, envelope: &Envelope) {
        if self.inner.waiting.count() == 0 {
            return;
        }
        match &envelope.command {
            Command::Send { queue, messages } => {
                self.announce_to(&envelope.account, queue, messages)
            }
            Command::Transact(asked) => {
                for (queue, messages) in &asked.sends {
                    self.announce_to(&envelope.account, queue, messages);
                }
            }
            _ => {}
        }
    }

    fn announce_to(&self, account: &str, queue: &str, messages: &[NewMessage]) {
        // Others will be visible at some time, or may be.
        let at_once =
            |message: &&NewMessage| message.delay == Span::ZERO && message.group.is_none();
        let coming = messages.iter().filter(at_once).count() as u64;
        if let Some(queue) = self.inner.store.read().state().receivable(account, queue) {
            self.inner.waiting.coming(queue, coming);
        }
    }

    /// Has a majority's word, given after `came`, that this node leads. Those whose waits end one
    /// after the other do not ask one after the other.
    async fn confirm_after(&self, came: Instant, deadline: Instant) -> Result<(), GroupError> {
        let recent = Instant::now().checked_sub(WORD).map_or(came, |then| then.max(came));
        if !self.inner.confirmer.has_confirmed_since(recent) {
            self.confirm(deadline).await?;
        }
        self.check_lease()
    }

    /// Gives those in line their turns, and says when the next may have one by time alone.
    fn serve_lines(&self) -> Duration {
        let waiting = &self.inner.waiting;
        if waiting.count() == 0 {
            return REST;
        }
        // Where this node leads no more everybody leaves by himself.
        let Ok(term) = self.term() else { return REST };
        let store = self.inner.store.read();
        let state = store.state();
        let now = LogTime(term.clock.stamp().0.max(state.log_time().0));
        let next = waiting.serve(now, |queue| {
            Some((state.visible_in(queue, now)?, state.next_visible_in(queue, now)))
        });
        let pause = next.map(|at| Duration::from_micros(at.0.saturating_sub(now.0)));
        pause.map_or(REST, |pause| pause.clamp(NAP, REST))
    }
}

/// Serves the lines whenever there is a reason to look; runs until Raft stops.
pub(super) async fn serve(group: Group) {
    let mut leadership = group.leadership();
    while group.is_running() {
        let pause = group.serve_lines();
        tokio::select! {
            () = group.inner.waiting.changed() => {}
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                group.inner.waiting.all_changed();
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn gave_nothing(done: &Done) -> bool {
    matches!(&done.outcome, Ok(Reply::Received { messages, .. }) if messages.is_empty())
}
