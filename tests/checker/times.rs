//! When calls took effect, as far as their answers and those of others tell.
//!
//! Of an answer to the first try the T is exact; of one to a later try, and of a call of unknown
//! outcome, only bounds are known: not before what was acknowledged when it began, and not after
//! what its session did next, which ends all that is below.

use std::collections::BTreeMap;

use crate::history::{
    After, Answer, Call, History, LogTime, Micros, Op, Outcome, Released, Session,
};

/// When something took effect: after the first T, and not after the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct When {
    pub after: LogTime,
    pub by: LogTime,
}

impl When {
    pub fn exact(at: LogTime) -> When {
        When { after: at.saturating_sub(1), by: at }
    }
}

/// What an acknowledged call's answer says of its T.
pub fn when(op: &Op, answer: &Answer, floor: LogTime) -> When {
    let mark = answer.mark().map(|mark| mark.at);
    if !op.may_be_repeated()
        && let Some(at) = mark
    {
        return When::exact(at);
    }
    let told = match (answer, &op.call) {
        (Answer::Received { messages, .. }, Call::Receive { visibility, .. }) => {
            messages.first().map(|shown| shown.visible_at.saturating_sub(*visibility))
        }
        (Answer::Updated { visible_at, .. }, Call::Update { visibility: Some(span), .. }) => {
            Some(visible_at.saturating_sub(*span))
        }
        (Answer::Sent { messages, .. }, _) => {
            messages.iter().find(|sent| !sent.duplicate).map(|sent| sent.inserted_at)
        }
        (Answer::Released { outcomes, .. }, Call::Release { after: After::Now, .. }) => {
            outcomes.iter().find_map(|outcome| match outcome {
                Released::At(at) => Some(*at),
                _ => None,
            })
        }
        _ => None,
    };
    told.map_or(When { after: floor, by: mark.unwrap_or(LogTime::MAX) }, When::exact)
}

/// T as it was answered, by the time of the answer, made to grow.
fn answered(history: &History) -> Vec<(Micros, LogTime)> {
    let told = history.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(answer) => {
            let at = answer.mark().map(|mark| mark.at).or(answer.read_at())?;
            Some((op.returned, at))
        }
        _ => None,
    });
    let mut told: Vec<(Micros, LogTime)> = told.collect();
    told.sort_unstable();
    let mut highest = 0;
    for (_, at) in &mut told {
        highest = highest.max(*at);
        *at = highest;
    }
    told
}

/// Of each call: the highest T that was answered to anybody before it began.
pub fn floors(history: &History) -> Vec<LogTime> {
    let told = answered(history);
    let floor = |op: &Op| {
        let before = told.partition_point(|(returned, _)| *returned <= op.invoked);
        before.checked_sub(1).and_then(|last| told.get(last)).map_or(0, |(_, at)| *at)
    };
    history.ops.iter().map(floor).collect()
}

/// Of each call: the lowest T that was answered to anybody who began after it was answered.
pub fn ceilings(history: &History) -> Vec<LogTime> {
    let told = history.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(_) if op.call.is_stale() => None,
        Outcome::Ok(answer) => {
            Some((op.invoked, answer.mark().map(|mark| mark.at).or(answer.read_at())?))
        }
        _ => None,
    });
    let mut told: Vec<(Micros, LogTime)> = told.collect();
    told.sort_unstable();
    let mut lowest = LogTime::MAX;
    for (_, at) in told.iter_mut().rev() {
        lowest = lowest.min(*at);
        *at = lowest;
    }
    let ceiling = |op: &Op| {
        let after = told.partition_point(|(invoked, _)| *invoked < op.returned);
        told.get(after).map_or(LogTime::MAX, |(_, at)| *at)
    };
    history.ops.iter().map(ceiling).collect()
}

/// Where sessions went on, which ended all that was below.
pub struct Fences(BTreeMap<u64, Vec<(u64, LogTime)>>);

impl Fences {
    pub fn of(history: &History) -> Fences {
        let mut fences: BTreeMap<u64, Vec<(u64, LogTime)>> = BTreeMap::new();
        for op in &history.ops {
            if let (Some(session), Outcome::Ok(answer)) = (op.session, &op.outcome)
                && let Some(mark) = answer.mark()
            {
                fences.entry(session.client).or_default().push((session.lowest, mark.at));
            }
        }
        for ends in fences.values_mut() {
            ends.sort_unstable();
        }
        Fences(fences)
    }

    /// The last T at which a call under that tag can have taken effect.
    pub fn end_of(&self, session: Option<Session>) -> LogTime {
        let end = session.and_then(|session| {
            let ends = self.0.get(&session.client)?;
            let next = ends.partition_point(|(lowest, _)| *lowest <= session.sequence);
            ends.get(next).map(|(_, at)| *at)
        });
        end.unwrap_or(LogTime::MAX)
    }
}
