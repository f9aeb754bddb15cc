//! I3: what is returned was sent, byte-equal: as this message, or in an update of it; and with the
//! priority and the group that it was sent with.

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
            let updated = updated.is_some_and(|(of, at)| of == id && *at <= seen.op.returned);
            if !updated && !is_its_own(story, life, &seen, tag) {
                wrong.push(format!("{id} was returned with body {tag}, which is not its own"));
            }
            if let Some(new) = life.new
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

fn is_its_own(story: &Story<'_>, life: &Life<'_>, seen: &Sighting<'_>, tag: u64) -> bool {
    let Some(attempt) = story.attempts.get(&tag) else { return false };
    attempt.queue == life.home
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
}
