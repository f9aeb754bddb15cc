//! Of the messages of one group only the first is given out, in the order of sending: the next
//! one only when the first has left the queue.

use std::collections::BTreeMap;

use crate::history::LogTime;
use crate::story::Story;

/// A message of a group while it stands in one queue.
struct Member<'a> {
    id: &'a str,
    /// When it came, and its number; of a dead letter that says nothing of what came at one T.
    from: LogTime,
    number: Option<u64>,
    through: LogTime,
    grants: Vec<LogTime>,
}

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut groups: BTreeMap<(&str, u64), Vec<Member<'_>>> = BTreeMap::new();
    for (id, life) in &story.lives {
        let Some(group) = life.group else { continue };
        for stay in &life.presence {
            let grants = life.grants.iter().filter(|grant| grant.queue == stay.queue);
            let member = Member {
                id,
                from: stay.from,
                number: (stay.queue == life.home).then_some(life.number),
                through: stay.through,
                grants: grants.map(|grant| grant.at).collect(),
            };
            groups.entry((stay.queue, group)).or_default().push(member);
        }
    }
    out_of_order(groups)
}

fn out_of_order(groups: BTreeMap<(&str, u64), Vec<Member<'_>>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((queue, group), mut members) in groups {
        members.sort_by_key(|member| (member.from, member.number));
        // Of those before: who stays longest.
        let mut stays: Option<(LogTime, &str)> = None;
        for together in members.chunk_by(|a, b| a.from == b.from) {
            // Of those that came at this T, in the order of their numbers.
            let mut numbered: Option<(LogTime, &str)> = None;
            for member in together {
                let before = if member.number.is_some() { stays.max(numbered) } else { stays };
                numbered = numbered.max(member.number.map(|_| (member.through, member.id)));
                let Some((through, before)) = before else { continue };
                if let Some(at) = member.grants.iter().find(|at| **at <= through) {
                    let id = member.id;
                    wrong.push(format!(
                        "{id} of group {group} in {queue} was given out at T {at}, and {before} \
                         was before it through T {through}"
                    ));
                }
            }
            let longest = together.iter().map(|member| (member.through, member.id)).max();
            stays = stays.max(longest);
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::New;
    use crate::invariants::sample::{QUEUE, Sample, new, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    /// Two messages of one group, the first of which is leased.
    fn two(second: Option<u64>) -> Sample {
        let mut sample = Sample::default();
        sample.send_new(QUEUE, "m1", 1, New { group: Some(7), ..new(1) });
        sample.send_new(QUEUE, "m2", 2, New { group: second, ..new(2) });
        sample.receive_from(QUEUE, 2, vec![shown("m1", 1, "r5", 9, 1)], 5, 4);
        sample
    }

    fn give_second(sample: &mut Sample, at: u64) {
        sample.receive_from(QUEUE, 2, vec![shown("m2", 2, "r2", at + 9, 1)], at, 9);
    }

    #[test]
    fn the_second_of_a_group_given_out_while_the_first_is_there_is_found() {
        for at in [7, 20] {
            let mut sample = two(Some(7));
            give_second(&mut sample, at);
            assert_eq!(broken(sample), 1, "leased or not, the first is there at T {at}");
        }
    }

    #[test]
    fn another_group_does_not_wait() {
        for group in [Some(8), None] {
            let mut sample = two(group);
            give_second(&mut sample, 7);
            assert_eq!(broken(sample), 0);
        }
    }

    #[test]
    fn the_second_may_be_given_out_when_the_first_is_gone_or_may_be() {
        let mut sample = two(Some(7));
        sample.delete("m1", "r5", 6);
        give_second(&mut sample, 7);
        assert_eq!(broken(sample), 0);

        let mut sample = two(Some(7));
        sample.unknown_delete("m1", "r5", 6);
        give_second(&mut sample, 7);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn of_what_came_at_one_t_only_messages_that_were_sent_there_have_an_order() {
        let member = |id, number| Member { id, from: 5, number, through: 30, grants: vec![9] };
        let found = |first, second| {
            let groups =
                BTreeMap::from([(("q", 7), vec![member("m1", first), member("m2", second)])]);
            out_of_order(groups).len()
        };
        assert_eq!(found(Some(1), Some(2)), 1);
        assert_eq!(found(None, Some(2)), 0, "a dead letter, and one that was sent back");
        assert_eq!(found(None, None), 0);
    }
}
