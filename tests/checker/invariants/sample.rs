//! Short histories for the tests of the checks: one queue, T and index and time all the same
//! small number.

use crate::history::{
    After, Answer, Asked, Call, Cluster, DRAIN, Dead, Deleted, History, Job, LogTime, Mark, New,
    Op, Outcome, Progress, Redriven, Released, SentMessage, Session, Shown, Standing,
};
use crate::queues::USUAL_TTL;

#[derive(Default)]
pub struct Sample {
    pub history: History,
}

pub const QUEUE: &str = "queue";

pub fn mark(at: u64) -> Mark {
    Mark { index: at, term: 1, node: 1, at }
}

pub fn shown(id: &str, tag: u64, receipt: &str, until: LogTime, count: u32) -> Shown {
    Shown {
        id: id.to_owned(),
        tag: Some(tag),
        receipt: receipt.to_owned(),
        inserted_at: 1,
        expires_at: None,
        visible_at: until,
        dequeue_count: count,
        priority: 0,
        group: None,
        dead: None,
        redriven: None,
        standing: None,
    }
}

pub fn new(tag: u64) -> New {
    New { tag, ..New::default() }
}

impl Sample {
    pub fn add(&mut self, client: u32, at: u64, call: Call, outcome: Outcome) -> &mut Op {
        let (invoked, returned) = (at * 10, at * 10 + 1);
        let (session, attempts) = (None, 1);
        let site = Cluster::default();
        let elsewhere = false;
        let op =
            Op { client, session, attempts, elsewhere, invoked, returned, call, outcome, site };
        self.history.ops.push(op);
        self.history.ops.last_mut().expect("just pushed")
    }

    /// Sends a message whose tag is the time, with receipt `r` and the time.
    pub fn send(&mut self, id: &str, at: u64) -> &mut Op {
        self.send_new(QUEUE, id, at, new(at))
    }

    pub fn send_with(&mut self, id: &str, at: u64, ttl: Option<u64>, delay: u64) -> &mut Op {
        self.send_new(QUEUE, id, at, New { ttl, delay, ..new(at) })
    }

    pub fn send_new(&mut self, queue: &str, id: &str, at: u64, new: New) -> &mut Op {
        let message = SentMessage {
            id: id.to_owned(),
            receipt: format!("r{at}"),
            inserted_at: at,
            expires_at: new.ttl.map(|ttl| at + ttl),
            visible_at: at + new.delay,
            duplicate: false,
        };
        let call = Call::Send { queue: queue.to_owned(), messages: vec![new] };
        let answer = Answer::Sent { mark: mark(at), messages: vec![message] };
        self.add(1, at, call, Outcome::Ok(answer))
    }

    /// A send under a key that was answered with an earlier message.
    pub fn send_duplicate(&mut self, queue: &str, first: &str, at: u64, new: New) {
        let op = self.send_new(queue, first, at, new);
        if let Outcome::Ok(Answer::Sent { messages, .. }) = &mut op.outcome {
            messages.iter_mut().for_each(|message| message.duplicate = true);
        }
    }

    /// Grants it at `at` until `until`, with receipt `r` and the time; its tag is 1.
    pub fn receive(&mut self, id: &str, at: u64, until: u64, count: u32) -> &mut Op {
        let message = shown(id, 1, &format!("r{at}"), until, count);
        self.receive_shown(2, message, at, until - at)
    }

    pub fn receive_shown(
        &mut self,
        client: u32,
        shown: Shown,
        at: u64,
        visibility: u64,
    ) -> &mut Op {
        self.receive_from(QUEUE, client, vec![shown], at, visibility)
    }

    pub fn receive_from(
        &mut self,
        queue: &str,
        client: u32,
        messages: Vec<Shown>,
        at: u64,
        visibility: u64,
    ) -> &mut Op {
        let max = messages.len() as u32;
        let call = Call::Receive { queue: queue.to_owned(), max, visibility };
        let answer = Answer::Received { mark: Some(mark(at)), messages, more: false };
        self.add(client, at, call, Outcome::Ok(answer))
    }

    /// A receive that found nothing, by a majority's word.
    pub fn receive_nothing(&mut self, queue: &str, at: u64) -> &mut Op {
        let call = Call::Receive { queue: queue.to_owned(), max: 1, visibility: 1 };
        let answer = Answer::Received { mark: None, messages: Vec::new(), more: false };
        self.add(2, at, call, Outcome::Ok(answer))
    }

    /// The message as it lies in a dead-letter queue.
    pub fn dead(source: &str, deliveries: u32, at: u64, shown: Shown) -> Shown {
        Shown { dead: Some(Dead { source: source.to_owned(), at, deliveries }), ..shown }
    }

    /// Sends a message to gamma, with tag 1 at T 1, and lets it die there; it is seen among the
    /// dead letters at `at`.
    pub fn dead_letter(&mut self, id: &str, at: u64) {
        self.send_new("gamma", id, 1, new(1));
        let message = Sample::dead("gamma", 3, at, shown(id, 1, "", at, 0));
        let (queue, standing) = ("gamma-dead".to_owned(), Standing::Dead);
        let call = Call::Peek { queue, standing, stale: false };
        self.add(2, at, call, Outcome::Ok(Answer::Seen { at, messages: vec![message] }));
    }

    /// A redrive of all that a queue holds begins.
    pub fn redrive(&mut self, queue: &str, id: &str, at: u64) -> &mut Op {
        self.redrive_some(queue, id, at, Asked::default())
    }

    pub fn redrive_some(&mut self, queue: &str, id: &str, at: u64, asked: Asked) -> &mut Op {
        let call = Call::Redrive { queue: queue.to_owned(), asked };
        let answer = Answer::Redriving { mark: mark(at), id: id.to_owned(), started: true };
        self.add(3, at, call, Outcome::Ok(answer))
    }

    /// A redrive of all of gamma-dead as a listing shows it at T `at`.
    pub fn list_redrive(&mut self, at: u64, job: Job) -> &mut Op {
        let call = Call::Redrives { queue: "gamma-dead".to_owned(), stale: false };
        self.add(3, at, call, Outcome::Ok(Answer::Redrives { at, jobs: vec![job] }))
    }

    /// It began at 4, and has ended at 8 if it has.
    pub fn job(id: &str, progress: Progress, moved: u64) -> Job {
        let ended_at = (progress != Progress::Running).then_some(8);
        let (id, asked) = (id.to_owned(), Asked::default());
        Job { id, asked, progress, started_at: 4, ended_at, moved, held: 0, refused: 0 }
    }

    /// The message as it is when a redrive has sent it back at this T.
    pub fn redriven(was: &str, at: u64, shown: Shown) -> Shown {
        let redriven = Some(Redriven { id: was.to_owned(), queue: "gamma-dead".to_owned() });
        Shown { redriven, inserted_at: at, expires_at: Some(at + USUAL_TTL), ..shown }
    }

    /// Takes what was sent back to gamma a moment before.
    pub fn receive_redriven(&mut self, id: &str, was: &str, at: u64, until: u64) {
        let message = shown(id, 1, &format!("r{at}"), until, 1);
        let message = Sample::redriven(was, at - 1, message);
        self.receive_from("gamma", 2, vec![message], at, until - at);
    }

    pub fn drain_finds_redriven(&mut self, id: &str, was: &str, at: u64) {
        let message = shown(id, 1, &format!("r{at}"), at + 100, 1);
        let message = Sample::redriven(was, at - 1, message);
        self.receive_from("gamma", DRAIN, vec![message], at, 100);
    }

    pub fn unknown_receive(&mut self, at: u64) -> &mut Op {
        let call = Call::Receive { queue: QUEUE.to_owned(), max: 1, visibility: 1 };
        self.add(2, at, call, Outcome::Unknown("lost".to_owned()))
    }

    pub fn peek(&mut self, shown: Shown, at: u64, stale: bool) -> &mut Op {
        let (queue, standing) = (QUEUE.to_owned(), Standing::Visible);
        let call = Call::Peek { queue, standing, stale };
        self.add(2, at, call, Outcome::Ok(Answer::Seen { at, messages: vec![shown] }))
    }

    pub fn get_fails(&mut self, id: &str, at: u64) {
        let call = Call::Get { queue: QUEUE.to_owned(), id: id.to_owned(), stale: false };
        self.add(2, at, call, Outcome::Failed("MESSAGE_NOT_FOUND".to_owned()));
    }

    pub fn update(&mut self, id: &str, receipt: &str, at: u64, until: u64) {
        let call = update(id, receipt, Some(until - at));
        let answer =
            Answer::Updated { mark: mark(at), receipt: format!("r{at}"), visible_at: until };
        self.add(2, at, call, Outcome::Ok(answer));
    }

    pub fn unknown_update(&mut self, id: &str, receipt: &str, at: u64) {
        self.add(2, at, update(id, receipt, Some(0)), Outcome::Unknown("lost".to_owned()));
    }

    pub fn release(&mut self, id: &str, receipt: &str, at: u64, until: u64) {
        let items = vec![(id.to_owned(), receipt.to_owned())];
        let after = After::Delay(until - at);
        let call = Call::Release { queue: QUEUE.to_owned(), items, after };
        let answer = Answer::Released { mark: mark(at), outcomes: vec![Released::At(until)] };
        self.add(2, at, call, Outcome::Ok(answer));
    }

    pub fn delete(&mut self, id: &str, receipt: &str, at: u64) -> &mut Op {
        let answer = Answer::Deleted { mark: mark(at), outcomes: vec![Deleted::Done] };
        self.add(2, at, delete(id, receipt), Outcome::Ok(answer))
    }

    pub fn delete_is_refused(&mut self, id: &str, receipt: &str, at: u64, outcome: Deleted) {
        let answer = Answer::Deleted { mark: mark(at), outcomes: vec![outcome] };
        self.add(2, at, delete(id, receipt), Outcome::Ok(answer));
    }

    pub fn unknown_delete(&mut self, id: &str, receipt: &str, at: u64) {
        self.add(2, at, delete(id, receipt), Outcome::Unknown("lost".to_owned()));
    }

    pub fn clear(&mut self, at: u64) {
        let call = Call::Clear { queue: QUEUE.to_owned() };
        self.add(3, at, call, Outcome::Ok(Answer::Cleared { mark: mark(at), removed: 1 }));
    }

    /// Anything done to a queue as a whole.
    pub fn done(&mut self, at: u64, call: Call) -> &mut Op {
        self.add(3, at, call, Outcome::Ok(Answer::Done { mark: mark(at) }))
    }

    pub fn drain_finds(&mut self, id: &str, at: u64) {
        let message = shown(id, 1, &format!("r{at}"), at + 100, 1);
        self.receive_shown(DRAIN, message, at, 100);
    }

    /// Puts the last call under a session.
    pub fn under(&mut self, client: u64, sequence: u64, attempts: u32) {
        let op = self.history.ops.last_mut().expect("a call");
        op.session = Some(Session { client, sequence, lowest: sequence });
        op.attempts = attempts;
    }

    /// The history of a run that healed, served and drained at T 1,000.
    pub fn ended(mut self) -> History {
        let ending = &mut self.history.ending;
        (ending.converged, ending.served, ending.drained) = (true, true, true);
        ending.steady = true;
        ending.at = 1_000;
        self.history
    }
}

fn update(id: &str, receipt: &str, visibility: Option<u64>) -> Call {
    let (id, receipt) = (id.to_owned(), receipt.to_owned());
    Call::Update { queue: QUEUE.to_owned(), id, receipt, visibility, tag: None }
}

fn delete(id: &str, receipt: &str) -> Call {
    let items = vec![(id.to_owned(), receipt.to_owned())];
    Call::Delete { queue: QUEUE.to_owned(), items }
}
