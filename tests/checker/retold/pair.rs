//! What a broken promise of two regions rests on, told in order and in words: the calls of the
//! messages that it is about, looks at regions, what operators did, tails as they were listed, and
//! replays.
//!
//! Laws: a check names what its sentence rests on and no more; what takes a walk through the history
//! to be found is found only where it is told. The first line of a case is its sentence.

use std::collections::{BTreeMap, BTreeSet};

use zoneq::queue::authority::{RegionEpoch, Role};

use super::{line, seconds, shortened, words};
use crate::history::{
    Act, Answer, Call, Cluster, History, Listed, Micros, Op, Outcome, REGIONS, Replay, Sighted,
    Told, Verb,
};
use crate::lineage::PairStory;

/// One case: its sentence, and what that rests on.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    pub sentence: String,
    ids: BTreeSet<String>,
    facts: Vec<Fact<'a>>,
}

/// Something that happened, or how to find it.
#[derive(Clone, Copy, Debug)]
pub enum Fact<'a> {
    Call(&'a Op),
    Seen(&'a Sighted),
    Told(&'a Told),
    Act(&'a Act),
    Listed(&'a Listed),
    /// The first look at an epoch, and what the operator did before it.
    Began(&'a RegionEpoch),
    /// The first look at who handed over to an epoch.
    Released(&'a RegionEpoch),
    /// The first look at a region that shows that it has a tail.
    Fenced(Cluster),
    /// How far the copy of an epoch was, by then.
    Copied(&'a RegionEpoch, Micros),
    /// Looks and acknowledged writes at a place of a log.
    At(Cluster, u64),
    /// Every replay of the tail of an epoch.
    Replays(&'a RegionEpoch),
}

impl<'a> Case<'a> {
    pub fn new(sentence: String) -> Case<'a> {
        Case { sentence, ids: BTreeSet::new(), facts: Vec::new() }
    }

    /// It is about these messages.
    pub fn about<'i>(mut self, ids: impl IntoIterator<Item = &'i str>) -> Case<'a> {
        self.ids.extend(ids.into_iter().map(str::to_owned));
        self
    }

    pub fn on(mut self, facts: impl IntoIterator<Item = Fact<'a>>) -> Case<'a> {
        self.facts.extend(facts);
        self
    }

    /// The sentence, and in the lines behind it what it rests on.
    pub fn told(&self, pair: &PairStory<'_>) -> String {
        let mut lines = of_messages(pair.history, &self.ids);
        lines.extend(self.facts.iter().flat_map(|fact| found(pair, fact)));
        // By the time at which each began; what is found twice is told once.
        let lines: BTreeSet<Line> = lines.into_iter().collect();
        let lines: Vec<String> = lines.into_iter().map(|(_, words)| words).collect();
        shortened(&self.sentence, &lines, "")
    }
}

/// When it began, and the words.
type Line = (Micros, String);

fn of_messages(history: &History, ids: &BTreeSet<String>) -> Vec<Line> {
    if ids.is_empty() {
        return Vec::new();
    }
    let mut tags: BTreeMap<&str, u64> = BTreeMap::new();
    for op in &history.ops {
        if let Outcome::Ok(Answer::Sent { messages, .. }) = &op.outcome {
            let sent = op.call.sends().zip(messages).filter(|(_, sent)| !sent.duplicate);
            tags.extend(sent.map(|((_, new), sent)| (&*sent.id, new.tag)));
        }
    }
    let told = history.ops.iter().flat_map(|op| {
        let of_op = ids.iter().filter_map(|id| {
            let words = words(op, id, tags.get(&**id).copied())?;
            Some(if ids.len() == 1 { words } else { format!("{words} ({id})") })
        });
        of_op.map(|words| call(op, &words)).collect::<Vec<_>>()
    });
    told.collect()
}

fn call(op: &Op, words: &str) -> Line {
    let by = match op.outcome {
        Outcome::Ok(_) => format!(", answered by {}", name(op.site)),
        _ => String::new(),
    };
    (op.invoked, line(op, &format!("{words}{by}")))
}

/// What a fact is found to be.
fn found(pair: &PairStory<'_>, fact: &Fact<'_>) -> Vec<Line> {
    let history = pair.history;
    let sighted = &history.pair.sighted;
    let looks = |all: Option<&Sighted>| all.map(seen).into_iter().collect();
    match *fact {
        Fact::Call(op) => vec![of_call(op)],
        Fact::Seen(look) => vec![seen(look)],
        Fact::Told(look) => vec![told(look)],
        Fact::Act(it) => vec![act(it)],
        Fact::Listed(it) => vec![listed(it)],
        Fact::Began(epoch) => began(pair, epoch),
        Fact::Released(epoch) => {
            let is = |it: &&Sighted| matches!(&it.authority.role, Role::Released { to, .. } if to == epoch);
            looks(sighted.iter().find(is))
        }
        Fact::Fenced(cluster) => {
            let is = |it: &&Sighted| matches!(it.authority.role, Role::Fenced { .. });
            looks(sighted.iter().filter(is).find(|it| it.cluster == cluster))
        }
        Fact::Copied(epoch, by) => {
            let of = sighted.iter().filter(|it| {
                it.authority.role == Role::Secondary && it.authority.epoch == *epoch && it.at <= by
            });
            looks(of.max_by_key(|it| (it.authority.applied_through.map(|at| at.index), it.at)))
        }
        Fact::At(cluster, index) => {
            let mut all: Vec<Line> =
                looks(sighted.iter().find(|it| it.cluster == cluster && it.index == index));
            let is_there = |op: &&Op| match &op.outcome {
                Outcome::Ok(answer) => {
                    op.site == cluster && answer.mark().is_some_and(|mark| mark.index == index)
                }
                _ => false,
            };
            all.extend(history.ops.iter().filter(is_there).map(of_call));
            all
        }
        Fact::Replays(epoch) => {
            let of = history.pair.replays.iter().filter(|it| it.epoch == *epoch);
            of.map(replay).collect()
        }
    }
}

/// The first look at an epoch, and what an operator asked for last before it that may begin one.
fn began(pair: &PairStory<'_>, epoch: &RegionEpoch) -> Vec<Line> {
    let sighted = &pair.history.pair.sighted;
    let cluster = pair.lineage.line(epoch).and_then(|line| line.cluster);
    let own = sighted.iter().filter(|it| Some(it.cluster) == cluster);
    let Some(first) = own.filter(|it| it.authority.epoch == *epoch).min_by_key(|it| it.at) else {
        return Vec::new();
    };
    let begins = |it: &&Act| {
        let begins = matches!(
            it.verb,
            Verb::FailOver { .. }
                | Verb::Force { .. }
                | Verb::TakeBack { .. }
                | Verb::Resolve { .. }
                | Verb::FailBack { .. }
                | Verb::PromoteCopy
        );
        begins && it.invoked <= first.at
    };
    let asked = pair.history.pair.acts.iter().filter(begins).max_by_key(|it| it.invoked);
    asked.map(act).into_iter().chain([seen(first)]).collect()
}

fn of_call(op: &Op) -> Line {
    let (verb, queue) = (op.call.verb(op.session), op.call.queue().unwrap_or("no one queue"));
    let sent = match &op.outcome {
        Outcome::Ok(Answer::Sent { messages, .. }) => messages.as_slice(),
        _ => &[],
    };
    let ids: Vec<&str> = sent.iter().map(|sent| &*sent.id).collect();
    match (&op.call, ids.as_slice()) {
        (Call::Send { .. }, [id]) => call(op, &format!("sends {id} to {queue}")),
        _ => call(op, &format!("{verb} of {queue}")),
    }
}

fn seen(look: &Sighted) -> Line {
    let Sighted { at, cluster, node, index, log_time, authority, .. } = look;
    let role = authority.role.name();
    let place = match (&authority.role, authority.applied_through) {
        (Role::Secondary, Some(through)) => format!(", has all to {}", through.index),
        (
            Role::Sealed { at }
            | Role::Released { at, .. }
            | Role::Fenced { at, .. }
            | Role::Conflict { at, .. },
            _,
        ) => format!(", since {}", at.index),
        _ if authority.leasing.in_force.is_some() => ", relies on a lease".to_owned(),
        _ => String::new(),
    };
    let replayed = authority.replayed.iter().map(|it| {
        let done = if it.done { "to its end" } else { "not to its end" };
        let (epoch, sent, skipped) = (in_words(&it.epoch), it.sent, it.skipped);
        format!("; took the tail of {epoch}, {sent} sent, {skipped} not, {done}")
    });
    let (when, name, epoch) = (seconds(*at), name(*cluster), in_words(&authority.epoch));
    let replayed: String = replayed.collect();
    let words = format!("{when} s, node {node} of {name}: is {role} in {epoch}{place}{replayed}");
    (*at, format!("{words}, at index {index} and T {log_time}"))
}

fn told(look: &Told) -> Line {
    let shows = match look.last_sync {
        Some(at) => format!("shows the last sync time T {at}"),
        None => "shows no last sync time".to_owned(),
    };
    let (name, epoch) = (name(look.cluster), in_words(&look.epoch));
    (look.invoked, format!("{}, {name}: {shows} of {epoch}", span(look.invoked, look.returned)))
}

fn act(act: &Act) -> Line {
    let (when, name) = (span(act.invoked, act.returned), name(act.cluster));
    (
        act.invoked,
        format!("{when}, the operator of {name}: {}{}", act.verb.name(), no(&act.outcome)),
    )
}

fn listed(listed: &Listed) -> Line {
    let (alive, deleted) = (listed.alive.len(), listed.deleted.len());
    let whole = if listed.is_whole { "whole" } else { "not whole" };
    let (when, name, epoch) = (seconds(listed.at), name(listed.cluster), in_words(&listed.epoch));
    let words = format!("{when} s, {name}: lists its tail of {epoch}, {whole}: {alive} alive");
    (listed.at, format!("{words}, {deleted} deleted, {} queues emptied", listed.removed.len()))
}

fn replay(replay: &Replay) -> Line {
    let (when, name) = (span(replay.invoked, replay.returned), name(replay.cluster));
    let (epoch, sent, skipped) = (in_words(&replay.epoch), replay.sent, replay.skipped.len());
    let words = format!("{when}, the operator of {name}: sends the tail of {epoch} again");
    (replay.invoked, format!("{words}, {sent} sent, {skipped} not{}", no(&replay.outcome)))
}

fn no(outcome: &Result<(), String>) -> String {
    outcome.as_ref().err().map_or_else(String::new, |why| format!("; refused: {why}"))
}

fn span(from: Micros, to: Micros) -> String {
    format!("{} s to {} s", seconds(from), seconds(to))
}

fn name(cluster: Cluster) -> String {
    let region = REGIONS.get(cluster.region).copied().unwrap_or("no region");
    match cluster.generation {
        0 => region.to_owned(),
        times => format!("{region} (begun anew {times} times)"),
    }
}

fn in_words(epoch: &RegionEpoch) -> String {
    format!("epoch {} of {}", epoch.number.0, epoch.region)
}
