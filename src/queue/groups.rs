//! The groups of one queue: who is the head of each, and who is blocked behind it.
//!
//! Laws: of a group only the head stands in the order of the queue; the others wait here, by
//! their places (the order of sending), whatever their priority. A head that is delayed or leased
//! stays the head, and blocks; one that leaves the queue makes way for the next. Whoever comes
//! later has a later place, so a head is displaced only while rows are read back in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::{LogTime, Number};
use super::message::Message;
use super::ranked::Ranked;

/// A message's place in its group, and its number.
pub type Member = (Number, Number);

#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// The head is the first; no group is empty.
    members: BTreeMap<Arc<str>, BTreeSet<Member>>,
    blocked: u64,
    /// When those blocked become due that expire.
    ends: Ranked,
}

impl Groups {
    /// How many are blocked at `now`; one that is due counts as due.
    #[must_use]
    pub fn blocked(&self, now: LogTime) -> u64 {
        self.blocked - self.ends.up_to(now) as u64
    }

    pub fn ends(&self) -> &Ranked {
        &self.ends
    }

    #[must_use]
    pub fn is_head(&self, group: &str, member: Member) -> bool {
        self.head(group) == Some(member)
    }

    #[must_use]
    pub fn head(&self, group: &str) -> Option<Member> {
        self.members.get(group)?.first().copied()
    }

    /// Adds a member; the caller blocks all but the head.
    pub fn join(&mut self, group: &Arc<str>, member: Member) {
        if let Some(members) = self.members.get_mut(group) {
            members.insert(member);
        } else {
            self.members.insert(Arc::clone(group), BTreeSet::from([member]));
        }
    }

    /// Takes a member out; answers the new head when it was the head.
    pub fn leave(&mut self, group: &str, member: Member) -> Option<Member> {
        let members = self.members.get_mut(group)?;
        let was_head = members.first() == Some(&member);
        members.remove(&member);
        let next = members.first().copied();
        if next.is_none() {
            self.members.remove(group);
        }
        next.filter(|_| was_head)
    }

    pub fn block(&mut self, message: &Message) {
        self.blocked += 1;
        if let Some(at) = message.due_at() {
            self.ends.insert((at, message.number));
        }
    }

    pub fn unblock(&mut self, message: &Message) {
        self.blocked -= 1;
        if let Some(at) = message.due_at() {
            self.ends.remove((at, message.number));
        }
    }

    /// The name of a group as it is kept already, so that its messages share it.
    #[must_use]
    pub fn name(&self, group: &str) -> Arc<str> {
        self.members.get_key_value(group).map_or_else(|| Arc::from(group), |(n, _)| Arc::clone(n))
    }
}
