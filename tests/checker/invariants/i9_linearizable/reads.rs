//! A read shows the state at its T, whether it is linearizable or stale: each message as the last
//! call left it, and counts that add up, with all that was there and nothing that was not. No
//! queue holds more than its quota.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Answer, Call, LogTime, Looked, Outcome, Standing};
use crate::queues::{plan, takes_dead_letters};
use crate::story::{Sighting, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, life) in &story.lives {
        for seen in &life.sightings {
            let last = life.known.partition_point(|known| known.after <= seen.at).checked_sub(1);
            let known = last.and_then(|last| life.known.get(last));
            let Some(known) = known.filter(|known| known.through >= seen.at) else { continue };
            let shown = (seen.queue, seen.shown.visible_at, seen.shown.dequeue_count);
            let was = (known.queue, known.visible_at, known.count);
            if shown != was {
                let at = seen.at;
                wrong.push(format!(
                    "{id}: a read at T {at} shows {shown:?} (queue, visible time, dequeue count), \
                     and it was {was:?}"
                ));
            }
        }
        let told = life.sightings.iter().filter_map(|seen| of_another_standing(seen));
        wrong.extend(told.map(|words| format!("{id} {words}")));
    }
    wrong.extend(counts(story));
    wrong
}

/// What a read says of a standing that its own figures do not bear out.
fn of_another_standing(seen: &Sighting<'_>) -> Option<String> {
    let (shown, waits) = (seen.shown, seen.shown.visible_at > seen.at);
    let fits = match shown.standing? {
        Standing::Visible => !waits,
        Standing::Leased => waits && shown.dequeue_count > 0,
        Standing::Delayed => waits,
        Standing::Blocked => shown.group.is_some(),
        Standing::Dead => shown.dead.is_some() && takes_dead_letters(seen.queue),
    };
    (!fits).then(|| format!("is shown as {:?} at T {}: {shown:?}", shown.standing, seen.at))
}

/// Of one queue, or of all of an account: when messages came and went, without doubt and at most.
#[derive(Clone, Default)]
pub struct Census {
    came: Vec<LogTime>,
    left: Vec<LogTime>,
    may_have_come: Vec<LogTime>,
    may_have_left: Vec<LogTime>,
}

impl Census {
    /// Counts what another holds too.
    pub fn add(&mut self, other: &Census) {
        self.came.extend(&other.came);
        self.left.extend(&other.left);
        self.may_have_come.extend(&other.may_have_come);
        self.may_have_left.extend(&other.may_have_left);
        self.sort();
    }

    fn sort(&mut self) {
        for times in
            [&mut self.came, &mut self.left, &mut self.may_have_come, &mut self.may_have_left]
        {
            times.sort_unstable();
        }
    }

    /// How many were there at most in the states from one T through another.
    pub fn most_within(&self, from: LogTime, through: LogTime) -> usize {
        let came = self.may_have_come.partition_point(|at| *at <= through);
        // Where no order explains the calls, what came last may be told before what came first.
        came.saturating_sub(self.may_have_left.partition_point(|at| *at <= from))
    }

    /// How many were there at least, and at most, in the state at this T.
    pub fn between(&self, at: LogTime) -> (usize, usize) {
        let count = |times: &[LogTime], at| times.partition_point(|time| *time < at);
        let least = count(&self.came, at + 1).saturating_sub(count(&self.left, at));
        let most = count(&self.may_have_come, at + 1);
        (least, most.saturating_sub(count(&self.may_have_left, at)))
    }
}

/// The queues, counted.
pub fn census<'a>(story: &Story<'a>) -> BTreeMap<&'a str, Census> {
    let mut all: BTreeMap<&str, Census> = BTreeMap::new();
    for life in story.lives.values() {
        for stay in &life.presence {
            let census = all.entry(stay.queue).or_default();
            if stay.from <= stay.through {
                census.came.push(stay.from);
                census.left.push(stay.through);
            }
            census.may_have_come.push(stay.from);
            census.may_have_left.push(stay.until);
        }
    }
    // Sends of unknown outcome of which nothing was ever seen.
    for (queue, _, after) in &story.ghosts {
        let census = all.entry(queue).or_default();
        census.may_have_come.push(after + 1);
    }
    all.values_mut().for_each(Census::sort);
    all
}

fn counts(story: &Story<'_>) -> Vec<String> {
    let census = census(story);
    let mut wrong = Vec::new();
    for op in &story.history.ops {
        let (Call::Look { queue, .. }, Outcome::Ok(Answer::Looked { at, queue: looked })) =
            (&op.call, &op.outcome)
        else {
            continue;
        };
        let Looked { visible, leased, delayed, blocked, due, total, .. } = looked;
        if visible + leased + delayed + blocked + due != *total {
            wrong.push(format!("the counts of {queue} at T {at} do not add up: {looked:?}"));
        }
        let (least, most) = census.get(queue.as_str()).map_or((0, 0), |all| all.between(*at));
        // What has died may be in the queue unseen until the drain.
        let most = if takes_dead_letters(queue) { usize::MAX } else { most };
        if (*total as usize) < least || *total as usize > most {
            wrong.push(format!(
                "{queue} counts {total} messages at T {at}, and holds {least} to {most}"
            ));
        }
    }
    // Quotas do not bind what is sent again of a tail.
    let replayed = story.lives.values().filter(|life| life.is_replayed);
    let replayed: BTreeSet<LogTime> = replayed.map(|life| life.inserted_at).collect();
    for (queue, census) in &census {
        let Some(quota) = plan(queue).quota else { continue };
        let most = census.came.iter().filter(|at| !replayed.contains(at));
        let most = most.map(|at| (census.between(*at).0, *at)).max();
        if let Some((held, at)) = most.filter(|(held, _)| *held as u64 > quota) {
            wrong.push(format!("{queue} holds {held} messages at T {at}, and may hold {quota}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Shown;
    use crate::invariants::sample::{QUEUE, Sample, new, shown};

    fn broken(sample: Sample) -> Vec<String> {
        check(&Story::of(&sample.ended()))
    }

    fn leased() -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 4, 9, 1);
        sample
    }

    #[test]
    fn a_read_shows_the_state_at_its_time_even_a_stale_one() {
        let read = |shown, at| {
            let mut sample = leased();
            let op = sample.peek(shown, at, true);
            op.returned += 1_000;
            broken(sample).len()
        };
        assert_eq!(read(shown("m", 1, "", 1, 0), 3), 0, "before the grant");
        assert_eq!(read(shown("m", 1, "", 9, 1), 4), 0, "after it");
        assert_eq!(read(shown("m", 1, "", 1, 0), 4), 1, "T of after, state of before");
        assert_eq!(read(shown("m", 1, "", 9, 1), 3), 1, "T of before, state of after");
    }

    #[test]
    fn a_standing_that_the_figures_do_not_bear_out_is_found() {
        let stands = |standing| {
            let mut sample = leased();
            let message = Shown { standing: Some(standing), ..shown("m", 1, "", 9, 1) };
            sample.peek(message, 5, false);
            broken(sample).len()
        };
        assert_eq!((stands(Standing::Leased), stands(Standing::Visible)), (0, 1));
        assert_eq!(stands(Standing::Blocked), 1);
    }

    #[test]
    fn a_peek_of_the_dead_shows_those_alone() {
        let mut sample = Sample::default();
        sample.dead_letter("m", 3);
        assert_eq!(broken(sample), Vec::<String>::new());
        let mut sample = leased();
        let message = Shown { standing: Some(Standing::Dead), ..shown("m", 1, "", 9, 1) };
        sample.peek(message, 5, false);
        assert_eq!(broken(sample).len(), 1);
    }

    fn look(sample: &mut Sample, queue: &str, at: u64, looked: Looked) {
        let call = Call::Look { queue: queue.to_owned(), stale: false };
        sample.add(2, at, call, Outcome::Ok(Answer::Looked { at, queue: looked }));
    }

    #[test]
    fn counts_add_up_and_are_those_of_what_is_there() {
        let counted = |leased_count, total| {
            let mut sample = leased();
            let looked = Looked { leased: leased_count, total, ..Looked::default() };
            look(&mut sample, QUEUE, 5, looked);
            broken(sample).len()
        };
        assert_eq!(counted(1, 1), 0);
        assert_eq!(counted(1, 2), 2, "they do not add up, and one too many");
        assert_eq!(counted(0, 0), 1, "the message is not counted");
        assert_eq!(counted(2, 2), 1, "one message is counted twice");
    }

    #[test]
    fn a_queue_that_holds_more_than_its_quota_is_found() {
        let sent = |count: u64| {
            let mut sample = Sample::default();
            for at in 1..=count {
                sample.send_new("delta", &format!("m{at}"), at, new(at));
            }
            broken(sample).len()
        };
        assert_eq!((sent(20), sent(21)), (0, 1));
    }
}
