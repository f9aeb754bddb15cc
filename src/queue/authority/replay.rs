//! How the primary takes the tail of the one that it deposed: once, and in the order of its
//! numbers.
//!
//! Laws:
//! * A part (after, through] counts only where the part before it ended, and none behind the last.
//!   How far each fenced epoch was replayed is kept for ever, so a replay that is run twice, or
//!   goes on after any node ended, sends nothing twice.
//! * What the primary took, its copy takes: also where that is the region whose tail it was.
//! * What is sent is a message as it was at the tail's end: content, priority, group, dead-letter
//!   note, key, expiry and delay are kept; it has a new number, and nobody holds it.
//! * Not sent is what expired, what belongs to a queue that is gone or was made anew, and what was
//!   sent here already: under its key, or by its client in its session. A session that answers for
//!   a replayed send has that answer from then on.
//! * A message that both sides had goes its way here. What a redrive of the deposed side made of it
//!   is not sent while it is here; where it is not, it may have been sent again here too.
//! * Times are those of the deposed side, whose clock may have been ahead: nothing waits longer from
//!   now on than it had left at the tail's end, and nothing died later than now.
//! * Quotas do not bind: what is in a tail was admitted once.
//!
//! It is a command of data: it moves T and is shipped on as any other.

use super::command::{Actor, RegionReply};
use super::refusal::RegionRefusal;
use super::transition::note;
use super::{RegionEpoch, Role};
use crate::queue::check;
use crate::queue::command::{Content, Settings, StringMap};
use crate::queue::dedup;
use crate::queue::error::Rejection;
use crate::queue::ids::{ContentId, LogTime, MessageId, Number, QueueId, Receipt};
use crate::queue::limits::{self, BATCH, REPLAYED_EPOCHS};
use crate::queue::message::Message;
use crate::queue::note::{Note, Redriven};
use crate::queue::outcome::{Outcome, Reply, Sent};
use crate::queue::rows::RowKey;
use crate::queue::session::Fate;
use crate::queue::state::{State, Step};
use crate::queue::verbs;

/// How far the tail of a fenced epoch was replayed, for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub epoch: RegionEpoch,
    /// Messages with numbers up to here are dealt with.
    pub through: Number,
    pub sent: u64,
    pub skipped: u64,
    /// There was no more.
    pub done: bool,
}

/// A part of the tail of a fenced epoch: its messages with numbers of (after, through].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayTail {
    pub by: Actor,
    /// The fenced one.
    pub epoch: RegionEpoch,
    pub after: Number,
    pub through: Number,
    /// There is no more.
    pub last: bool,
    /// Its lowest number: messages with lower ones were sent before the histories parted. 0 = not
    /// told.
    pub first: Number,
    /// The deposed side's log time at its end. `LogTime(0)` = not told.
    pub ended_at: LogTime,
    /// Those too that expired, that may have been sent again, and those of queues that are gone.
    pub all: bool,
    pub queues: Vec<TailQueue>,
    pub units: Vec<TailUnit>,
}

/// A queue as the deposed side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailQueue {
    pub id: QueueId,
    pub account: String,
    pub name: String,
    /// With the id it tells a queue that both sides have from one that was made anew.
    pub created_at: LogTime,
    /// How it is made where it is gone; `None` = it is not.
    pub make: Option<Box<(StringMap, Settings)>>,
}

/// What one send had in it that is still alive: all of it is sent again, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailUnit {
    /// `None` = it was in no session, or its client has had its answer and the log does not say in
    /// which.
    pub session: Option<TailSession>,
    pub messages: Vec<TailSend>,
}

/// The place of a send in its client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailSession {
    pub client: u128,
    pub sequence: u64,
    pub transacted: bool,
    /// What the deposed side answered; nothing where its client has its answer, from whichever side.
    pub answer: Vec<Sent>,
    /// Whether the same number ran in the new epoch, by its log; `None` = not known.
    pub ran: Option<bool>,
}

/// A message of the tail as it is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailSend {
    /// Its place among [`ReplayTail::queues`].
    pub queue: u32,
    pub id: MessageId,
    pub content: Content,
    pub priority: u8,
    pub expires_at: Option<LogTime>,
    /// `LogTime(0)` = at once.
    pub visible_at: LogTime,
    pub key: Option<u128>,
    pub note: Note,
}

/// What became of one message of a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailOutcome {
    Sent(MessageId),
    Skipped(Skip),
}

/// Why a message of a tail was not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    Expired,
    QueueGone,
    /// There is another queue of that name.
    QueueMadeAnew,
    /// A message was sent here under the same key.
    Duplicate,
    /// Its client sent it again, in the same session.
    SentAgain,
    /// Its client may have sent it again: neither session nor log know any more. Or a redrive may
    /// have: what it was made of is here no more.
    MayBeSentAgain,
    /// A redrive made it of a message that is still here.
    StillHere,
}

impl Skip {
    pub const ALL: [Skip; 7] = [
        Skip::Expired,
        Skip::QueueGone,
        Skip::QueueMadeAnew,
        Skip::Duplicate,
        Skip::SentAgain,
        Skip::MayBeSentAgain,
        Skip::StillHere,
    ];

    /// One word, as reports have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Skip::Expired => "expired",
            Skip::QueueGone => "queue-gone",
            Skip::QueueMadeAnew => "queue-made-anew",
            Skip::Duplicate => "duplicate",
            Skip::SentAgain => "sent-again",
            Skip::MayBeSentAgain => "may-be-sent-again",
            Skip::StillHere => "still-here",
        }
    }
}

impl ReplayTail {
    /// About how many bytes it takes in an entry.
    #[must_use]
    pub fn size(&self) -> usize {
        const MESSAGE: usize = 128;
        let messages = self.units.iter().flat_map(|unit| &unit.messages);
        messages.map(|message| message.content.size() + MESSAGE).sum()
    }
}

impl ReplayTail {
    /// A time of the deposed side, as far from now at most as it was from the tail's end.
    fn as_of(&self, at: LogTime, now: LogTime) -> LogTime {
        match self.ended_at {
            LogTime(0) => at,
            ended_at => at.min(now.after(at.since(ended_at))),
        }
    }
}

/// Checks what does not depend on the state.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn check(asked: &ReplayTail) -> Result<(), Rejection> {
    let refuse = |field: &str, problem: String, allowed: String| {
        Err(Rejection::InvalidArgument { field: field.to_owned(), problem, allowed })
    };
    if asked.by.who.len() > limits::ACTOR {
        return refuse("who", "is too long".to_owned(), format!("0 to {} bytes", limits::ACTOR));
    }
    let messages: usize = asked.units.iter().map(|unit| unit.messages.len()).sum();
    if messages > BATCH || asked.queues.len() > BATCH {
        let allowed = format!("up to {BATCH} messages and queues");
        return refuse("tail", format!("has {messages} messages"), allowed);
    }
    if asked.through < asked.after {
        return refuse("through", "is before its beginning".to_owned(), "numbers in order".into());
    }
    for queue in &asked.queues {
        check::account(&queue.account)?;
        check::queue_name(&queue.name)?;
        if let Some(make) = &queue.make {
            check::metadata(&make.0)?;
            check::settings(&make.1)?;
        }
    }
    let known = |message: &TailSend| (message.queue as usize) < asked.queues.len();
    if !asked.units.iter().flat_map(|unit| &unit.messages).all(known) {
        return refuse("tail", "names no queue".to_owned(), "one of its queues".to_owned());
    }
    Ok(())
}

pub(in crate::queue) fn run(state: &mut State, asked: &ReplayTail, step: &mut Step) -> Outcome {
    let known = before(state, asked, step.shipped)?;
    if let Some(known) = &known
        && (known.done || (known.through >= asked.through && !asked.last))
    {
        let (through, results) = (known.through, Vec::new());
        return Ok(Reply::Region(RegionReply::Replayed { through, results }));
    }
    let is_new = known.as_ref().is_none_or(|known| known.through < asked.through);
    let mut results = Vec::new();
    let mut places: Vec<Option<Place>> = vec![None; asked.queues.len()];
    for unit in asked.units.iter().filter(|_| is_new) {
        results.extend(replay(state, asked, unit, &mut places, step));
    }
    let sent = results.iter().filter(|it| matches!(it, TailOutcome::Sent(_))).count() as u64;
    let through = asked.through;
    count(state, asked, (known, sent, results.len() as u64 - sent), step);
    Ok(Reply::Region(RegionReply::Replayed { through, results }))
}

/// How far that epoch was replayed before, if this part goes on just there.
fn before(
    state: &State,
    asked: &ReplayTail,
    shipped: bool,
) -> Result<Option<Replayed>, RegionRefusal> {
    let Some(authority) = state.authority() else {
        return Err(RegionRefusal::WrongRole {
            role: Role::Standalone.name().to_owned(),
            verb: "take a tail: it was never in a pair".to_owned(),
        });
    };
    // A copy may be of the region whose tail the primary takes.
    let is_own = asked.epoch.region == authority.region && !shipped;
    if asked.epoch.number >= authority.epoch.number || is_own {
        return Err(RegionRefusal::Mismatch { what: "the fenced epoch".to_owned() });
    }
    if crate::mutants::is_chosen("replay-forgotten") {
        return Ok(None);
    }
    let known = authority.replayed.iter().find(|it| it.epoch == asked.epoch).cloned();
    match &known {
        Some(known) if asked.after > known.through => {
            Err(RegionRefusal::ReplayGap { expected: known.through.0 })
        }
        Some(known) if asked.after < known.through && asked.through > known.through => {
            Err(RegionRefusal::ReplayGap { expected: known.through.0 })
        }
        None if authority.replayed.len() >= REPLAYED_EPOCHS => Err(RegionRefusal::Limit {
            what: "the number of tails replayed".to_owned(),
            limit: REPLAYED_EPOCHS as u64,
        }),
        _ => Ok(known),
    }
}

/// Keeps how far it is, and says in the audit when it began and when it ended.
fn count(
    state: &mut State,
    asked: &ReplayTail,
    (known, sent, skipped): (Option<Replayed>, u64, u64),
    step: &mut Step,
) {
    let Some(authority) = &mut state.authority else { return };
    let begins = known.is_none();
    let mut now =
        known.unwrap_or_else(|| Replayed { epoch: asked.epoch.clone(), ..Replayed::default() });
    now.through = asked.through;
    now.sent += sent;
    now.skipped += skipped;
    now.done |= asked.last;
    let said = |verb: &str| {
        let RegionEpoch { number, region } = &asked.epoch;
        let tail = format!("the tail of epoch {} of region {region:?}", number.0);
        format!("{verb} {tail}: {} sent, {} not", now.sent, now.skipped)
    };
    let what = match (asked.last, begins) {
        (true, _) => Some(said("take")),
        (false, true) => Some(said("begin to take")),
        (false, false) => None,
    };
    authority.replayed.retain(|it| it.epoch != asked.epoch);
    authority.replayed.push(now);
    authority.revision = authority.revision.saturating_add(1);
    step.changes.row(RowKey::Authority);
    step.changes.row(RowKey::Counters);
    // The audit is each cluster's own.
    if let (Some(what), false) = (what, step.shipped) {
        note(state, &asked.by, what, &mut step.changes);
    }
}

/// Where messages of a queue of the tail go.
type Place = Result<QueueId, Skip>;

fn place(state: &mut State, all: bool, queue: &TailQueue, step: &mut Step) -> Place {
    let is_it = |row: &crate::queue::rows::QueueRow| {
        row.created_at == queue.created_at && row.account == queue.account && row.kept.is_none()
    };
    if state.catalog.by_id(queue.id).is_some_and(|found| is_it(&found.row)) {
        return Ok(queue.id);
    }
    match (state.catalog.id(&queue.account, &queue.name), &queue.make) {
        (Some(id), _) if all => Ok(id),
        (Some(_), _) => Err(Skip::QueueMadeAnew),
        (None, Some(make)) if all => {
            let settings = (&make.0, &make.1);
            let made = verbs::create_queue(state, &queue.account, &queue.name, settings, step);
            let id = made.ok().and_then(|_| state.catalog.id(&queue.account, &queue.name));
            id.ok_or(Skip::QueueGone)
        }
        (None, _) => Err(Skip::QueueGone),
    }
}

fn replay(
    state: &mut State,
    asked: &ReplayTail,
    unit: &TailUnit,
    places: &mut [Option<Place>],
    step: &mut Step,
) -> Vec<TailOutcome> {
    let fate = unit.session.as_ref().map(|it| state.sessions.fate(it.client, it.sequence));
    let again = match (fate, unit.session.as_ref().and_then(|it| it.ran)) {
        (Some(Fate::Kept), _) | (Some(Fate::Forgotten), Some(true)) => Some(Skip::SentAgain),
        (Some(Fate::Forgotten), None) if !asked.all => Some(Skip::MayBeSentAgain),
        _ => None,
    };
    if let Some(why) = again {
        return vec![TailOutcome::Skipped(why); unit.messages.len()];
    }
    let mut outcomes = Vec::with_capacity(unit.messages.len());
    let mut renamed = Vec::new();
    for message in &unit.messages {
        let at = message.queue as usize;
        let known = places.get(at).copied().flatten();
        let found = known.or_else(|| Some(place(state, asked.all, asked.queues.get(at)?, step)));
        if let (Some(slot), None) = (places.get_mut(at), known) {
            *slot = found;
        }
        let sent = not_shared(state, asked, message, step.now);
        let sent = sent.and_then(|()| found.unwrap_or(Err(Skip::QueueGone)));
        let sent = sent.and_then(|id| send(state, asked, id, message, step));
        outcomes.push(match sent {
            Ok(sent) => {
                renamed.push((message.id, sent));
                TailOutcome::Sent(sent.id)
            }
            Err(why) => TailOutcome::Skipped(why),
        });
    }
    if let (Some(session), Some(Fate::Open)) = (&unit.session, fate)
        && !session.answer.is_empty()
    {
        answer_for(state, session, &renamed, step);
    }
    outcomes
}

/// Refuses what a redrive made of a message that both sides had: that may be here, or may have been
/// sent back here as well.
fn not_shared(
    state: &State,
    asked: &ReplayTail,
    message: &TailSend,
    now: LogTime,
) -> Result<(), Skip> {
    let Some(redriven) = &message.note.redriven else { return Ok(()) };
    let origin = redriven.origin();
    if origin.number >= asked.first {
        return Ok(());
    }
    let Some(queue) = asked.queues.get(message.queue as usize) else { return Ok(()) };
    // What both had is the first of the chain, or a copy of it that was made before they parted.
    let is_here = |name: &str| {
        let Some(queue) = state.catalog.find(&queue.account, name) else { return false };
        [redriven.id, origin].into_iter().any(|id| {
            let found = queue.lineup.find(id.number);
            found.is_some_and(|found| found.id() == id && !found.is_due(now))
        })
    };
    if is_here(&redriven.queue) || is_here(&queue.name) {
        return Err(Skip::StillHere);
    }
    if asked.all { Ok(()) } else { Err(Skip::MayBeSentAgain) }
}

/// Whoever retries the send is answered as the deposed side did, with the ids that the messages
/// have now.
fn answer_for(
    state: &mut State,
    session: &TailSession,
    renamed: &[(MessageId, Sent)],
    step: &mut Step,
) {
    let now = |sent: &Sent| {
        let new = renamed.iter().find(|(before, _)| *before == sent.id && !sent.duplicate);
        new.map_or(*sent, |(_, new)| *new)
    };
    let answer = session.answer.iter().map(now).collect();
    let reply = if session.transacted { Reply::Transacted(answer) } else { Reply::Sent(answer) };
    state.sessions.answer_for(session.client, session.sequence, &Ok(reply), &mut step.changes);
}

/// The note of a message as it is from now on.
fn note_of_here(given: &Note, number: Number, now: LogTime) -> Note {
    let until_now = |(first, last): (LogTime, LogTime)| (first.min(now), last.min(now));
    let mut note = given.clone();
    note.received = note.received.map(until_now);
    if let Some(dead) = &mut note.dead {
        // Its place is among the messages of here.
        dead.arrived = number;
        dead.at = dead.at.min(now);
        dead.received = dead.received.map(until_now);
    }
    note
}

fn send(
    state: &mut State,
    asked: &ReplayTail,
    id: QueueId,
    given: &TailSend,
    step: &mut Step,
) -> Result<Sent, Skip> {
    let now = step.now;
    let queue = state.catalog.by_id(id).ok_or(Skip::QueueGone)?;
    // A copy has the key of what it was made of: that one's own is no other's.
    let origin = given.note.redriven.as_ref().map(Redriven::origin);
    if let Some(key) = given.key
        && let Some(kept) = queue.keys.find(key, now)
        && origin != Some(kept.id)
    {
        return Err(Skip::Duplicate);
    }
    let is_expired = given.expires_at.is_some_and(|at| at <= now);
    if is_expired && !asked.all {
        return Err(Skip::Expired);
    }
    let number = verbs::draw(&mut state.counters);
    let epoch = state.counters.epoch;
    let queue = state.catalog.by_id_mut(id).ok_or(Skip::QueueGone)?;
    let ttl = queue.row.settings.default_ttl;
    let message = Message {
        number: Number(number),
        epoch,
        priority: given.priority,
        inserted_at: now,
        expires_at: if is_expired { ttl.map(|ttl| now.after(ttl)) } else { given.expires_at },
        visible_at: asked.as_of(given.visible_at, now).max(now),
        dequeue_count: 0,
        receipt: Receipt { epoch, counter: number },
        content: ContentId(number),
        size: u32::try_from(given.content.size()).unwrap_or(u32::MAX),
        last: false,
        released: false,
    };
    let mut note = note_of_here(&given.note, message.number, now);
    note.group = note.group.map(|group| queue.lineup.group_name(&group));
    if note.is_empty() && message.visible_at == now {
        queue.lineup.add_untouched(&message, &mut step.changes);
    } else {
        queue.lineup.set_note(message.number, note);
        queue.lineup.add_touched(message, &mut step.changes);
    }
    if let Some(key) = given.key {
        let until = now.after(queue.row.settings.deduplication_window);
        queue.keys.keep(
            key,
            dedup::Kept { id: message.id(), sent_at: now, until },
            &mut step.changes,
        );
    }
    step.changes.put(message.content, &given.content);
    state.catalog.settle(id);
    Ok(Sent {
        id: message.id(),
        receipt: message.receipt,
        inserted_at: message.inserted_at,
        expires_at: message.expires_at,
        visible_at: message.visible_at,
        duplicate: false,
    })
}
