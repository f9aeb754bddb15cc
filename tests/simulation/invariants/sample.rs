//! Short histories for the tests of the checks: one queue, T and index and time all the same
//! small number.

use crate::history::{
    Answer, Call, DRAIN, Deleted, History, LogTime, Mark, Op, Outcome, SentMessage, Shown,
};

#[derive(Default)]
pub struct Sample {
    pub history: History,
}

const QUEUE: &str = "queue";

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
    }
}

impl Sample {
    pub fn add(&mut self, client: u32, at: u64, call: Call, outcome: Outcome) -> &mut Op {
        let (invoked, returned) = (at * 10, at * 10 + 1);
        self.history.ops.push(Op { client, invoked, returned, call, outcome });
        self.history.ops.last_mut().expect("just pushed")
    }

    /// Sends a message whose tag is the time, with receipt `r` and the time.
    pub fn send(&mut self, id: &str, at: u64) -> &mut Op {
        self.send_with(id, at, None, 0)
    }

    pub fn send_with(&mut self, id: &str, at: u64, ttl: Option<u64>, delay: u64) -> &mut Op {
        let call = Call::Send { queue: QUEUE.to_owned(), tags: vec![at], ttl, delay };
        let message = SentMessage {
            id: id.to_owned(),
            receipt: format!("r{at}"),
            inserted_at: at,
            expires_at: ttl.map(|ttl| at + ttl),
            visible_at: at + delay,
        };
        let answer = Answer::Sent { mark: mark(at), messages: vec![message] };
        self.add(1, at, call, Outcome::Ok(answer))
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
        let call = Call::Receive { queue: QUEUE.to_owned(), max: 1, visibility };
        let answer = Answer::Received { mark: Some(mark(at)), messages: vec![shown] };
        self.add(client, at, call, Outcome::Ok(answer))
    }

    pub fn unknown_receive(&mut self, at: u64) {
        let call = Call::Receive { queue: QUEUE.to_owned(), max: 1, visibility: 1 };
        self.add(2, at, call, Outcome::Unknown("lost".to_owned()));
    }

    pub fn peek(&mut self, shown: Shown, at: u64, stale: bool) -> &mut Op {
        let call = Call::Peek { queue: QUEUE.to_owned(), stale };
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

    pub fn delete(&mut self, id: &str, receipt: &str, at: u64) {
        let answer = Answer::Deleted { mark: mark(at), outcomes: vec![Deleted::Done] };
        self.add(2, at, delete(id, receipt), Outcome::Ok(answer));
    }

    pub fn unknown_delete(&mut self, id: &str, receipt: &str, at: u64) {
        self.add(2, at, delete(id, receipt), Outcome::Unknown("lost".to_owned()));
    }

    pub fn clear(&mut self, at: u64) {
        let call = Call::Clear { queue: QUEUE.to_owned() };
        self.add(3, at, call, Outcome::Ok(Answer::Cleared { mark: mark(at), removed: 1 }));
    }

    pub fn drain_finds(&mut self, id: &str, at: u64) {
        let message = shown(id, 1, &format!("r{at}"), at + 100, 1);
        self.receive_shown(DRAIN, message, at, 100);
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
