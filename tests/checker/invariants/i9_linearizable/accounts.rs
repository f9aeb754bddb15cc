//! No account is sent more than it may hold, and none is refused what it may; a look shows what was
//! set last, and counts what its queues hold.
//!
//! Only accounts whose queues are neither deleted nor fed by others are judged: what a deleted
//! queue holds does not count, and what dies in one queue comes to another unseen.

use std::collections::BTreeMap;

use super::reads::{Census, census};
use crate::highest::Highest;
use crate::history::{Answer, Call, LogTime, Op, Outcome};
use crate::known::Spans;
use crate::queues::{ALL, TENANT, plan};
use crate::story::{SetBy, Story};
use crate::times::When;

/// What an account may hold, over time; few values are ever set.
struct Quota {
    /// Of each value: when it was set, or may have been.
    sets: BTreeMap<Option<u64>, Highest<LogTime, LogTime>>,
    /// By the T by which each was sure to be set: the T behind which that was.
    certain: Highest<LogTime, LogTime>,
}

impl Quota {
    fn of(sets: &[SetBy<'_>], account: &str) -> Quota {
        let mut by_value: BTreeMap<Option<u64>, Vec<(LogTime, LogTime)>> = BTreeMap::new();
        let mut certain = Vec::new();
        for set in sets {
            let Call::SetQuota { account: of, messages } = &set.act.op.call else { continue };
            if of != account {
                continue;
            }
            let When { after, by } = set.act.when;
            by_value.entry(*messages).or_default().push((after, by));
            certain.extend(set.certain.then_some((by, after)));
        }
        let sets = by_value.into_iter().map(|(value, when)| (value, when.into_iter().collect()));
        Quota { sets: sets.collect(), certain: certain.into_iter().collect() }
    }

    /// What it may have been in any state from one T through another: what was set then, and
    /// before, unless something else surely came between. At first there is none.
    fn within(&self, from: LogTime, through: LogTime) -> Vec<Option<u64>> {
        let replaced = self.certain.through(&from);
        let may = |when: &Highest<LogTime, LogTime>| {
            when.below(&through).is_some_and(|by| replaced.is_none_or(|replaced| by > replaced))
        };
        let may = self.sets.iter().filter(|(_, when)| may(when));
        may.map(|(value, _)| *value).chain(replaced.is_none().then_some(None)).collect()
    }
}

pub fn check(story: &Story<'_>) -> Vec<String> {
    let account = TENANT;
    let quota = Quota::of(&story.quotas, account);
    let counted = census(story);
    let mut held = Census::default();
    for plan in ALL.iter().filter(|plan| plan.account == account) {
        counted.get(plan.name).into_iter().for_each(|census| held.add(census));
    }
    let mut wrong = Vec::new();
    for ((op, floor), ceiling) in story.history.ops.iter().zip(&story.floors).zip(&story.ceilings) {
        match (&op.call, &op.outcome) {
            (call, Outcome::Ok(answer @ Answer::Sent { .. })) if is_of(call, account) => {
                wrong.extend(over(op, crate::times::when(op, answer, *floor), &quota, &held));
            }
            (call, Outcome::Failed(why)) if why == "FULL" && is_of(call, account) => {
                wrong.extend(refused(op, (*floor, *ceiling), &quota, &held));
            }
            (Call::LookAtAccount { .. }, Outcome::Ok(Answer::Account { at, account })) => {
                let (least, most) = held.between(*at);
                let counted = account.messages as usize;
                if counted < least || counted > most {
                    wrong.push(format!(
                        "{TENANT} counts {counted} messages at T {at}, and holds {least} to {most}"
                    ));
                }
                let may = quota.within(*at, *at);
                if !may.contains(&account.quota) {
                    wrong.push(format!(
                        "{TENANT} may hold {:?} at T {at}, and was last set to one of {may:?}",
                        account.quota
                    ));
                }
            }
            _ => {}
        }
    }
    wrong.extend(listed(story));
    wrong
}

fn is_of(call: &Call, account: &str) -> bool {
    call.sends().any(|(queue, _)| plan(queue).account == account)
}

/// A send that worked though the account then held more than it may.
fn over(op: &Op, when: When, quota: &Quota, held: &Census) -> Option<String> {
    let at = when.by;
    if when != When::exact(at) {
        return None;
    }
    // Duplicates take no room.
    let Outcome::Ok(Answer::Sent { messages, .. }) = &op.outcome else { return None };
    let new = messages.iter().any(|sent| !sent.duplicate);
    // At one T the order is not known: a quota of that T may have come after.
    let may = quota.within(at - 1, at);
    let most = may.iter().map(|quota| quota.unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX);
    let (least, _) = held.between(at);
    (new && least as u64 > most).then(|| {
        format!("{TENANT} may hold {most} messages and holds {least} with a send at T {at}")
    })
}

/// A send that was refused though there was room for it.
fn refused(
    op: &Op,
    (floor, ceiling): (LogTime, LogTime),
    quota: &Quota,
    held: &Census,
) -> Option<String> {
    let may = quota.within(floor, ceiling);
    let least = may.iter().map(|quota| quota.unwrap_or(u64::MAX)).min().unwrap_or(u64::MAX);
    let most = held.most_within(floor, ceiling) + op.call.sends().count();
    (most as u64 <= least).then(|| {
        format!(
            "{:?} was refused between T {floor} and {ceiling}, where {TENANT} may hold {least} \
             messages and would have held {most}",
            op.call
        )
    })
}

/// A listing of accounts shows those that have queues.
fn listed(story: &Story<'_>) -> Vec<String> {
    let mut made: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, queue) in &story.queues {
        let acts = queue.creates.iter().filter(|_| queue.deletions.is_empty());
        let acts = acts.filter(|_| queue.maybe_deletions.is_empty());
        made.entry(plan(name).account).or_default().extend(acts.copied());
    }
    let made: BTreeMap<&str, Spans> =
        made.iter().map(|(account, acts)| (*account, Spans::of(acts.iter()))).collect();
    let mut wrong = Vec::new();
    for op in &story.history.ops {
        let Outcome::Ok(Answer::Accounts { at, names }) = &op.outcome else { continue };
        for (account, made) in &made {
            let has = made.earliest().is_some_and(|by| by <= *at);
            if has && !names.iter().any(|name| name == account) {
                wrong.push(format!("a listing of accounts at T {at} does not show {account}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Tenant;
    use crate::invariants::sample::{Sample, new};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn set(sample: &mut Sample, at: u64, messages: Option<u64>) {
        sample.done(at, Call::SetQuota { account: TENANT.to_owned(), messages });
    }

    /// Two messages, and a quota of so many at T 3.
    fn two(messages: Option<u64>) -> Sample {
        let mut sample = Sample::default();
        sample.done(1, Call::Create { queue: "tau".to_owned() });
        sample.send_new("tau", "m1", 1, new(1));
        sample.send_new("upsilon", "m2", 2, new(2));
        set(&mut sample, 3, messages);
        sample
    }

    #[test]
    fn a_send_that_takes_an_account_over_its_quota_is_found() {
        let sent = |quota, raised: Option<u64>| {
            let mut sample = two(quota);
            if let Some(raised) = raised {
                set(&mut sample, 4, Some(raised));
            }
            sample.send_new("tau", "m3", 5, new(5));
            broken(sample)
        };
        assert_eq!(sent(Some(2), None), 1);
        assert_eq!(sent(Some(3), None), 0);
        assert_eq!(sent(None, None), 0);
        assert_eq!(sent(Some(2), Some(3)), 0, "raised again");
        assert_eq!(sent(Some(3), Some(2)), 1, "lowered");
    }

    #[test]
    fn a_send_that_is_refused_though_there_is_room_is_found() {
        let refused = |quota, deleted| {
            let mut sample = two(quota);
            if deleted {
                let mut message = crate::invariants::sample::shown("m1", 1, "r4", 9, 1);
                message.inserted_at = 1;
                sample.receive_from("tau", 2, vec![message], 4, 5);
                let items = vec![("m1".to_owned(), "r4".to_owned())];
                let call = Call::Delete { queue: "tau".to_owned(), items };
                let outcomes = vec![crate::history::Deleted::Done];
                let mark = crate::invariants::sample::mark(5);
                sample.add(2, 5, call, Outcome::Ok(Answer::Deleted { mark, outcomes }));
            }
            let call = Call::Send { queue: "tau".to_owned(), messages: vec![new(7)] };
            sample.add(2, 7, call, Outcome::Failed("FULL".to_owned()));
            broken(sample)
        };
        assert_eq!((refused(Some(2), false), refused(Some(2), true)), (0, 1));
        assert_eq!((refused(Some(3), false), refused(None, false)), (1, 1));
    }

    #[test]
    fn a_look_at_an_account_shows_what_was_set_and_counts_what_is_there() {
        let look = |quota, messages| {
            let mut sample = two(Some(9));
            let call = Call::LookAtAccount { account: TENANT.to_owned(), stale: true };
            let account = Tenant { quota, queues: 2, messages };
            sample.add(2, 5, call, Outcome::Ok(Answer::Account { at: 5, account }));
            broken(sample)
        };
        assert_eq!(look(Some(9), 2), 0);
        assert_eq!((look(None, 2), look(Some(9), 1), look(Some(9), 3)), (1, 1, 1));
    }

    #[test]
    fn an_account_that_a_listing_does_not_show_is_found() {
        let list = |names: &[&str]| {
            let mut sample = two(None);
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let answer = Answer::Accounts { at: 5, names };
            sample.add(2, 5, Call::ListAccounts { stale: true }, Outcome::Ok(answer));
            broken(sample)
        };
        assert_eq!((list(&[TENANT]), list(&[])), (0, 1));
    }
}
