//! The tail of a deposed primary: what it acknowledged and the other region never got.
//!
//! Laws: nothing is merged, and nothing is thrown away: it is listed from the state of the side
//! that is fenced, which changes no more until it is given that of the new primary; each page looks
//! whether it was. The head says where the fork is, and from which index on the log still holds the
//! tail; messages that are there are listed in any case, and what was deleted as far as the log
//! says so.

use std::time::Duration;

use tokio::time::Instant;

use super::error::PairError;
use super::pair::{Pair, toward};
use crate::consensus::error::{Fate, GroupError};
use crate::consensus::group::Group;
use crate::queue::authority::tail::{TailCursor, TailMessage};
use crate::queue::authority::{Authority, Fork, RegionEpoch, Role};
use crate::queue::command::{Command, Content, Envelope};
use crate::queue::ids::{LogTime, MessageId, Number};
use crate::queue::state::State;
use crate::storage::codec;
use crate::storage::log::Payload;

/// Messages on one page.
const PAGE: usize = 100;
/// One page has this long where contents must be had from other nodes.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of log read at once.
const READ: usize = 1 << 20;

/// What a tail is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailHead {
    pub epoch: RegionEpoch,
    pub fenced_by: RegionEpoch,
    pub fork: Fork,
    /// Entries of data after the fork that the log still holds.
    pub log_entries: u64,
    /// The log still reaches back to the fork.
    pub is_whole: bool,
    /// The first index of the tail that the log still holds; `None` = it holds none of it.
    pub whole_from: Option<u64>,
}

/// A message that was deleted after the fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailDelete {
    pub account: String,
    pub queue: String,
    pub id: MessageId,
    /// About when.
    pub at: LogTime,
    /// It was sent before the fork: the new primary may still have it.
    pub is_shared: bool,
}

/// All messages of a queue that were removed at once after the fork, by a command that names none of
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailRemoval {
    pub account: String,
    pub queue: String,
    /// About when.
    pub at: LogTime,
    /// With the queue; else it was cleared.
    pub with_queue: bool,
}

/// What went after the fork, as the log says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    Message(TailDelete),
    Queue(TailRemoval),
}

/// One page of a tail; the next begins at the cursor.
pub type TailPage = (Vec<(TailMessage, Content)>, Option<TailCursor>);

impl Pair {
    /// What the tail of this side is.
    ///
    /// # Errors
    /// Refused where this side is not fenced, or where it shares no history with who fenced it.
    pub fn tail_head(&self) -> Result<TailHead, PairError> {
        let refuse = |why: String| Err(PairError::Refused(why));
        let Some(standing) = self.group().standing() else {
            let why = "this cluster stands alone, and has no tail: `zoneq region status` says so";
            return refuse(why.to_owned());
        };
        let authority = standing.authority;
        let (fenced_by, fork, at) = match authority.role {
            Role::Fenced { ref by, fork: Some(fork), at } => (by.clone(), fork, at),
            Role::Fenced { ref by, .. } => {
                return refuse(format!("this side shares no epoch with region {:?}", by.region));
            }
            ref other => {
                let why = format!("a cluster that is {} has no tail", other.name());
                let there = toward(&authority, "tail list");
                return refuse(format!("{why}; where the other region is fenced: {there}"));
            }
        };
        let Authority { epoch, rests, .. } = authority;
        let first = fork.after.map_or(0, |after| after.index.saturating_add(1));
        let rested = |index: u64| rests.iter().any(|rest| rest.holds(index));
        let log_entries = count(self.group(), first, at.index, rested)?;
        // Looked at after the entries were counted: nothing is called held that was not.
        let held = self.group().log_first();
        let is_whole = held.is_some_and(|held| held <= first);
        let whole_from = held.map(|held| held.max(first)).filter(|from| *from <= at.index);
        Ok(TailHead { epoch, fenced_by, fork, log_entries, is_whole, whole_from })
    }

    /// Messages that entries of the tail's log from index `from` on say are deleted, and that are not
    /// there, and queues that they say are cleared or deleted; and where the next page begins, if
    /// there is one. A page may be empty and have a next.
    ///
    /// # Errors
    /// As [`Pair::tail_head`], and when the log cannot be read.
    pub fn tail_deletes(&self, from: u64) -> Result<(Vec<Gone>, Option<u64>), PairError> {
        let refuse = || PairError::Refused("this side has no tail".to_owned());
        let Authority { epoch, role, rests, .. } =
            self.group().standing().ok_or_else(refuse)?.authority;
        let Role::Fenced { fork: Some(fork), at, .. } = role else { return Err(refuse()) };
        let first = fork.after.map_or(0, |after| after.index.saturating_add(1));
        let held = self.group().log_first();
        let from = held.map_or(u64::MAX, |held| from.max(first).max(held));
        if from > at.index {
            return Ok((Vec::new(), None));
        }
        let entries = self.group().log_entries(from, at.index.saturating_add(1), READ)?;
        let next = entries.last().map(|entry| entry.position.index.saturating_add(1));
        let mut found = Vec::new();
        for entry in entries {
            let index = entry.position.index;
            let rested = rests.iter().any(|rest| rest.holds(index));
            let Payload::Commands(bytes) = entry.payload else { continue };
            if rested {
                continue;
            }
            let entry = codec::decode_entry(entry.position, bytes);
            let entry = entry.map_err(|error| GroupError::Fatal(error.to_string()))?;
            for envelope in &entry.commands {
                found.extend(deletes(envelope, entry.stamp, fork.next_number));
            }
        }
        let store = self.group().store().read();
        check_has(store.state(), &epoch)?;
        found.retain(|gone| match gone {
            Gone::Message(it) => !store.state().holds(&it.account, &it.queue, it.id),
            Gone::Queue(_) => true,
        });
        Ok((found, next.filter(|next| *next <= at.index)))
    }

    /// Whether this side is fenced and is known to have nothing alone.
    #[must_use]
    pub fn has_no_tail(&self) -> bool {
        let Ok(head) = self.tail_head() else { return false };
        let nothing = head.is_whole && head.log_entries == 0;
        let store = self.group().store().read();
        let (page, next) = store.state().tail(Number(head.fork.next_number), None, 1);
        nothing && page.is_empty() && next.is_none()
    }

    /// A page of the messages of this tail that are there, with their contents.
    ///
    /// # Errors
    /// As [`Pair::tail_head`], also where this side is fenced no more; when contents cannot be
    /// read; *not now* where one rotted and no other node has given it yet.
    pub async fn tail_page(
        &self,
        head: &TailHead,
        after: Option<TailCursor>,
    ) -> Result<TailPage, PairError> {
        let lost = |why: String| GroupError::Fatal(why);
        let (found, next) = {
            let store = self.group().store().read();
            check_has(store.state(), &head.epoch)?;
            let from = Number(head.fork.next_number);
            let (messages, next) = store.state().tail(from, after, PAGE);
            let found: Vec<_> = messages
                .into_iter()
                .map(|message| {
                    let content = store.find(message.shown.content);
                    (message, content)
                })
                .collect();
            (found, next)
        };
        let mut page = Vec::with_capacity(found.len());
        let until = Instant::now() + WITHIN;
        for (message, content) in found {
            let missing = || lost("the body of a message is not in the store".to_owned());
            let content = content.ok_or_else(missing)?;
            page.push((message, self.group().content(&content, until, Fate::NotApplied).await?));
        }
        Ok((page, next))
    }
}

/// A state has the tail of that epoch, and not yet what the new primary gives this side instead.
///
/// # Errors
/// Refused where it has not, or has it no more.
pub(super) fn check_has(state: &State, epoch: &RegionEpoch) -> Result<(), PairError> {
    let own = state.authority();
    if own.is_some_and(|own| own.epoch == *epoch && matches!(own.role, Role::Fenced { .. })) {
        return Ok(());
    }
    let RegionEpoch { number, region } = epoch;
    let why = format!(
        "this cluster has the tail of epoch {} of region {region:?} no more: it is {} now",
        number.0,
        own.map_or(Role::Standalone.name(), |own| own.role.name())
    );
    Err(PairError::Refused(why))
}

/// What a command deletes, if it does as it says.
fn deletes(envelope: &Envelope, at: LogTime, fork: u64) -> Vec<Gone> {
    let account = || envelope.account.clone();
    let one = |queue: &str, id: MessageId| {
        let (queue, is_shared) = (queue.to_owned(), id.number.0 < fork);
        Gone::Message(TailDelete { account: account(), queue, id, at, is_shared })
    };
    let all = |queue: &str, with_queue: bool| {
        let queue = queue.to_owned();
        vec![Gone::Queue(TailRemoval { account: account(), queue, at, with_queue })]
    };
    match &envelope.command {
        Command::Delete { queue, items } => items.iter().map(|(id, _)| one(queue, *id)).collect(),
        Command::Transact(asked) => {
            asked.deletes.iter().map(|(queue, id, _)| one(queue, *id)).collect()
        }
        Command::Clear { queue } => all(queue, false),
        Command::DeleteQueue { name } => all(name, true),
        _ => Vec::new(),
    }
}

/// Entries of data between two places of the log, as far as it still has them.
fn count(
    group: &Group,
    first: u64,
    last: u64,
    rested: impl Fn(u64) -> bool,
) -> Result<u64, PairError> {
    let Some(held) = group.log_first() else { return Ok(0) };
    let (mut from, mut count) = (first.max(held), 0);
    while from <= last {
        let entries = group.log_entries(from, last.saturating_add(1), READ)?;
        let Some(end) = entries.last().map(|entry| entry.position.index) else { break };
        let data = entries.iter().filter(|entry| {
            matches!(entry.payload, Payload::Commands(_)) && !rested(entry.position.index)
        });
        count += data.count() as u64;
        from = end.saturating_add(1);
    }
    Ok(count)
}
