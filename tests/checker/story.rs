//! The history told message by message and queue by queue, for the checks.
//!
//! A call took effect at one T, or not at all: `times.rs` says what is known of it, and `known.rs`
//! what follows from that for each message.

use std::collections::BTreeMap;

use zoneq::queue::ids::MessageId;

use crate::highest::Highest;
use crate::history::{
    Answer, Call, Deleted, History, LogTime, New, Op, Outcome, Redriven, Released, SentMessage,
    Shown, TAIL,
};
use crate::known::{self, Known, Presence, Spans};
use crate::queues::plan;
use crate::redrives::Redrives;
use crate::times::{Fences, When, ceilings, floors, when};

/// Something that a call did, or may have done.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    pub op: &'a Op,
    pub when: When,
}

#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub op: &'a Op,
    pub message: &'a SentMessage,
}

/// A message was given out.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    pub op: &'a Op,
    pub queue: &'a str,
    pub at: LogTime,
    pub shown: &'a Shown,
}

/// A message was updated or released.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub queue: &'a str,
    pub when: When,
    pub visible_at: LogTime,
    pub used: &'a str,
    /// The new receipt; of a release nobody has it.
    pub gave: Option<&'a str>,
}

/// A message was deleted.
#[derive(Clone, Copy, Debug)]
pub struct Removal<'a> {
    pub op: &'a Op,
    pub when: When,
    pub used: &'a str,
}

/// A receipt was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    pub queue: &'a str,
    pub at: LogTime,
    pub used: &'a str,
    pub not_found: bool,
}

/// A read showed a message.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    pub op: &'a Op,
    pub queue: &'a str,
    pub at: LogTime,
    pub shown: &'a Shown,
}

/// A dead letter was sent back as another message.
#[derive(Clone, Copy, Debug)]
pub struct Became<'a> {
    pub id: &'a str,
    /// The queue that it left.
    pub queue: &'a str,
    pub at: LogTime,
    /// Who saw the new one first.
    pub op: &'a Op,
}

/// All that is known of one message id.
#[derive(Clone, Debug, Default)]
pub struct Life<'a> {
    /// The queue that it was sent to.
    pub home: &'a str,
    pub number: u64,
    /// As it was sent, acknowledged or not.
    pub new: Option<&'a New>,
    /// The acknowledged send; a message whose send is unknown has none.
    pub sent: Option<Sent<'a>>,
    /// The receipt of a send that was answered by a region that was lost.
    pub first_receipt: Option<&'a str>,
    /// It is of a tail, and was sent again by who sends tails.
    pub is_replayed: bool,
    pub inserted_at: LogTime,
    /// When it expires at home, as far as is known.
    expires_at: Option<LogTime>,
    pub priority: u8,
    pub group: Option<u64>,
    /// In the order of T.
    pub grants: Vec<Grant<'a>>,
    pub changes: Vec<Change<'a>>,
    pub deletes: Vec<Removal<'a>>,
    pub refusals: Vec<Refusal<'a>>,
    /// Updates, releases, deletes and transactions of unknown outcome.
    pub unknown: Vec<Act<'a>>,
    pub sightings: Vec<Sighting<'a>>,
    /// Which dead letter it was before it was sent back.
    pub redriven: Option<&'a Redriven>,
    /// The new messages that it became, each with the queue it was in: one at most, if all is well.
    pub became: Vec<Became<'a>>,
    /// What its state was, as far as nothing can have changed it meanwhile.
    pub known: Vec<Known<'a>>,
    pub presence: Vec<Presence<'a>>,
}

impl<'a> Life<'a> {
    /// Calls of unknown outcome that may have removed it.
    pub fn maybe_deleted(&self) -> impl Iterator<Item = &Act<'a>> {
        let removes = |op: &Op| matches!(op.call, Call::Delete { .. } | Call::Transact { .. });
        self.unknown.iter().filter(move |act| removes(act.op))
    }

    /// Every time that it was received or shown: by whom, in which queue, when.
    pub fn shown(&self) -> impl Iterator<Item = Sighting<'a>> {
        let seen = |g: &Grant<'a>| Sighting { op: g.op, queue: g.queue, at: g.at, shown: g.shown };
        self.grants.iter().map(seen).chain(self.sightings.iter().copied())
    }

    /// When it was sent back from this queue.
    pub fn sent_back(&self, queue: &str) -> Option<LogTime> {
        self.became.iter().filter(|new| new.queue == queue).map(|new| new.at).min()
    }

    /// When it expires in this queue, as far as is known.
    pub fn expires_at(&self, queue: &str) -> Option<LogTime> {
        self.expires_at.filter(|_| queue == self.home)
    }

    /// Finds when it expires at home, as its send was told or as it was shown there first.
    pub fn find_expiry(&mut self) {
        let sent = self.sent.map(|sent| sent.message.expires_at);
        let shown = self.shown().find(|seen| seen.queue == self.home);
        let shown = shown.map(|seen| seen.shown.expires_at);
        self.expires_at = sent.or(shown).flatten();
    }
}

/// What is known of a queue as a whole.
#[derive(Clone, Debug, Default)]
pub struct QueueStory<'a> {
    pub creates: Vec<Act<'a>>,
    pub maybe_creates: Vec<Act<'a>>,
    /// Acknowledged clears, and deletions of a queue that need not come back.
    pub clears: Vec<Act<'a>>,
    pub maybe_clears: Vec<Act<'a>>,
    /// Of the acknowledged ones, those after which nothing came back, in the order of T.
    final_clears: Vec<Act<'a>>,
    /// By when the last of all, certain or not, was over.
    pub last_cleared: Option<LogTime>,
    /// Every deletion.
    pub deletions: Vec<Act<'a>>,
    pub maybe_deletions: Vec<Act<'a>>,
    pub undeletes: Vec<Act<'a>>,
    pub maybe_undeletes: Vec<Act<'a>>,
    /// Acknowledged pauses and resumptions, and unknown ones.
    pub pauses: Vec<Act<'a>>,
    pub maybe_pauses: Vec<Act<'a>>,
    pub unknown_receives: Vec<Act<'a>>,
    /// When a clear, a deletion or a receive of unknown outcome may have acted.
    pub disturbed: Spans,
    /// When a clear or a deletion may have acted.
    pub emptied: Spans,
    /// When a receive of unknown outcome may have acted.
    pub taken_from: Spans,
    /// When a redrive of it may have run.
    pub redriven: Spans,
}

impl<'a> QueueStory<'a> {
    /// The acknowledged clears that emptied the queue for good, in the order of T; a deletion is one
    /// if it did not come back.
    pub fn find_final_clears(&mut self) {
        self.clears.sort_by_key(|act| act.when);
        let back = self.undeletes.iter().chain(&self.maybe_undeletes);
        let back: Highest<LogTime, LogTime> =
            back.map(|act| (act.when.after, act.when.by)).collect();
        let is_final = |act: &&Act<'a>| {
            let Call::DeleteQueue { queue } = &act.op.call else { return true };
            let end = act.when.by.saturating_add(plan(queue).undelete_window);
            back.below(&end).is_none_or(|by| by <= act.when.after)
        };
        self.final_clears = self.clears.iter().filter(is_final).copied().collect();
    }

    /// The first acknowledged clear behind this T that emptied the queue for good.
    pub fn cleared_behind(&self, from: LogTime) -> Option<&Act<'a>> {
        let next = self.final_clears.partition_point(|act| act.when.after < from);
        self.final_clears.get(next)
    }
}

/// A message that a client tried to send.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub act: Act<'a>,
    pub queue: &'a str,
    pub new: &'a New,
    /// What was answered, if it was.
    pub answer: Option<&'a SentMessage>,
}

/// A call that replaced settings or metadata, or may have.
#[derive(Clone, Copy, Debug)]
pub struct SetBy<'a> {
    pub act: Act<'a>,
    pub certain: bool,
}

#[derive(Debug)]
pub struct Story<'a> {
    pub history: &'a History,
    pub lives: BTreeMap<&'a str, Life<'a>>,
    pub queues: BTreeMap<&'a str, QueueStory<'a>>,
    /// By tag: what was sent, or may have been.
    pub attempts: BTreeMap<u64, Attempt<'a>>,
    /// Of the messages of groups, by queue and number: behind which T each was the first.
    pub heads: BTreeMap<(&'a str, u64), LogTime>,
    /// Messages whose send is unknown and that nobody saw: their queue, their group, and the T
    /// behind which they may have come.
    pub ghosts: Vec<(&'a str, Option<u64>, LogTime)>,
    /// Replacements of settings and metadata.
    pub sets: Vec<SetBy<'a>>,
    /// Changes of what accounts may hold.
    pub quotas: Vec<SetBy<'a>>,
    pub redrives: Redrives<'a>,
    /// Every message that came to be through a redrive was seen: it is over, and no message was
    /// named by another only.
    pub all_seen: bool,
    /// Of each call: the highest T that was answered to anybody before it began.
    pub floors: Vec<LogTime>,
    /// Of each call: the lowest T that was answered to anybody who began after it was answered.
    pub ceilings: Vec<LogTime>,
}

impl<'a> Story<'a> {
    pub fn of(history: &'a History) -> Story<'a> {
        let mut story = Story {
            history,
            lives: BTreeMap::new(),
            queues: BTreeMap::new(),
            attempts: BTreeMap::new(),
            heads: BTreeMap::new(),
            ghosts: Vec::new(),
            sets: Vec::new(),
            quotas: Vec::new(),
            redrives: Redrives::default(),
            all_seen: history.ending.drained,
            floors: floors(history),
            ceilings: ceilings(history),
        };
        let fences = Fences::of(history);
        for (op, floor) in history.ops.iter().zip(story.floors.clone()) {
            let when = match &op.outcome {
                Outcome::Ok(answer) => when(op, answer, floor),
                Outcome::Unknown(_) => When { after: floor, by: fences.end_of(op.session) },
                Outcome::Failed(_) => continue,
            };
            let act = Act { op, when };
            match &op.outcome {
                Outcome::Ok(answer) => story.acknowledged(act, answer),
                _ => story.unknown(act),
            }
        }
        story.find_replaced();
        story.redrives = Redrives::of(history, &story.floors, |op| fences.end_of(op.session));
        story.find_successors();
        story.find_homes();
        for life in story.lives.values_mut() {
            life.grants.sort_by_key(|grant| grant.at);
            life.changes.sort_by_key(|change| change.when);
            life.deletes.sort_by_key(|delete| delete.when);
        }
        known::fill(&mut story);
        story
    }

    fn life(&mut self, id: &'a str) -> &mut Life<'a> {
        self.lives.entry(id).or_default()
    }

    fn queue(&mut self, name: &'a str) -> &mut QueueStory<'a> {
        self.queues.entry(name).or_default()
    }

    fn acknowledged(&mut self, act: Act<'a>, answer: &'a Answer) {
        let op = act.op;
        match (answer, &op.call) {
            (Answer::Sent { messages, .. }, call) => {
                self.sent(act, messages);
                let Call::Transact { deletes, .. } = call else { return };
                for (_, (id, used)) in deletes {
                    self.life(id).deletes.push(Removal { op, when: act.when, used });
                }
            }
            (Answer::Received { messages, .. }, Call::Receive { queue, visibility, .. }) => {
                for shown in messages {
                    let at = shown.visible_at.saturating_sub(*visibility);
                    self.life(&shown.id).grants.push(Grant { op, queue, at, shown });
                }
            }
            (
                Answer::Updated { receipt, visible_at, .. },
                Call::Update { queue, id, receipt: used, .. },
            ) => {
                let (when, visible_at, gave) = (act.when, *visible_at, Some(&**receipt));
                let change = Change { queue, when, visible_at, used, gave };
                self.life(id).changes.push(change);
            }
            (Answer::Deleted { outcomes, .. }, Call::Delete { queue, items }) => {
                for ((id, used), outcome) in items.iter().zip(outcomes) {
                    let not_found = *outcome == Deleted::NotFound;
                    match outcome {
                        Deleted::Done => {
                            self.life(id).deletes.push(Removal { op, when: act.when, used });
                        }
                        _ => self.refused(act, queue, (id, used), not_found),
                    }
                }
            }
            (Answer::Released { outcomes, .. }, Call::Release { queue, items, .. }) => {
                for ((id, used), outcome) in items.iter().zip(outcomes) {
                    let not_found = *outcome == Released::NotFound;
                    match outcome {
                        Released::At(at) => {
                            let (when, visible_at) = (act.when, *at);
                            let change = Change { queue, when, visible_at, used, gave: None };
                            self.life(id).changes.push(change);
                        }
                        _ => self.refused(act, queue, (id, used), not_found),
                    }
                }
            }
            (Answer::Seen { at, messages }, call) => {
                let Some(queue) = call.queue() else { return };
                for shown in messages {
                    self.life(&shown.id).sightings.push(Sighting { op, queue, at: *at, shown });
                }
            }
            _ => self.of_queue(act, true),
        }
    }

    fn sent(&mut self, act: Act<'a>, messages: &'a [SentMessage]) {
        let op = act.op;
        for ((queue, new), message) in op.call.sends().zip(messages) {
            let when = if message.duplicate { act.when } else { When::exact(message.inserted_at) };
            let act = Act { op, when };
            let attempt = Attempt { act, queue, new, answer: Some(message) };
            self.attempts.insert(new.tag, attempt);
            if !message.duplicate {
                let life = self.life(&message.id);
                (life.home, life.new) = (queue, Some(new));
                life.sent = Some(Sent { op, message });
                life.inserted_at = message.inserted_at;
            }
        }
    }

    fn refused(&mut self, act: Act<'a>, queue: &'a str, item: (&'a str, &'a str), gone: bool) {
        // Only what happened at one T says something of the state.
        if act.when == When::exact(act.when.by) {
            let (at, used) = (act.when.by, item.1);
            let refusal = Refusal { queue, at, used, not_found: gone };
            self.life(item.0).refusals.push(refusal);
        }
    }

    fn unknown(&mut self, act: Act<'a>) {
        match &act.op.call {
            Call::Update { id, .. } => self.life(id).unknown.push(act),
            Call::Delete { items, .. } | Call::Release { items, .. } => {
                items.iter().for_each(|(id, _)| self.life(id).unknown.push(act));
            }
            Call::Transact { deletes, .. } => {
                deletes.iter().for_each(|(_, (id, _))| self.life(id).unknown.push(act));
            }
            _ => {}
        }
        for (queue, new) in act.op.call.sends() {
            self.attempts.insert(new.tag, Attempt { act, queue, new, answer: None });
        }
        self.of_queue(act, false);
    }

    fn of_queue(&mut self, act: Act<'a>, certain: bool) {
        if matches!(act.op.call, Call::SetQuota { .. }) {
            self.quotas.push(SetBy { act, certain });
        }
        let Some(name) = act.op.call.queue() else { return };
        if matches!(act.op.call, Call::SetMetadata { .. } | Call::SetSettings { .. }) {
            self.sets.push(SetBy { act, certain });
        }
        let queue = self.queue(name);
        if matches!(act.op.call, Call::DeleteQueue { .. }) {
            let list = if certain { &mut queue.deletions } else { &mut queue.maybe_deletions };
            list.push(act);
            if plan(name).comes_back {
                return;
            }
        }
        let list = match (&act.op.call, certain) {
            (Call::Undelete { .. }, true) => &mut queue.undeletes,
            (Call::Undelete { .. }, false) => &mut queue.maybe_undeletes,
            (Call::Create { .. }, true) => &mut queue.creates,
            (Call::Create { .. }, false) => &mut queue.maybe_creates,
            (Call::Clear { .. } | Call::DeleteQueue { .. }, true) => &mut queue.clears,
            (Call::Clear { .. } | Call::DeleteQueue { .. }, false) => &mut queue.maybe_clears,
            (Call::Pause { .. }, true) => &mut queue.pauses,
            (Call::Pause { .. }, false) => &mut queue.maybe_pauses,
            (Call::Receive { .. }, false) => &mut queue.unknown_receives,
            _ => return,
        };
        list.push(act);
    }

    /// Deletions behind which a queue of the same name may have been created: what a later
    /// undelete brings back may be that one, and what was deleted first may be gone for good. A
    /// client that creates the queues it is to use may come to that when others are at work.
    fn find_replaced(&mut self) {
        for queue in self.queues.values_mut() {
            let creates = queue.creates.iter().chain(&queue.maybe_creates);
            let Some(last) = creates.map(|create| create.when.by).max() else { continue };
            let gone = queue.deletions.iter().chain(&queue.maybe_deletions).copied();
            let replaced = gone.filter(|gone| gone.when.after < last && comes_back(gone));
            queue.maybe_clears.extend(replaced);
        }
    }

    /// What each dead letter became.
    fn find_successors(&mut self) {
        let mut all: Vec<(&'a str, Became<'a>)> = Vec::new();
        for (id, life) in &mut self.lives {
            let first = life.shown().min_by_key(|seen| seen.op.returned);
            let Some(first) = first else { continue };
            let Some(was) = &first.shown.redriven else { continue };
            life.redriven = Some(was);
            let (queue, at, op) = (&*was.queue, first.shown.inserted_at, first.op);
            all.push((&was.id, Became { id, queue, at, op }));
        }
        for (id, became) in all {
            self.life(id).became.push(became);
        }
        let unseen = |life: &Life<'_>| life.sent.is_none() && life.shown().next().is_none();
        let mut named = self.lives.values().filter(|life| !life.became.is_empty());
        self.all_seen &= !named.any(unseen);
    }

    /// The message that was sent by a client, of which this one is what redrives made.
    pub fn root<'s>(&'s self, id: &'s str) -> &'s str {
        let mut root = id;
        // A circle would be a promise broken, and is told of elsewhere.
        for _ in 0..1_000 {
            let Some(was) = self.lives.get(root).and_then(|life| life.redriven) else { break };
            root = &was.id;
        }
        root
    }

    /// Of messages whose send is unknown: where they were sent to, and when.
    fn find_homes(&mut self) {
        for (id, life) in &mut self.lives {
            if life.sent.is_none() {
                life.first_receipt = self.history.first_receipts.get(*id).map(String::as_str);
                let shown: Vec<Sighting<'_>> = life.shown().collect();
                let attempts = shown.iter().filter_map(|seen| self.attempts.get(&seen.shown.tag?));
                let mut attempts = attempts.filter(|_| life.redriven.is_none());
                if let Some(attempt) = attempts.next() {
                    (life.home, life.new) = (attempt.queue, Some(attempt.new));
                    life.is_replayed = attempt.act.op.client == TAIL;
                }
                if let Some(seen) = shown.first() {
                    life.inserted_at = seen.shown.inserted_at;
                    (life.priority, life.group) = (seen.shown.priority, seen.shown.group);
                    if life.redriven.is_some() {
                        life.home = home_of_redriven(&shown);
                    } else if life.new.is_none() && seen.shown.dead.is_none() {
                        life.home = seen.queue;
                    }
                }
            }
            if let Some(new) = life.new {
                (life.priority, life.group) = (new.priority, new.group);
            }
            let number = MessageId::parse(id).map(|id| id.number.0);
            life.number = number.unwrap_or(life.inserted_at);
        }
    }

    /// Whether a clear or a deletion of its home may have removed a message.
    pub fn maybe_cleared(&self, life: &Life<'_>) -> bool {
        let last = self.queues.get(life.home).and_then(|queue| queue.last_cleared);
        last.is_some_and(|by| by >= life.inserted_at)
    }
}

/// Whether what a deletion took is brought back by whoever took it.
fn comes_back(deletion: &Act<'_>) -> bool {
    deletion.op.call.queue().is_some_and(|name| plan(name).comes_back)
}

/// Where a message that was sent back came to; empty where that is not known: where it was not
/// seen before it had died twice.
fn home_of_redriven<'a>(shown: &[Sighting<'a>]) -> &'a str {
    if let Some(alive) = shown.iter().find(|seen| seen.shown.dead.is_none()) {
        return alive.queue;
    }
    let died = shown.iter().filter_map(|seen| seen.shown.dead.as_ref()).min_by_key(|dead| dead.at);
    let source = died.map_or("", |dead| &*dead.source);
    if crate::queues::takes_dead_letters(source) { "" } else { source }
}
