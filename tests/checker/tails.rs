//! What of the tails of deposed primaries came to the history that went on, because somebody sent it
//! again: each message that was alive at a tail's end may have been sent, by nobody's call, under
//! another id.
//!
//! Laws: that a tail was replayed is told from what nodes applied, and not from what operators were
//! answered. A message is known by its body. What a redrive made in the tail has the body of a dead
//! letter that the other region may still have: the copy is told by when it came, gets a body of
//! its own, and is nobody's successor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zoneq::queue::authority::replay::Replayed;
use zoneq::queue::authority::{RegionEpoch, Role};

use crate::highest::Highest;
use crate::history::{
    Alive, Answer, Call, Cluster, History, Listed, LogTime, Micros, NEVER, New, Op, Outcome, Shown,
    Sighted, TAIL,
};
use crate::lineage::Lineage;
use crate::lineage::places::each_once;

/// A body of its own for what a redrive made in a tail.
const COPY: u64 = 1 << 62;

/// A message of a tail.
#[derive(Clone, Debug)]
struct Left {
    queue: String,
    /// As it is sent again, as far as is known; when it expires and is visible is not.
    new: New,
    /// Not before this was it sent again.
    since: Micros,
}

/// What tails had that were sent again.
#[derive(Clone, Debug, Default)]
pub struct Tails {
    /// By body.
    left: BTreeMap<u64, Left>,
    /// Ids that messages had in the tails.
    ids: BTreeSet<String>,
    /// After the first T and not after the second of each, messages were sent again.
    spans: Highest<LogTime, LogTime>,
}

/// How far each tail was replayed, in a state.
pub fn all_replayed(seen: &Sighted) -> BTreeMap<&RegionEpoch, &Replayed> {
    // Of an epoch that is told twice the first counts.
    seen.authority.replayed.iter().rev().map(|it| (&it.epoch, it)).collect()
}

/// States of a cluster, each with the one before it, in the order of its log, where they differ.
pub fn changes(history: &History) -> impl Iterator<Item = (&Sighted, &Sighted)> {
    let mut of: BTreeMap<Cluster, Vec<&Sighted>> = BTreeMap::new();
    for seen in &history.pair.sighted {
        of.entry(seen.cluster).or_default().push(seen);
    }
    let steps = of.into_values().flat_map(|mut seen| {
        seen.sort_by_key(|it| it.index);
        let pairs: Vec<_> = seen.windows(2).map(|two| (two[0], two[1])).collect();
        pairs
    });
    steps.filter(|(before, after)| !Arc::ptr_eq(&before.authority, &after.authority))
}

impl Tails {
    pub fn of(history: &History, lineage: &Lineage) -> Tails {
        let states = each_once(history.pair.sighted.iter());
        let epochs = states.flat_map(|state| &state.replayed).map(|it| &it.epoch);
        let epochs: BTreeSet<&RegionEpoch> = epochs.collect();
        let mut tails = Tails::default();
        if epochs.is_empty() {
            return tails;
        }
        tails.spans = spans(history);
        let known = Known::of(history);
        let not_sent = not_sent(history);
        let left = left_behind(history, lineage);
        let mut listings: BTreeMap<&RegionEpoch, Vec<&Listed>> = BTreeMap::new();
        for listed in &history.pair.listed {
            listings.entry(&listed.epoch).or_default().push(listed);
        }
        for epoch in epochs {
            let line = lineage.line(epoch);
            let next = line.and_then(|line| lineage.after(line));
            let since = next.map_or(0, |next| next.began);
            for (_, queue, new, id) in left.get(epoch).into_iter().flatten() {
                tails.add(queue, as_sent(new), since);
                tails.ids.insert((*id).to_owned());
            }
            for listed in listings.get(epoch).into_iter().flatten() {
                tails.list(listed, (&known, &not_sent), since);
            }
        }
        tails
    }

    /// A body may be in one tail after another, as it is or as a redrive made it.
    fn add(&mut self, queue: &str, new: New, since: Micros) {
        let since = self.left.get(&new.tag).map_or(since, |known| known.since.min(since));
        self.left.insert(new.tag, Left { queue: queue.to_owned(), new, since });
    }

    fn list(
        &mut self,
        listed: &Listed,
        (known, not_sent): (&Known<'_>, &BTreeSet<&str>),
        since: Micros,
    ) {
        for alive in &listed.alive {
            let is_sent = !not_sent.contains(&*alive.id);
            if let Some(new) = known.new_of(alive).filter(|_| is_sent) {
                self.add(&alive.queue, new, since);
            }
            self.ids.insert(alive.id.clone());
        }
        let own = listed.deleted.iter().filter(|gone| !gone.is_shared);
        self.ids.extend(own.map(|gone| gone.id.clone()));
    }

    /// Adds to the history that went on that all this may have been sent.
    pub fn retell(&self, rest: &mut History) {
        if self.left.is_empty() {
            return;
        }
        // A client that came late was answered with ids of the tail for what was gone there.
        for op in &mut rest.ops {
            if let Outcome::Ok(Answer::Sent { messages, .. }) = &op.outcome
                && messages.iter().any(|it| !it.duplicate && self.ids.contains(&it.id))
            {
                op.outcome = Outcome::Unknown("it was answered as in the tail".to_owned());
            }
        }
        let sent: BTreeSet<u64> = acknowledged(rest).collect();
        let is_copy = |tag: u64| sent.contains(&tag);
        let made = all_shown(rest).filter_map(|shown| {
            let tag = shown.tag.filter(|tag| self.was_redriven(shown, *tag))?;
            Some((shown.id.clone(), tag))
        });
        let made: BTreeMap<String, u64> = made.collect();
        let mut copies: BTreeSet<String> = BTreeSet::new();
        for shown in all_shown(rest) {
            let Some(tag) = made.get(&shown.id) else { continue };
            shown.redriven = None;
            if is_copy(*tag) && shown.tag == Some(*tag) {
                shown.tag = Some(tag | COPY);
                copies.insert(shown.id.clone());
            }
        }
        rename_successors(rest, copies);
        let all = self.left.iter().map(|(tag, left)| {
            let tag = if is_copy(*tag) { tag | COPY } else { *tag };
            left.sent_again(tag)
        });
        rest.ops.extend(all.collect::<Vec<_>>());
    }

    /// Whether a redrive of the tail made it.
    fn was_redriven(&self, shown: &Shown, tag: u64) -> bool {
        let at = shown.inserted_at;
        shown.redriven.is_some()
            && self.left.contains_key(&tag)
            && self.spans.below(&at).is_some_and(|by| at <= by)
    }
}

impl Left {
    fn sent_again(&self, tag: u64) -> Op {
        let (queue, messages) = (self.queue.clone(), vec![New { tag, ..self.new.clone() }]);
        Op {
            client: TAIL,
            session: None,
            attempts: 1,
            elsewhere: false,
            invoked: self.since,
            returned: NEVER,
            call: Call::Send { queue, messages },
            outcome: Outcome::Unknown("it may have been sent again".to_owned()),
            site: Cluster::default(),
        }
    }
}

/// Every message that was given out or read.
fn all_shown(rest: &mut History) -> impl Iterator<Item = &mut Shown> {
    rest.ops.iter_mut().flat_map(|op| match &mut op.outcome {
        Outcome::Ok(Answer::Received { messages, .. } | Answer::Seen { messages, .. }) => {
            messages.as_mut_slice()
        }
        _ => &mut [],
    })
}

/// What redrives made of a copy has the copy's body.
fn rename_successors(rest: &mut History, copies: BTreeSet<String>) {
    let mut made: BTreeMap<String, Vec<&mut Shown>> = BTreeMap::new();
    for shown in all_shown(rest) {
        if let Some(was) = shown.redriven.as_ref().map(|was| was.id.clone()) {
            made.entry(was).or_default().push(shown);
        }
    }
    let mut copies: Vec<String> = copies.into_iter().collect();
    while let Some(copy) = copies.pop() {
        // Each is renamed once, so of a copy that is met again there is nothing left.
        for shown in made.remove(&copy).into_iter().flatten() {
            if let Some(tag) = shown.tag.filter(|tag| tag & COPY == 0) {
                shown.tag = Some(tag | COPY);
                copies.push(shown.id.clone());
            }
        }
    }
}

/// What is sent again keeps when it expires and is visible, which is not of the new send.
fn as_sent(new: &New) -> New {
    New { ttl: None, delay: 0, ..new.clone() }
}

/// Bodies of sends that were answered well.
fn acknowledged(rest: &History) -> impl Iterator<Item = u64> {
    rest.ops.iter().flat_map(|op| {
        let answers = match &op.outcome {
            Outcome::Ok(Answer::Sent { messages, .. }) => messages.as_slice(),
            _ => &[],
        };
        let sent = op.call.sends().zip(answers).filter(|(_, answer)| !answer.duplicate);
        sent.map(|((_, new), _)| new.tag).collect::<Vec<_>>()
    })
}

/// A message that was acknowledged and left behind: who sent it, its queue, and its id.
pub type LeftBehind<'a> = (&'a Op, &'a str, &'a New, &'a str);

/// Messages that were acknowledged and left behind, by epoch.
pub fn left_behind<'a, 'l>(
    history: &'a History,
    lineage: &'l Lineage,
) -> BTreeMap<&'l RegionEpoch, Vec<LeftBehind<'a>>> {
    let mut all: BTreeMap<&RegionEpoch, Vec<LeftBehind<'_>>> = BTreeMap::new();
    for op in &history.ops {
        let Outcome::Ok(Answer::Sent { mark, messages }) = &op.outcome else { continue };
        let Some((line, _)) = lineage.place(op.site, mark.index) else { continue };
        if lineage.left_behind(op.site, *mark).is_none() {
            continue;
        }
        let sent = op.call.sends().zip(messages).filter(|(_, answer)| !answer.duplicate);
        let sent = sent.map(|((queue, new), answer)| (op, queue, new, &*answer.id));
        all.entry(&line.epoch).or_default().extend(sent);
    }
    all
}

/// Ids of messages of tails that were told as not sent again.
fn not_sent(history: &History) -> BTreeSet<&str> {
    let told = history.pair.replays.iter().flat_map(|it| &it.skipped);
    told.map(|(id, _)| &**id).collect()
}

/// When tails were replayed: from the state before it to the one behind it.
fn spans(history: &History) -> Highest<LogTime, LogTime> {
    let writes = |seen: &Sighted| !matches!(seen.authority.role, Role::Secondary | Role::Detached);
    let took = |(before, after): &(&Sighted, &Sighted)| {
        let before = all_replayed(before);
        let sent = |now: &Replayed| before.get(&now.epoch).map_or(0, |known| known.sent);
        after.authority.replayed.iter().any(|now| sent(now) < now.sent)
    };
    let all = changes(history).filter(|(before, after)| writes(before) && writes(after));
    all.filter(took).map(|(before, after)| (before.log_time, after.log_time)).collect()
}

/// What messages were sent as.
struct Known<'a> {
    by_id: BTreeMap<&'a str, New>,
    by_tag: BTreeMap<u64, &'a New>,
    /// Of a body that an update gave: whose it is.
    updated: BTreeMap<u64, &'a str>,
}

impl<'a> Known<'a> {
    fn of(history: &'a History) -> Known<'a> {
        let (mut by_id, mut by_tag) = (BTreeMap::new(), BTreeMap::new());
        let mut updated = BTreeMap::new();
        for op in &history.ops {
            if let Call::Update { id, tag: Some(tag), .. } = &op.call {
                updated.insert(*tag, id.as_str());
            }
            by_tag.extend(op.call.sends().map(|(_, new)| (new.tag, new)));
            match &op.outcome {
                Outcome::Ok(Answer::Sent { messages, .. }) => {
                    let sent = op.call.sends().zip(messages).filter(|(_, it)| !it.duplicate);
                    by_id.extend(sent.map(|((_, new), it)| (&*it.id, as_sent(new))));
                }
                Outcome::Ok(Answer::Received { messages, .. } | Answer::Seen { messages, .. }) => {
                    for it in messages {
                        let (priority, group) = (it.priority, it.group);
                        let new = New { priority, group, ..New::default() };
                        by_id.entry(&*it.id).or_insert(new);
                    }
                }
                _ => {}
            }
        }
        Known { by_id, by_tag, updated }
    }

    /// As a message of a tail is sent again; an update may have given it another body, and a redrive
    /// another id after that.
    fn new_of(&self, alive: &Alive) -> Option<New> {
        let tag = alive.tag?;
        let by_id = |id: &str| self.by_id.get(id).cloned();
        let by_tag = || self.by_tag.get(&tag).map(|new| as_sent(new));
        let by_update = || self.updated.get(&tag).and_then(|id| by_id(id));
        let new = by_id(&alive.id).or_else(by_tag).or_else(by_update);
        Some(New { tag, ..new.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use crate::invariants::pair_sample::PairSample;

    /// East had a message alone, and west took it.
    fn sent_again() -> PairSample {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.send("m", 6);
        sample.fenced(7);
        sample.listed(&["m"]);
        sample.replayed(200, 1);
        sample
    }

    fn of_messages(sample: &PairSample) -> Vec<&'static str> {
        let broken = broken(&sample.history);
        broken.into_iter().map(|(name, _)| name).filter(|name| *name != "I10").collect()
    }

    #[test]
    fn what_was_sent_again_may_be_given_out_under_another_id() {
        let mut sample = sent_again();
        sample.given_again("new", 6, 210);
        assert_eq!(of_messages(&sample), Vec::<&str>::new());
    }

    #[test]
    fn what_nobody_sent_again_may_not() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.send("m", 6);
        sample.fenced(7);
        sample.listed(&["m"]);
        sample.given_again("new", 6, 210);
        assert_eq!(of_messages(&sample), ["I3"]);
    }

    #[test]
    fn what_was_sent_again_and_stands_under_two_ids_is_found() {
        let mut sample = sent_again();
        sample.given_again("new", 6, 210);
        sample.given_again("newer", 6, 220);
        assert_eq!(of_messages(&sample), ["I8", "G6"]);
    }

    #[test]
    fn what_a_second_tail_has_too_may_have_been_sent_again_since_the_first() {
        let (mut tails, new) = (Tails::default(), New { tag: 6, ..New::default() });
        tails.add("gamma", new.clone(), 100);
        tails.add("gamma", new, 300);
        assert_eq!(tails.left[&6].since, 100);
    }

    #[test]
    fn what_was_told_as_not_sent_again_is_not_taken_for_sent() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.fenced(7);
        sample.listed(&["made", "other"]);
        let tags = sample.history.pair.listed[0].alive.iter().filter_map(|it| it.tag);
        let tags: Vec<u64> = tags.collect();
        sample.replayed(200, 1);
        sample.replay_told(&["made"]);
        let tails = Tails::of(&sample.history, &Lineage::of(&sample.history));
        assert_eq!(tails.left.keys().copied().collect::<Vec<_>>(), tags[1..]);
    }

    #[test]
    fn what_was_updated_and_redriven_in_the_tail_is_sent_again_as_it_was_sent_first() {
        let mut sample = PairSample::protected();
        sample.send("dead", 4);
        sample.updated("dead", 90);
        let made = PairSample::alive("made", 90);
        let known = Known::of(&sample.history);
        let sent = known.by_id["dead"].clone();
        assert_ne!(sent, New::default());
        assert_eq!(known.new_of(&made), Some(New { tag: 90, ..sent }));
    }

    #[test]
    fn what_a_redrive_made_in_the_tail_is_no_second_one_of_the_dead_letter() {
        let dead = |in_span: bool| {
            let mut sample = PairSample::protected();
            sample.send("dead", 4);
            sample.promoted(5);
            sample.fenced(7);
            sample.listed(&["made"]);
            if let Some(alive) = sample.history.pair.listed[0].alive.first_mut() {
                alive.tag = Some(4);
            }
            sample.replayed(200, 1);
            sample.given_redriven("new", "dead", 4, if in_span { 200 } else { 210 });
            let rest = crate::surviving::of(&sample.history).expect("two regions");
            let shown = rest.ops.iter().find_map(|op| match &op.outcome {
                Outcome::Ok(Answer::Received { messages, .. }) => messages.first().cloned(),
                _ => None,
            });
            shown.expect("given out")
        };
        assert_eq!((dead(true).tag, dead(true).redriven), (Some(4 | COPY), None));
        assert_eq!(dead(false).tag, Some(4));
        assert!(dead(false).redriven.is_some(), "it was sent back where it was given out");
    }
}
