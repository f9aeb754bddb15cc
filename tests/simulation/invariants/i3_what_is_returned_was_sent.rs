//! I3: what is returned was sent, byte-equal: as this message, or in an update of it. One body
//! never stands under two ids, whether its send was acknowledged or not.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Call, Micros, Op, Outcome, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let attempts = Attempts::of(story);
    let mut wrong = Vec::new();
    let mut id_of_tag: BTreeMap<u64, &str> = BTreeMap::new();
    for (id, life) in &story.lives {
        if let Some(tag) = life.sent_tag {
            twice(&mut id_of_tag, tag, id, &mut wrong);
        }
        for (op, shown) in life.shown() {
            let Some(tag) = shown.tag else {
                wrong.push(format!("{id} was returned with bytes that nobody sent"));
                continue;
            };
            let updated =
                attempts.updates.get(&tag).is_some_and(|(of, at)| of == id && *at <= op.returned);
            if updated {
                continue;
            }
            if let Some(at) = attempts.sends.get(&tag).filter(|(queue, _)| *queue == life.queue)
                && at.1 <= op.returned
                && life.sent_tag.is_none_or(|sent| sent == tag)
            {
                twice(&mut id_of_tag, tag, id, &mut wrong);
            } else {
                wrong.push(format!("{id} was returned with body {tag}, which is not its own"));
            }
        }
    }
    wrong
}

/// What clients tried to store, whatever came of it.
#[derive(Default)]
struct Attempts<'a> {
    sends: BTreeMap<u64, (&'a str, Micros)>,
    updates: BTreeMap<u64, (&'a str, Micros)>,
}

impl<'a> Attempts<'a> {
    fn of(story: &Story<'a>) -> Attempts<'a> {
        let mut attempts = Attempts::default();
        let tried = |op: &&&Op| !matches!(op.outcome, Outcome::Failed(_));
        for op in story.history.ops.iter().collect::<Vec<_>>().iter().filter(tried) {
            match &op.call {
                Call::Send { queue, tags, .. } => {
                    attempts.sends.extend(tags.iter().map(|tag| (*tag, (&**queue, op.invoked))));
                }
                Call::Update { id, tag: Some(tag), .. } => {
                    attempts.updates.insert(*tag, (id, op.invoked));
                }
                _ => {}
            }
        }
        attempts
    }
}

fn twice<'a>(
    id_of_tag: &mut BTreeMap<u64, &'a str>,
    tag: u64,
    id: &'a str,
    wrong: &mut Vec<String>,
) {
    let first = *id_of_tag.entry(tag).or_insert(id);
    let told: BTreeSet<&str> = BTreeSet::from([first, id]);
    if told.len() > 1 {
        wrong.push(format!("body {tag} was sent once and stands under {first} and {id}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_send_of_unknown_outcome_that_appears_twice_is_found() {
        let mut sample = Sample::default();
        sample.send("x", 1).outcome = Outcome::Unknown("lost".to_owned());
        sample.receive("m", 2, 5, 1);
        sample.receive("twin", 3, 5, 1);
        assert_eq!(broken(sample), 1);
    }
}
