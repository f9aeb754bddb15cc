//! I8: one effect for each sequence of a session, and for each deduplication key in its window; a
//! send of unknown outcome appears 0 or 1 time, and one that was answered as a duplicate never. A
//! dead letter is sent back once, by a redrive that somebody asked for (`redrives`).
//!
//! A session that is used does not end, so none of its calls is told that it has.

mod redrives;

use std::collections::BTreeMap;

use crate::history::{LogTime, New, Outcome};
use crate::queues::plan;
use crate::story::{Attempt, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = two_ids(story);
    wrong.extend(ended(story));
    wrong.extend(keys(story));
    wrong.extend(redrives::check(story));
    wrong
}

/// Bodies that were sent once and stand under two ids, or under one though nothing was sent.
fn two_ids(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
    for (id, life) in &story.lives {
        let sent = life.sent.and(life.new).map(|new| new.tag);
        let shown = life.shown().filter_map(|seen| seen.shown.tag);
        // What an update stored is no send.
        let mut tags: Vec<u64> =
            sent.into_iter().chain(shown).filter(|tag| story.attempts.contains_key(tag)).collect();
        tags.sort_unstable();
        tags.dedup();
        for tag in tags {
            // A redrive gives it another id, and that is told of the message itself.
            let root = story.root(id);
            let first = *ids.entry(tag).or_insert(root);
            if first != root {
                wrong.push(format!("body {tag} was sent once and stands under {first} and {id}"));
            }
            let answer = story.attempts.get(&tag).and_then(|attempt| attempt.answer);
            if let Some(first) = answer.filter(|answer| answer.duplicate) {
                let first = &first.id;
                wrong.push(format!(
                    "body {tag} was answered as a duplicate of {first} and stands under {id}"
                ));
            }
        }
    }
    wrong
}

/// Calls that were told that their session has ended.
fn ended(story: &Story<'_>) -> Vec<String> {
    let told = story.history.ops.iter().filter_map(|op| match (&op.outcome, op.session) {
        (Outcome::Unknown(why), Some(session)) if why.contains("SESSION_ENDED") => {
            let call = &op.call;
            Some(format!("{session:?} is used and was told that it has ended: {call:?}"))
        }
        _ => None,
    });
    told.collect()
}

/// Sends under one key: each inside the window of one before is a duplicate of that one.
fn keys(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_key: BTreeMap<(&str, u64), Vec<Attempt<'_>>> = BTreeMap::new();
    for attempt in story.attempts.values() {
        if let Some(key) = attempt.new.key {
            by_key.entry((attempt.queue, key)).or_default().push(*attempt);
        }
    }
    for ((queue, key), attempts) in by_key {
        let Some(window) = plan(queue).window else { continue };
        let answers = attempts.iter().filter_map(|attempt| attempt.answer);
        let firsts = answers.filter(|it| !it.duplicate).map(|it| it.inserted_at);
        let mut firsts: Vec<LogTime> = firsts.collect();
        firsts.sort_unstable();
        for pair in firsts.windows(2) {
            let [first, second] = pair else { continue };
            if *second < first + window {
                wrong.push(format!(
                    "key {key} of {queue} was sent at T {first} and again at T {second}, inside \
                     its window of {window} us"
                ));
            }
        }
        let told = attempts.iter().filter_map(|attempt| no_duplicate(story, attempt, window));
        wrong.extend(told.map(|words| format!("key {key} of {queue}: {words}")));
    }
    wrong
}

/// What is wrong with an answer that says *duplicate*.
fn no_duplicate(story: &Story<'_>, attempt: &Attempt<'_>, window: u64) -> Option<String> {
    let first = attempt.answer.filter(|answer| answer.duplicate)?;
    let (id, sent) = (&first.id, first.inserted_at);
    let when = attempt.act.when;
    if when.after + 1 >= sent + window || when.by < sent {
        return Some(format!(
            "a send between T {} and {} was answered as a duplicate of {id}, sent at T {sent}",
            when.after, when.by
        ));
    }
    let new: &New = story.lives.get(id.as_str()).and_then(|life| life.new)?;
    (new.key != attempt.new.key)
        .then(|| format!("{id} was answered as its first message, and was sent as {new:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;
    use crate::invariants::sample::{Sample, new};

    const WINDOW: u64 = 4_000_000;

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn keyed(tag: u64) -> New {
        New { key: Some(7), ..new(tag) }
    }

    #[test]
    fn a_send_of_unknown_outcome_that_appears_twice_is_found() {
        let mut sample = Sample::default();
        sample.send("x", 1).outcome = Outcome::Unknown("lost".to_owned());
        sample.receive("m", 2, 5, 1);
        sample.receive("twin", 3, 5, 1);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_send_of_unknown_outcome_may_appear_once() {
        let mut sample = Sample::default();
        sample.send("x", 1).outcome = Outcome::Unknown("lost".to_owned());
        sample.receive("m", 2, 5, 1);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_session_in_use_that_is_told_that_it_has_ended_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 1).outcome = Outcome::Unknown("SESSION_ENDED".to_owned());
        sample.under(1, 5, 1);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_key_counts_for_its_window_and_no_longer() {
        let again = |at| {
            let mut sample = Sample::default();
            sample.send_new("beta", "m", 1, keyed(1));
            sample.send_new("beta", "other", at, keyed(at));
            broken(sample)
        };
        assert_eq!(again(1 + WINDOW), 0);
        assert_eq!(again(WINDOW), 1);
    }

    #[test]
    fn a_duplicate_is_one_of_a_message_in_the_window_with_the_same_key() {
        let duplicate = |at, key| {
            let mut sample = Sample::default();
            sample.send_new("beta", "m", 1, keyed(1));
            sample.send_duplicate("beta", "m", at, New { key: Some(key), ..new(at) });
            let last = sample.history.ops.last_mut().expect("a send");
            if let Outcome::Ok(crate::history::Answer::Sent { messages, .. }) = &mut last.outcome {
                messages.iter_mut().for_each(|message| message.inserted_at = 1);
            }
            broken(sample)
        };
        assert_eq!(duplicate(5, 7), 0);
        assert_eq!(duplicate(2 + WINDOW, 7), 1, "the window has passed");
        assert_eq!(duplicate(5, 8), 1, "another key");
    }

    #[test]
    fn the_body_of_a_duplicate_that_appears_is_found() {
        let mut sample = Sample::default();
        sample.send_new("beta", "m", 1, keyed(1));
        sample.send_duplicate("beta", "m", 3, keyed(3));
        let message = crate::invariants::sample::shown("extra", 3, "r4", 9, 1);
        sample.receive_from("beta", 2, vec![message], 4, 5);
        assert!(broken(sample) > 0);
    }
}
