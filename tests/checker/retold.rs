//! The calls that a broken promise is about, told in order and in words: those of the messages that
//! its sentence names, or those next to a call whose session it names. What a promise of two regions
//! rests on, `pair` tells.
//!
//! Laws: few lines; where there are more calls the first and the last are told, and how many there
//! are in between.

pub mod pair;

use std::collections::BTreeSet;

use crate::history::{
    Answer, Call, Deleted, Item, Micros, NEVER, Op, Outcome, Released, Session, Shown,
};
use crate::story::Story;

/// Lines of one case, half of them of its beginning.
const LINES: usize = 16;
/// Calls of a session before and behind the one that is named.
const NEIGHBOURS: u64 = 2;

/// The sentence, and in the lines behind it the calls that it is about.
pub fn with_calls(story: &Story<'_>, case: &str) -> String {
    let lines = match messages(story, case) {
        ids if ids.is_empty() => of_session(story, case),
        ids => of_messages(story, &ids),
    };
    shortened(case, &lines, "calls ")
}

/// The sentence and the lines; of many the first and the last.
fn shortened(case: &str, lines: &[String], what: &str) -> String {
    let mut text = case.to_owned();
    let left_out = lines.len().saturating_sub(LINES);
    for (at, line) in lines.iter().enumerate() {
        if left_out > 0 && at == LINES / 2 {
            text.push_str(&format!("\n      … {left_out} more {what}…"));
        }
        if at < LINES / 2 || at >= LINES / 2 + left_out {
            text.push_str(&format!("\n      {line}"));
        }
    }
    text
}

/// The messages that a sentence names.
fn messages<'a>(story: &Story<'a>, case: &str) -> BTreeSet<&'a str> {
    let words = case.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '-');
    let known = words.filter_map(|word| story.lives.get_key_value(word));
    known.map(|(id, _)| *id).collect()
}

fn of_messages(story: &Story<'_>, ids: &BTreeSet<&str>) -> Vec<String> {
    let one = ids.len() == 1;
    let told = story.history.ops.iter().flat_map(|op| {
        let of_op = ids.iter().filter_map(move |id| {
            let tag = story.lives.get(id).and_then(|life| life.new).map(|new| new.tag);
            let words = words(op, id, tag)?;
            Some(if one { line(op, &words) } else { line(op, &format!("{words} ({id})")) })
        });
        of_op.collect::<Vec<_>>()
    });
    told.collect()
}

fn of_session(story: &Story<'_>, case: &str) -> Vec<String> {
    if !case.contains("Session {") {
        return Vec::new();
    }
    let all = story.history.ops.iter().filter_map(|op| Some((op, op.session?)));
    let named = all.clone().find(|(_, session)| case.contains(&format!("{session:?}")));
    let Some((_, named)) = named else { return Vec::new() };
    let near = all.filter(|(_, session)| {
        session.client == named.client && session.sequence.abs_diff(named.sequence) <= NEIGHBOURS
    });
    let words = |(op, session): (&Op, Session)| {
        let (verb, queue) = (op.call.verb(op.session), op.call.queue().unwrap_or("no one queue"));
        line(op, &format!("{verb} of {queue}, sequence {} of the session", session.sequence))
    };
    near.map(words).collect()
}

fn seconds(at: Micros) -> String {
    format!("{}.{:06}", at / 1_000_000, at % 1_000_000)
}

/// Who called, when, what, and what was answered as a whole.
fn line(op: &Op, what: &str) -> String {
    let until = match op.returned {
        NEVER => "never answered".to_owned(),
        at => format!("to {} s", seconds(at)),
    };
    let outcome = match &op.outcome {
        Outcome::Ok(answer) => match answer.mark().map(|mark| mark.at).or(answer.read_at()) {
            Some(at) => format!(", at T {at}"),
            None => String::new(),
        },
        Outcome::Failed(why) => format!("; refused: {why}"),
        Outcome::Unknown(why) => format!("; nobody knows what became of it: {why}"),
    };
    let from = seconds(op.invoked);
    format!("{from} s {until}, client {}: {what}{outcome}", op.client)
}

/// What a call was to one message; nothing if it was not about it.
fn words(op: &Op, id: &str, tag: Option<u64>) -> Option<String> {
    let answer = match &op.outcome {
        Outcome::Ok(answer) => Some(answer),
        _ => None,
    };
    match (&op.call, answer) {
        (Call::Send { queue, .. }, answer) if sends(&op.call, answer, id, tag) => {
            Some(format!("sends it to {queue}"))
        }
        (Call::Transact { deletes, .. }, answer) => {
            let used = deletes.iter().find(|(_, item)| item.0 == id);
            match used {
                Some((queue, (_, receipt))) => {
                    Some(format!("deletes it from {queue} with {receipt}, in a transaction"))
                }
                None if sends(&op.call, answer, id, tag) => {
                    Some("sends it, in a transaction".to_owned())
                }
                None => None,
            }
        }
        (Call::Receive { queue, .. }, Some(Answer::Received { messages, .. })) => {
            let Shown { receipt, visible_at, dequeue_count, .. } = shown(messages, id)?;
            Some(format!(
                "receives it from {queue}, time {dequeue_count}, until T {visible_at}, with {receipt}"
            ))
        }
        (Call::Update { queue, id: of, receipt, .. }, answer) if of == id => Some(match answer {
            Some(Answer::Updated { receipt: gave, visible_at, .. }) => format!(
                "updates it in {queue} with {receipt}, until T {visible_at}, and has {gave}"
            ),
            _ => format!("updates it in {queue} with {receipt}"),
        }),
        (Call::Delete { queue, items }, answer) => {
            let (at, receipt) = used(items, id)?;
            let told = match answer {
                Some(Answer::Deleted { outcomes, .. }) => outcomes.get(at),
                _ => None,
            };
            Some(match told {
                None | Some(Deleted::Done) => format!("deletes it from {queue} with {receipt}"),
                Some(no) => format!("cannot delete it from {queue} with {receipt}: {no:?}"),
            })
        }
        (Call::Release { queue, items, .. }, answer) => {
            let (at, receipt) = used(items, id)?;
            let told = match answer {
                Some(Answer::Released { outcomes, .. }) => outcomes.get(at),
                _ => None,
            };
            Some(match told {
                None => format!("releases it to {queue} with {receipt}"),
                Some(Released::At(until)) => {
                    format!("releases it to {queue} with {receipt}, until T {until}")
                }
                Some(no) => format!("cannot release it to {queue} with {receipt}: {no:?}"),
            })
        }
        (call, Some(Answer::Seen { messages, .. })) => {
            let Shown { standing, dequeue_count, .. } = shown(messages, id)?;
            let queue = call.queue().unwrap_or_default();
            let stale = if call.is_stale() { ", maybe late" } else { "" };
            Some(format!("sees it in {queue}, {standing:?}, given {dequeue_count} times{stale}"))
        }
        (Call::Get { queue, id: of, .. }, _) if of == id => {
            Some(format!("looks for it in {queue}"))
        }
        _ => None,
    }
}

/// Whether a call sent it: by its id where that was answered, and else by its body.
fn sends(call: &Call, answer: Option<&Answer>, id: &str, tag: Option<u64>) -> bool {
    match answer {
        Some(Answer::Sent { messages, .. }) => messages.iter().any(|sent| sent.id == id),
        _ => call.sends().any(|(_, new)| Some(new.tag) == tag),
    }
}

fn shown<'a>(messages: &'a [Shown], id: &str) -> Option<&'a Shown> {
    messages.iter().find(|shown| shown.id == id)
}

fn used<'a>(items: &'a [Item], id: &str) -> Option<(usize, &'a str)> {
    let at = items.iter().position(|item| item.0 == id)?;
    Some((at, items.get(at)?.1.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::Sample;

    fn told(sample: Sample, case: &str) -> Vec<String> {
        let history = sample.ended();
        let text = with_calls(&Story::of(&history), case);
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_calls_of_the_message_that_is_named_are_told_in_order_and_no_others() {
        let mut sample = Sample::default();
        sample.send("m-1", 1);
        sample.send("m-2", 2);
        sample.receive("m-1", 3, 9, 1);
        sample.receive("m-2", 4, 9, 1);
        sample.unknown_delete("m-1", "r3", 5);
        assert_eq!(
            told(sample, "m-1: it is gone"),
            [
                "m-1: it is gone",
                "0.000010 s to 0.000011 s, client 1: sends it to queue, at T 1",
                "0.000030 s to 0.000031 s, client 2: receives it from queue, time 1, until T 9, with \
                 r3, at T 3",
                "0.000050 s to 0.000051 s, client 2: deletes it from queue with r3; nobody knows what \
                 became of it: lost",
            ]
        );
    }

    #[test]
    fn of_many_calls_the_first_and_the_last_are_told() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        (2..40).for_each(|at| sample.get_fails("m", at));
        let lines = told(sample, "m was lost");
        assert_eq!(lines.len(), LINES + 2);
        assert_eq!(lines[1 + LINES / 2], "… 23 more calls …");
        assert!(lines[LINES + 1].starts_with("0.000390 s"), "{lines:?}");
    }

    #[test]
    fn of_a_session_that_is_named_the_calls_around_it_are_told() {
        let mut sample = Sample::default();
        for at in 1..9 {
            sample.send(&format!("m{at}"), at);
            sample.under(7, at, 1);
        }
        let session = sample.history.ops[3].session.expect("it is under one");
        let lines = told(sample, &format!("{session:?} was told that it has ended"));
        let numbers: Vec<&str> =
            lines[1..].iter().filter_map(|line| line.split("sequence ").nth(1)).collect();
        let told = [2, 3, 4, 5, 6].map(|at| format!("{at} of the session, at T {at}"));
        assert_eq!(numbers, told, "{lines:?}");
    }

    #[test]
    fn a_case_about_nothing_in_particular_stays_a_sentence() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        assert_eq!(told(sample, "it does not drain"), ["it does not drain"]);
    }
}
