//! A short history of clients of one queue, whose leader is killed in the middle of it, for which an
//! order of the calls must be found that explains every answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;
use zoneq::client::{
    Client, ClientError, DeleteItem, Durability, Message, Reason, ReceiveOptions, ReleaseAfter,
};

use super::search::{self, Act, Answer, NEVER, Op, Verdict};
use super::stage::{Lab, PEERS_ARE_LOST, wait};

const CLIENTS: u64 = 4;
/// Calls of each; all of them fit into one search.
const CALLS: u64 = 15;
/// Longer than the test: leases last for ever.
const LEASE: Duration = Duration::from_secs(3_600);
/// No call that is answered at its first try takes as long; elections take longer.
const SLOW: u64 = 100_000;

/// Who writes down what happens.
struct Scribe {
    begun: Instant,
    ops: Mutex<Vec<Op>>,
}

/// Where a write is said to stand.
fn stands(durability: &Durability) -> Option<u64> {
    let since = durability.log_time?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_micros()).ok()
}

impl Scribe {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// Writes down what became of a call, with what it is said to stand at; one that had no effect
    /// is none. Its name, by which receipts are known.
    fn note<T>(
        &self,
        (client, invoked, act): (u64, u64, Act),
        done: &Result<T, ClientError>,
        told: impl Fn(&T) -> (Answer, Option<u64>),
    ) -> usize {
        let returned = self.now();
        let mut ops = self.ops.lock().expect("a lock");
        let (returned, (answer, hint)) = match done {
            Ok(done) => (returned, told(done)),
            Err(ClientError::Rejected { reason: Reason::ReceiptMismatch, .. }) => {
                (returned, (Answer::Mismatch, None))
            }
            Err(error @ ClientError::Rejected { .. }) => panic!("{act:?}: {error}"),
            Err(error) if error.is_not_applied() => return search::NOBODY,
            Err(_) => (NEVER, (Answer::Unknown, None)),
        };
        let (number, client) = (ops.len(), client as u32);
        ops.push(Op { number, client, invoked, returned, act, answer, hint, drawn: 0 });
        number
    }

    fn many(&self) -> u64 {
        self.ops.lock().expect("a lock").len() as u64
    }
}

fn tag(message: &Message) -> u64 {
    u64::from_le_bytes(message.body[..].try_into().expect("eight bytes"))
}

/// One client, with the messages that it holds and the calls that gave it their receipts.
struct Worker {
    client: Client,
    scribe: Arc<Scribe>,
    number: u64,
    held: Vec<(Message, usize)>,
    /// Whether the leader is dead.
    killed: watch::Receiver<bool>,
}

impl Worker {
    async fn work(mut self) {
        for call in 0..CALLS {
            if call == CALLS * 2 / 3 {
                // The last calls come behind it, however fast the others were.
                self.killed.wait_for(|killed| *killed).await.expect("it is told");
            }
            // A mix that is the same each time; what overlaps is the machine's to say.
            match (call * 5 + self.number * 3) % 8 {
                0..3 => self.send(self.number * CALLS + call).await,
                3 if !self.held.is_empty() => self.delete().await,
                4 if !self.held.is_empty() => self.release().await,
                5 => self.count().await,
                _ => self.receive().await,
            }
        }
    }

    async fn send(&self, new: u64) {
        let began = (self.number, self.scribe.now(), Act::Send(new));
        let sent = self.client.send("orders", new.to_le_bytes().to_vec()).await;
        self.scribe.note(began, &sent, |it| (Answer::Done, stands(&it.durability)));
    }

    async fn count(&self) {
        let began = (self.number, self.scribe.now(), Act::Count);
        let counted = self.client.queue("orders").await;
        self.scribe.note(began, &counted, |it| {
            let (visible, leased) = (it.counts.visible, it.counts.leased);
            (Answer::Counted { visible, leased }, None)
        });
    }

    async fn receive(&mut self) {
        let began = (self.number, self.scribe.now(), Act::Receive);
        let options =
            ReceiveOptions { visibility_timeout: Some(LEASE), ..ReceiveOptions::default() };
        let received = self.client.receive("orders", options).await;
        let number = self.scribe.note(began, &received, |it| {
            let stands = it.durability.as_ref().and_then(stands);
            (Answer::Received(it.messages.first().map(tag)), stands)
        });
        let is_empty = received.as_ref().is_ok_and(|it| it.messages.is_empty());
        if is_empty && self.scribe.now() - began.1 > SLOW {
            // A try before the one that found nothing may take something yet.
            let lost = ClientError::Unknown { message: "an earlier try".to_owned() };
            self.scribe.note(began, &Err::<(), _>(lost), |()| (Answer::Unknown, None));
        }
        let messages = received.into_iter().flat_map(|it| it.messages);
        self.held.extend(messages.map(|message| (message, number)));
    }

    async fn delete(&mut self) {
        let (message, given_by) = self.held.remove(0);
        let act = Act::Delete { message: tag(&message), given_by };
        let began = (self.number, self.scribe.now(), act);
        let done = self.client.delete("orders", &message.id, &message.pop_receipt).await;
        self.scribe.note(began, &done, |it| (Answer::Done, stands(it)));
    }

    /// Gives a message back, and finds its receipt void.
    async fn release(&mut self) {
        let (message, given_by) = self.held.remove(0);
        let item = DeleteItem::from(&message);
        let act = Act::Release { message: tag(&message), given_by };
        let began = (self.number, self.scribe.now(), act);
        let (id, receipt, now) = (&item.id, &item.pop_receipt, ReleaseAfter::Now);
        let done = self.client.release_one("orders", id, receipt, now).await;
        self.scribe.note(began, &done, |(_, it)| (Answer::Done, stands(it)));
    }
}

/// What was said, for whoever reads of a failure.
fn counted(ops: &[Op]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for op in ops {
        let what = format!("{:?}", op.act);
        let what = what.split(['(', ' ']).next().unwrap_or_default().to_owned();
        *counts.entry(what).or_default() += 1;
    }
    counts
}

#[test]
fn a_short_history_across_the_loss_of_the_leader_is_linearizable() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let scribe = Arc::new(Scribe { begun: Instant::now(), ops: Mutex::default() });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let leader = lab.leader();
    let (kill, killed) = watch::channel(false);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let _context = runtime.enter();
            let builder = Client::builder().endpoints(lab.urls()).deadline(Duration::from_secs(20));
            let client = builder.build().expect("a client");
            let (scribe, held, killed) = (Arc::clone(&scribe), Vec::new(), killed.clone());
            runtime.spawn(Worker { client, scribe, number, held, killed }.work())
        })
        .collect();
    wait("a third of the calls", || (scribe.many() > CLIENTS * CALLS / 3).then_some(()));
    lab.ok(&format!("lab kill {leader}"));
    kill.send_replace(true);
    for client in clients {
        runtime.block_on(client).expect("it ends");
    }
    let ops = scribe.ops.lock().expect("a lock").clone();
    assert!(ops.len() as u64 > CLIENTS * CALLS / 2, "{:?}", counted(&ops));
    match search::search(&ops) {
        Verdict::Linearizable => {}
        Verdict::Not(ops) => panic!("no order explains\n{}", search::in_words(&ops).join("\n")),
        Verdict::Undecided => panic!("undecided\n{}", search::in_words(&ops).join("\n")),
    }
    lab.warned_only_of(PEERS_ARE_LOST);
}
