//! What deposed primaries acknowledged at the first try and left behind, put in order once: so a
//! listing of a tail is held against what it must list, and not against all that was called.
//!
//! Law: of what is kept here of a cluster a listing explains each group or each entry, or is
//! broken by it; so to hold a listing against it takes no longer than the listing is.

use std::collections::{BTreeMap, BTreeSet};

use zoneq::queue::authority::RegionEpoch;

use super::gone::{deleted, emptied};
use crate::history::{Answer, Call, Cluster, LogTime, Micros, Op, Outcome, SentMessage};
use crate::lineage::PairStory;
use crate::queues::plan;

/// Entries by what they are about, all in the order in which they were answered.
#[derive(Debug)]
pub struct Answered<K, T>(Vec<(K, Vec<(Micros, T)>)>);

impl<K, T> Default for Answered<K, T> {
    fn default() -> Answered<K, T> {
        Answered(Vec::new())
    }
}

impl<K: Ord, T> FromIterator<(K, Micros, T)> for Answered<K, T> {
    fn from_iter<I: IntoIterator<Item = (K, Micros, T)>>(all: I) -> Answered<K, T> {
        let mut groups: BTreeMap<K, Vec<(Micros, T)>> = BTreeMap::new();
        for (key, answered, entry) in all {
            groups.entry(key).or_default().push((answered, entry));
        }
        groups.values_mut().for_each(|group| group.sort_by_key(|(answered, _)| *answered));
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, group)| group.first().map(|(answered, _)| *answered));
        Answered(groups)
    }
}

impl<K, T> Answered<K, T> {
    /// What was answered by then, but for what is excused by what it is about.
    pub fn by(&self, then: Micros, is_excused: impl Fn(&K) -> bool) -> impl Iterator<Item = &T> {
        let begun = self.0.iter().take_while(move |(_, group)| {
            group.first().is_some_and(|(answered, _)| *answered <= then)
        });
        let due = begun.filter(move |(about, _)| !is_excused(about));
        due.flat_map(move |(_, group)| {
            let answered = group.iter().take_while(move |(answered, _)| *answered <= then);
            answered.map(|(_, entry)| entry)
        })
    }
}

/// A message that was sent, and its place among all.
#[derive(Clone, Copy, Debug)]
pub struct Lost<'a> {
    pub place: usize,
    pub op: &'a Op,
    pub message: &'a SentMessage,
}

/// A message that was deleted, and its place among all.
#[derive(Clone, Copy, Debug)]
pub struct Deletion<'a> {
    pub place: usize,
    pub op: &'a Op,
    pub queue: &'a str,
    pub id: &'a str,
}

/// What one cluster left behind of one epoch.
#[derive(Debug, Default)]
pub struct Left<'a> {
    /// By queue: what was sent and must be alive at the end, unless the tail says otherwise.
    pub sent: Answered<&'a str, Lost<'a>>,
    /// Of these, what nobody asked to be gone.
    pub kept: Answered<(), Lost<'a>>,
    pub deleted: Answered<(), Deletion<'a>>,
    /// The deletes by their ids.
    pub by_id: BTreeMap<&'a str, Vec<Deletion<'a>>>,
    /// Queues that were cleared, or deleted as a whole.
    pub emptied: Answered<(&'a str, bool), (usize, &'a Op)>,
}

/// What may have made messages go: what anybody asked for, unless it was refused.
struct Gone<'a> {
    ids: BTreeSet<&'a str>,
    queues: BTreeSet<&'a str>,
}

impl<'a> Gone<'a> {
    fn of(pair: &PairStory<'a>) -> Gone<'a> {
        let (mut ids, mut queues) = (BTreeSet::new(), BTreeSet::new());
        let may_act = |op: &&Op| !matches!(op.outcome, Outcome::Failed(_));
        for op in pair.history.ops.iter().filter(may_act) {
            match &op.call {
                Call::Delete { items, .. } => ids.extend(items.iter().map(|(id, _)| &**id)),
                Call::Transact { deletes, .. } => {
                    ids.extend(deletes.iter().map(|(_, (id, _))| &**id));
                }
                _ => queues.extend(emptied(op).map(|(queue, _)| queue)),
            }
        }
        Gone { ids, queues }
    }
}

/// Of each epoch of which a tail was listed, and each cluster: what it left behind.
pub type AllLeft<'a> = BTreeMap<&'a RegionEpoch, BTreeMap<Cluster, Left<'a>>>;

pub fn all<'a>(pair: &'a PairStory<'_>) -> AllLeft<'a> {
    let gone = Gone::of(pair);
    // The latest T that was seen of each cluster.
    let mut ends: BTreeMap<Cluster, LogTime> = BTreeMap::new();
    for seen in &pair.history.pair.sighted {
        let end = ends.entry(seen.cluster).or_default();
        *end = seen.log_time.max(*end);
    }
    let epochs: BTreeSet<&RegionEpoch> =
        pair.history.pair.listed.iter().map(|it| &it.epoch).collect();
    let of = |epoch: &'a RegionEpoch| {
        let mut own: BTreeMap<Cluster, Vec<&Op>> = BTreeMap::new();
        for (op, mark) in pair.writes_of(epoch) {
            if op.attempts == 1 && pair.lineage.left_behind(op.site, mark).is_some() {
                own.entry(op.site).or_default().push(op);
            }
        }
        let left = own.into_iter().map(|(cluster, ops)| {
            let end = ends.get(&cluster).copied().unwrap_or_default();
            (cluster, Left::of(&ops, end, &gone))
        });
        (epoch, left.collect())
    };
    epochs.into_iter().map(of).collect()
}

impl<'a> Left<'a> {
    fn of(ops: &[&'a Op], end: LogTime, gone: &Gone<'_>) -> Left<'a> {
        let sent = ops.iter().flat_map(|op| sent(op, end).map(|(queue, it)| (*op, queue, it)));
        let sent = sent
            .enumerate()
            .map(|(place, (op, queue, message))| (queue, op.returned, Lost { place, op, message }));
        let sent: Vec<(&str, Micros, Lost<'_>)> = sent.collect();
        let is_kept = |queue: &str, lost: &Lost<'_>| {
            !gone.ids.contains(&*lost.message.id) && !gone.queues.contains(queue)
        };
        let kept = sent.iter().filter(|(queue, _, lost)| is_kept(queue, lost));
        let kept = kept.map(|(_, answered, lost)| ((), *answered, *lost)).collect();
        let deletions = ops.iter().flat_map(|op| deleted(op).into_iter().map(|it| (*op, it)));
        let deletions = deletions.enumerate().map(|(place, (op, (queue, id)))| Deletion {
            place,
            op,
            queue,
            id,
        });
        let deletions: Vec<Deletion<'_>> = deletions.collect();
        let mut by_id: BTreeMap<&str, Vec<Deletion<'_>>> = BTreeMap::new();
        deletions.iter().for_each(|it| by_id.entry(it.id).or_default().push(*it));
        let emptied = ops.iter().filter_map(|op| Some((*op, emptied(op)?))).enumerate();
        let emptied = emptied.map(|(place, (op, about))| (about, op.returned, (place, op)));
        Left {
            sent: sent.into_iter().collect(),
            kept,
            deleted: deletions.iter().map(|it| ((), it.op.returned, *it)).collect(),
            by_id,
            emptied: emptied.collect(),
        }
    }
}

/// Messages that a call sent, each with its queue, that must be alive at the end of a tail unless
/// something was done about them: when a dead letter is sent back it has another id.
fn sent(op: &Op, end: LogTime) -> impl Iterator<Item = (&str, &SentMessage)> {
    let messages = match &op.outcome {
        Outcome::Ok(Answer::Sent { messages, .. }) => messages.as_slice(),
        _ => &[],
    };
    // One that is told twice is of the queue that it was sent to first.
    let mut queues: BTreeMap<&str, &str> = BTreeMap::new();
    for ((queue, _), message) in op.call.sends().zip(messages) {
        queues.entry(&message.id).or_insert(queue);
    }
    let new = messages.iter().filter(|message| !message.duplicate);
    new.filter_map(move |message| {
        let queue = *queues.get(&*message.id)?;
        let has_ended = message.expires_at.is_some_and(|at| at <= end)
            || plan(queue).dead_letters.is_some()
            || plan(queue).redriven;
        (!has_ended).then_some((queue, message))
    })
}
