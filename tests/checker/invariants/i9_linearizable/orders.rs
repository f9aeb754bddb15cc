//! Of all calls of the short queue an order is searched for that explains every answer. Positions
//! and times that servers told decide what is tried first, and are not believed.
//!
//! Laws: what cannot be told as a call of one message is not judged, and neither is what follows; of
//! two regions, which may leave a part of a history behind, nothing is. A search that comes to
//! no end is told as if it had found something wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Answer, Call, Deleted, LogTime, NEVER, Op, Outcome, Released, Standing};
use crate::invariants::UNDECIDED;
use crate::queues::{PEEKED_AT_ONCE, SHORT};
use crate::search::{self, Act, Verdict};
use crate::story::Story;
use crate::times::{When, when};

pub fn check(story: &Story<'_>) -> Vec<String> {
    if !story.history.pair.sighted.is_empty() {
        return Vec::new();
    }
    let ops = told(story);
    match search::search(&ops) {
        Verdict::Linearizable => Vec::new(),
        Verdict::Undecided => {
            let count = ops.len();
            vec![format!("an order of the {count} calls of {SHORT} was {UNDECIDED}")]
        }
        Verdict::Not(ops) => {
            let lines = search::in_words(&ops).join("\n      ");
            let count = ops.len();
            vec![format!(
                "no order explains {count} calls of {SHORT} (times in us):\n      {lines}"
            )]
        }
    }
}

/// What a call is to the search.
enum Is {
    Told(Act, search::Answer),
    /// It says nothing of the order.
    Nothing,
    /// The search has no word for it.
    Other,
}

/// Who is who: messages by their bodies, receipts by the calls that gave them.
#[derive(Default)]
struct Names<'a> {
    tags: BTreeMap<&'a str, u64>,
    givers: BTreeMap<(&'a str, &'a str), usize>,
    /// When messages that were seen were sent.
    sent: BTreeMap<u64, LogTime>,
}

impl<'a> Names<'a> {
    fn of(ops: &[(usize, &'a Op)]) -> Names<'a> {
        let mut names = Names::default();
        for (number, op) in ops {
            let Outcome::Ok(answer) = &op.outcome else { continue };
            match (answer, &op.call) {
                (Answer::Sent { messages, .. }, call) => {
                    for ((_, new), sent) in call.sends().zip(messages) {
                        names.tags.insert(&sent.id, new.tag);
                        names.givers.insert((&sent.id, &sent.receipt), *number);
                    }
                }
                (Answer::Received { messages, .. } | Answer::Seen { messages, .. }, _) => {
                    for shown in messages {
                        let Some(tag) = shown.tag else { continue };
                        names.tags.insert(&shown.id, tag);
                        names.sent.insert(tag, shown.inserted_at);
                        if matches!(answer, Answer::Received { .. }) {
                            names.givers.insert((&shown.id, &shown.receipt), *number);
                        }
                    }
                }
                (Answer::Updated { receipt, .. }, Call::Update { id, .. }) => {
                    names.givers.insert((id, receipt), *number);
                }
                _ => {}
            }
        }
        names
    }

    /// A message, and who gave this receipt of it.
    fn item(&self, id: &str, receipt: &str) -> Option<(u64, usize)> {
        let given_by = self.givers.get(&(id, receipt)).copied().unwrap_or(search::NOBODY);
        Some((self.tags.get(id).copied()?, given_by))
    }

    fn act(&self, call: &Call) -> Option<Act> {
        match call {
            Call::Send { messages, .. } => match &messages[..] {
                [one] => Some(Act::Send(one.tag)),
                _ => None,
            },
            Call::Receive { .. } => Some(Act::Receive),
            Call::Delete { items, .. } => match &items[..] {
                [(id, receipt)] => {
                    let (message, given_by) = self.item(id, receipt)?;
                    Some(Act::Delete { message, given_by })
                }
                _ => None,
            },
            Call::Release { items, .. } => match &items[..] {
                [(id, receipt)] => {
                    let (message, given_by) = self.item(id, receipt)?;
                    Some(Act::Release { message, given_by })
                }
                _ => None,
            },
            Call::Update { id, receipt, .. } => {
                let (message, given_by) = self.item(id, receipt)?;
                Some(Act::Update { message, given_by })
            }
            Call::Get { id, .. } => Some(Act::Get(self.tags.get(id.as_str()).copied()?)),
            Call::Peek { standing: Standing::Visible, .. } => Some(Act::Peek),
            Call::Look { .. } => Some(Act::Count),
            Call::Clear { .. } => Some(Act::Clear),
            _ => None,
        }
    }

    fn answer(&self, answer: &Answer) -> Option<search::Answer> {
        match answer {
            Answer::Sent { messages, .. } => {
                let is_new = messages.iter().all(|sent| !sent.duplicate);
                is_new.then_some(search::Answer::Done)
            }
            Answer::Updated { .. } => Some(search::Answer::Done),
            Answer::Received { messages, .. } => match &messages[..] {
                [] => Some(search::Answer::Received(None)),
                [one] => Some(search::Answer::Received(Some(one.tag?))),
                _ => None,
            },
            Answer::Deleted { outcomes, .. } => Some(match outcomes.first()? {
                Deleted::Done => search::Answer::Done,
                Deleted::NotFound => search::Answer::Missing,
                Deleted::Mismatch => search::Answer::Mismatch,
            }),
            Answer::Released { outcomes, .. } => Some(match outcomes.first()? {
                Released::At(_) => search::Answer::Done,
                Released::NotFound => search::Answer::Missing,
                Released::Mismatch => search::Answer::Mismatch,
            }),
            Answer::Looked { queue, .. } => {
                let (visible, leased) = (queue.visible, queue.leased);
                Some(search::Answer::Counted { visible, leased })
            }
            Answer::Cleared { removed, .. } => Some(search::Answer::Cleared(*removed)),
            _ => None,
        }
    }

    /// What a read showed; one that may not have shown all says nothing.
    fn seen(&self, call: &Call, answer: &Answer) -> Option<search::Answer> {
        let Answer::Seen { messages, .. } = answer else { return self.answer(answer) };
        if let Call::Get { .. } = call {
            return match messages.first()?.standing? {
                Standing::Visible => Some(search::Answer::Visible),
                Standing::Leased => Some(search::Answer::Leased),
                _ => None,
            };
        }
        let tags: Option<BTreeSet<u64>> = messages.iter().map(|shown| shown.tag).collect();
        (messages.len() < PEEKED_AT_ONCE as usize).then_some(tags?).map(search::Answer::Seen)
    }

    fn is(&self, op: &Op) -> Is {
        let is_read = matches!(op.call, Call::Get { .. } | Call::Peek { .. } | Call::Look { .. });
        if matches!(op.call, Call::Create { .. }) || op.call.is_stale() {
            return Is::Nothing;
        }
        let answer = match &op.outcome {
            Outcome::Ok(answer) => self.seen(&op.call, answer),
            Outcome::Unknown(_) if is_read => return Is::Nothing,
            Outcome::Unknown(_) => Some(search::Answer::Unknown),
            Outcome::Failed(why) => {
                let asks = matches!(op.call, Call::Get { .. } | Call::Update { .. });
                match why.as_str() {
                    "MESSAGE_NOT_FOUND" if asks => Some(search::Answer::Missing),
                    "RECEIPT_MISMATCH" if asks => Some(search::Answer::Mismatch),
                    _ => return Is::Nothing,
                }
            }
        };
        match (self.act(&op.call), answer) {
            (Some(act), Some(answer)) => Is::Told(act, answer),
            _ if is_read => Is::Nothing,
            _ => Is::Other,
        }
    }

    /// Where a call is said to stand.
    fn hint(&self, op: &Op, act: Act, floor: LogTime) -> Option<LogTime> {
        match &op.outcome {
            Outcome::Ok(answer) => {
                let When { by, .. } = when(op, answer, floor);
                answer.read_at().or(Some(by).filter(|by| *by != LogTime::MAX))
            }
            _ => match act {
                Act::Send(tag) => self.sent.get(&tag).copied(),
                _ => None,
            },
        }
    }
}

/// The number at the end of an id, or of a receipt: one counter gives both.
fn number_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.rsplit('-').next()?, 16).ok()
}

/// The number that an answer gave; 0 = it gave none.
fn drawn(op: &Op) -> u64 {
    let Outcome::Ok(answer) = &op.outcome else { return 0 };
    let name = match answer {
        Answer::Sent { messages, .. } => messages.first().map(|sent| &sent.id),
        Answer::Received { messages, .. } => messages.first().map(|shown| &shown.receipt),
        Answer::Updated { receipt, .. } => Some(receipt),
        _ => None,
    };
    name.and_then(|name| number_of(name)).unwrap_or(0)
}

/// The calls of the short queue, as far as the search has words for them.
fn told(story: &Story<'_>) -> Vec<search::Op> {
    let all = story.history.ops.iter().enumerate();
    let ops: Vec<(usize, &Op)> = all.filter(|(_, op)| op.call.queue() == Some(SHORT)).collect();
    let names = Names::of(&ops);
    let mut told = Vec::new();
    let mut end = NEVER;
    for (number, op) in ops {
        let (act, answer) = match names.is(op) {
            Is::Told(act, answer) => (act, answer),
            Is::Nothing => continue,
            Is::Other => {
                end = end.min(op.invoked);
                continue;
            }
        };
        let returned = if answer == search::Answer::Unknown { NEVER } else { op.returned };
        let floor = story.floors.get(number).copied().unwrap_or(0);
        let hint = names.hint(op, act, floor);
        let (client, invoked) = (op.client, op.invoked);
        let drawn = drawn(op);
        told.push(search::Op { number, client, invoked, returned, act, answer, hint, drawn });
    }
    if end == NEVER { told } else { search::until(&told, end.saturating_sub(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{After, Mark};
    use crate::invariants::sample::{Sample, mark, new, shown};

    fn broken(sample: Sample) -> Vec<String> {
        check(&Story::of(&sample.ended()))
    }

    fn send(sample: &mut Sample, id: &str, at: u64) {
        sample.send_new(SHORT, id, at, new(at));
    }

    fn receive(sample: &mut Sample, id: &str, tag: u64, at: u64) {
        let message = shown(id, tag, &format!("r{at}"), at + 900, 1);
        sample.receive_from(SHORT, 2, vec![message], at, 900);
    }

    fn item(id: &str, given_at: u64) -> Vec<(String, String)> {
        vec![(id.to_owned(), format!("r{given_at}"))]
    }

    fn release(sample: &mut Sample, id: &str, given_at: u64, at: u64) {
        let (queue, items) = (SHORT.to_owned(), item(id, given_at));
        let answer = Answer::Released { mark: mark(at), outcomes: vec![Released::At(at)] };
        sample.add(2, at, Call::Release { queue, items, after: After::Now }, Outcome::Ok(answer));
    }

    #[test]
    fn what_is_answered_in_order_is_explained() {
        let mut sample = Sample::default();
        send(&mut sample, "m", 1);
        send(&mut sample, "n", 2);
        receive(&mut sample, "m", 1, 3);
        release(&mut sample, "m", 3, 4);
        receive(&mut sample, "n", 2, 5);
        receive(&mut sample, "m", 1, 6);
        sample.receive_nothing(SHORT, 7);
        assert_eq!(broken(sample), Vec::<String>::new());
    }

    #[test]
    fn calls_that_no_order_explains_are_told_in_words() {
        let mut sample = Sample::default();
        send(&mut sample, "m", 1);
        send(&mut sample, "n", 2);
        receive(&mut sample, "m", 1, 3);
        receive(&mut sample, "m", 1, 4);
        let told = broken(sample);
        let lines: Vec<&str> = told.iter().flat_map(|case| case.lines()).collect();
        assert_eq!(lines.len(), 4, "{told:?}");
        assert!(lines[3].contains("40 to 41: receives; it is given 1"), "{told:?}");
    }

    #[test]
    fn positions_that_say_otherwise_are_not_believed() {
        let mut sample = Sample::default();
        send(&mut sample, "m", 1);
        sample.receive_nothing(SHORT, 2);
        // It says that it was answered before the send.
        let Outcome::Ok(Answer::Received { mark, .. }) =
            &mut sample.history.ops.last_mut().expect("a receive").outcome
        else {
            panic!("a receive")
        };
        *mark = Some(Mark { index: 0, term: 1, node: 1, at: 0 });
        assert_eq!(broken(sample).len(), 1);
    }

    #[test]
    fn old_receipts_and_lost_answers_are_told_as_they_are() {
        let mut sample = Sample::default();
        send(&mut sample, "m", 1);
        receive(&mut sample, "m", 1, 2);
        let delete = |given_at, at, outcomes: Vec<Deleted>, sample: &mut Sample| {
            let call = Call::Delete { queue: SHORT.to_owned(), items: item("m", given_at) };
            let outcome = match outcomes.is_empty() {
                true => Outcome::Unknown("lost".to_owned()),
                false => Outcome::Ok(Answer::Deleted { mark: mark(at), outcomes }),
            };
            sample.add(2, at, call, outcome);
        };
        delete(1, 3, vec![Deleted::Mismatch], &mut sample);
        delete(2, 4, vec![], &mut sample);
        let asked = Call::Get { queue: SHORT.to_owned(), id: "m".to_owned(), stale: false };
        sample.add(2, 5, asked, Outcome::Failed("MESSAGE_NOT_FOUND".to_owned()));
        delete(1, 6, vec![Deleted::NotFound], &mut sample);
        assert_eq!(broken(sample), Vec::<String>::new());
    }

    #[test]
    fn what_follows_a_call_that_the_search_has_no_word_for_is_not_judged() {
        let mut sample = Sample::default();
        send(&mut sample, "m", 1);
        send(&mut sample, "n", 2);
        let two = vec![shown("m", 1, "r3", 900, 1), shown("n", 2, "r3", 900, 1)];
        sample.receive_from(SHORT, 2, two, 3, 897);
        receive(&mut sample, "m", 1, 4);
        assert_eq!(broken(sample), Vec::<String>::new());
    }

    /// The calls of the short queue in a run of chaos with twenty power cuts of all zones: two sends
    /// of one entry stand there the other way round, and twelve calls are lost.
    #[test]
    fn of_calls_at_one_place_the_numbers_that_they_were_given_say_which_came_first() {
        let kept =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/checker/histories/twenty-power-cuts.jsonl");
        let kept = crate::checker::written::read(std::path::Path::new(kept)).expect("it is read");
        let [history] = &kept[..] else { panic!("{} histories", kept.len()) };
        assert_eq!(check(&Story::of(history)), Vec::<String>::new());
    }
}
