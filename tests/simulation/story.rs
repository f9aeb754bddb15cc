//! The history told message by message and queue by queue, for the checks.
//!
//! A call took effect at one T, or not at all. Of an answer to the first try that T is exact; of
//! one to a later try, and of a call of unknown outcome, only bounds are known: not before what
//! was acknowledged when it began, and not after what its session did next, which ends all that
//! is below. `known.rs` says what follows from that for each message.

use std::collections::BTreeMap;

use zoneq::queue::ids::MessageId;

use crate::history::{
    After, Answer, Call, Deleted, History, LogTime, Micros, New, Op, Outcome, Released,
    SentMessage, Session, Shown,
};
use crate::known::{self, Known, Presence, Spans};

/// When something took effect: after the first T, and not after the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct When {
    pub after: LogTime,
    pub by: LogTime,
}

impl When {
    pub fn exact(at: LogTime) -> When {
        When { after: at.saturating_sub(1), by: at }
    }
}

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
    pub inserted_at: LogTime,
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

    /// When it expires in this queue, as far as is known.
    pub fn expires_at(&self, queue: &str) -> Option<LogTime> {
        if queue != self.home {
            return None;
        }
        let sent = self.sent.map(|sent| sent.message.expires_at);
        let shown = || self.shown().find(|s| s.queue == queue).map(|seen| seen.shown.expires_at);
        sent.or_else(shown).flatten()
    }
}

/// What is known of a queue as a whole.
#[derive(Clone, Debug, Default)]
pub struct QueueStory<'a> {
    pub creates: Vec<Act<'a>>,
    pub maybe_creates: Vec<Act<'a>>,
    /// Acknowledged clears, and deletions of the queue.
    pub clears: Vec<Act<'a>>,
    pub maybe_clears: Vec<Act<'a>>,
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
        let Some(name) = act.op.call.queue() else { return };
        if matches!(act.op.call, Call::SetMetadata { .. } | Call::SetSettings { .. }) {
            self.sets.push(SetBy { act, certain });
        }
        let queue = self.queue(name);
        let list = match (&act.op.call, certain) {
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

    /// Of messages whose send is unknown: where they were sent to, and when.
    fn find_homes(&mut self) {
        for (id, life) in &mut self.lives {
            if life.sent.is_none() {
                let shown: Vec<Sighting<'_>> = life.shown().collect();
                let attempts = shown.iter().filter_map(|seen| self.attempts.get(&seen.shown.tag?));
                if let Some(attempt) = attempts.into_iter().next() {
                    (life.home, life.new) = (attempt.queue, Some(attempt.new));
                }
                if let Some(seen) = shown.first() {
                    life.inserted_at = seen.shown.inserted_at;
                    (life.priority, life.group) = (seen.shown.priority, seen.shown.group);
                    if life.new.is_none() && seen.shown.dead.is_none() {
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
        let Some(queue) = self.queues.get(life.home) else { return false };
        let all = queue.clears.iter().chain(&queue.maybe_clears);
        all.clone().any(|act| act.when.by >= life.inserted_at)
    }
}

/// What an acknowledged call's answer says of its T.
pub fn when(op: &Op, answer: &Answer, floor: LogTime) -> When {
    let mark = answer.mark().map(|mark| mark.at);
    if op.attempts == 1
        && let Some(at) = mark
    {
        return When::exact(at);
    }
    let told = match (answer, &op.call) {
        (Answer::Received { messages, .. }, Call::Receive { visibility, .. }) => {
            messages.first().map(|shown| shown.visible_at.saturating_sub(*visibility))
        }
        (Answer::Updated { visible_at, .. }, Call::Update { visibility: Some(span), .. }) => {
            Some(visible_at.saturating_sub(*span))
        }
        (Answer::Sent { messages, .. }, _) => {
            messages.iter().find(|sent| !sent.duplicate).map(|sent| sent.inserted_at)
        }
        (Answer::Released { outcomes, .. }, Call::Release { after: After::Now, .. }) => {
            outcomes.iter().find_map(|outcome| match outcome {
                Released::At(at) => Some(*at),
                _ => None,
            })
        }
        _ => None,
    };
    told.map_or(When { after: floor, by: mark.unwrap_or(LogTime::MAX) }, When::exact)
}

/// T as it was answered, by the time of the answer, made to grow.
fn answered(history: &History) -> Vec<(Micros, LogTime)> {
    let told = history.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(answer) => {
            let at = answer.mark().map(|mark| mark.at).or(answer.read_at())?;
            Some((op.returned, at))
        }
        _ => None,
    });
    let mut told: Vec<(Micros, LogTime)> = told.collect();
    told.sort_unstable();
    let mut highest = 0;
    for (_, at) in &mut told {
        highest = highest.max(*at);
        *at = highest;
    }
    told
}

fn floors(history: &History) -> Vec<LogTime> {
    let told = answered(history);
    let floor = |op: &Op| {
        let before = told.partition_point(|(returned, _)| *returned <= op.invoked);
        before.checked_sub(1).and_then(|last| told.get(last)).map_or(0, |(_, at)| *at)
    };
    history.ops.iter().map(floor).collect()
}

fn ceilings(history: &History) -> Vec<LogTime> {
    let told = history.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(_) if op.call.is_stale() => None,
        Outcome::Ok(answer) => {
            Some((op.invoked, answer.mark().map(|mark| mark.at).or(answer.read_at())?))
        }
        _ => None,
    });
    let mut told: Vec<(Micros, LogTime)> = told.collect();
    told.sort_unstable();
    let mut lowest = LogTime::MAX;
    for (_, at) in told.iter_mut().rev() {
        lowest = lowest.min(*at);
        *at = lowest;
    }
    let ceiling = |op: &Op| {
        let after = told.partition_point(|(invoked, _)| *invoked < op.returned);
        told.get(after).map_or(LogTime::MAX, |(_, at)| *at)
    };
    history.ops.iter().map(ceiling).collect()
}

/// Where sessions went on, which ended all that was below.
struct Fences(BTreeMap<u64, Vec<(u64, LogTime)>>);

impl Fences {
    fn of(history: &History) -> Fences {
        let mut fences: BTreeMap<u64, Vec<(u64, LogTime)>> = BTreeMap::new();
        for op in &history.ops {
            if let (Some(session), Outcome::Ok(answer)) = (op.session, &op.outcome)
                && let Some(mark) = answer.mark()
            {
                fences.entry(session.client).or_default().push((session.lowest, mark.at));
            }
        }
        for ends in fences.values_mut() {
            ends.sort_unstable();
        }
        Fences(fences)
    }

    /// The last T at which a call under this session can have taken effect.
    fn end_of(&self, session: Option<Session>) -> LogTime {
        let end = session.and_then(|session| {
            let ends = self.0.get(&session.client)?;
            let next = ends.partition_point(|(lowest, _)| *lowest <= session.sequence);
            ends.get(next).map(|(_, at)| *at)
        });
        end.unwrap_or(LogTime::MAX)
    }
}
