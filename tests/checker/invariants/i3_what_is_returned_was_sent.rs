//! I3: what is returned was sent, byte-equal: as this message, or in an update of it; and with the
//! priority and the group that it was sent with. A message that a redrive sent back has what the
//! dead letter had that it names.

use std::collections::BTreeMap;

use crate::history::{Call, Micros, Outcome};
use crate::story::{Life, Sighting, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let updates = updates(story);
    let mut wrong = Vec::new();
    for (id, life) in &story.lives {
        for seen in life.shown() {
            let Some(tag) = seen.shown.tag else {
                wrong.push(format!("{id} was returned with bytes that nobody sent"));
                continue;
            };
            let updated = updates.get(&tag);
            let updated =
                updated.is_some_and(|(of, at)| was(story, id, of) && *at <= seen.op.returned);
            let none = Life::default();
            let root = story.lives.get(story.root(id)).unwrap_or(&none);
            if !updated && !is_its_own(story, root, &seen, tag) {
                wrong.push(format!("{id} was returned with body {tag}, which is not its own"));
            }
            if let Some(new) = root.new
                && (new.priority, new.group) != (seen.shown.priority, seen.shown.group)
            {
                let (priority, group) = (seen.shown.priority, seen.shown.group);
                wrong.push(format!(
                    "{id} was sent as {new:?} and returned with priority {priority} and group \
                     {group:?}"
                ));
            }
        }
    }
    wrong
}

/// Whether a message is, or was before redrives, the one with the other id.
fn was(story: &Story<'_>, id: &str, other: &str) -> bool {
    let before = |id: &&str| story.lives.get(*id)?.redriven.map(|was| &*was.id);
    std::iter::successors(Some(id), before).take(1_000).any(|id| id == other)
}

fn is_its_own(story: &Story<'_>, life: &Life<'_>, seen: &Sighting<'_>, tag: u64) -> bool {
    let Some(attempt) = story.attempts.get(&tag) else { return false };
    (attempt.queue == life.home || life.home.is_empty())
        && attempt.act.op.invoked <= seen.op.returned
        && life.new.is_none_or(|new| new.tag == tag)
}

/// The bodies that updates tried to store, with the id and the beginning of the call.
fn updates<'a>(story: &Story<'a>) -> BTreeMap<u64, (&'a str, Micros)> {
    let tried = story.history.ops.iter().filter(|op| !matches!(op.outcome, Outcome::Failed(_)));
    let updates = tried.filter_map(|op| match &op.call {
        Call::Update { id, tag: Some(tag), .. } => Some((*tag, (&**id, op.invoked))),
        _ => None,
    });
    updates.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Shown;
    use crate::invariants::sample::{Sample, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    #[test]
    fn the_body_that_was_sent_may_be_returned() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 2, 5, 1);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn bytes_that_nobody_sent_are_found() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        let mut message = shown("m", 1, "r2", 5, 1);
        message.tag = None;
        sample.receive_shown(2, message, 2, 3);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn the_body_of_another_message_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.send("other", 2);
        sample.receive_shown(2, shown("m", 2, "r3", 5, 1), 3, 2);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn another_priority_than_it_was_sent_with_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        let message = Shown { priority: 3, ..shown("m", 1, "r2", 5, 1) };
        sample.receive_shown(2, message, 2, 3);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn the_body_of_a_send_that_was_refused_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 1).outcome = Outcome::Failed("FULL".to_owned());
        sample.receive("m", 2, 5, 1);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_message_that_was_sent_back_has_the_body_of_the_dead_letter_that_it_names() {
        let returned = |tag| {
            let mut sample = Sample::default();
            sample.dead_letter("m", 3);
            sample.send_new("gamma", "other", 2, crate::invariants::sample::new(2));
            sample.redrive("gamma-dead", "job", 4);
            let message = Sample::redriven("m", 5, shown("new", tag, "r6", 9, 1));
            sample.receive_from("gamma", 2, vec![message], 6, 3);
            broken(sample)
        };
        assert_eq!((returned(1), returned(2)), (0, 1));
    }
}
