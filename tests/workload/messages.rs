//! Messages that are sent, alone, in batches, and together with deletes.

use zoneq::proto::queue::v1 as pb;

use super::{Client, Held, Worker, wire};
use crate::history::{Answer, Call, New};
use crate::queues::plan;

/// Deduplication keys, and groups at one time: few, so that they meet.
const KEYS: u64 = 40;
pub(super) const GROUPS: u64 = 4;
/// Microseconds after which groups get other names: one that is blocked for long is left behind.
pub(super) const GROUPS_FOR: u64 = 10_000_000;

impl Worker {
    /// A message as this queue is for.
    pub(super) fn new_message(&mut self, queue: &str) -> New {
        let plan = plan(queue);
        let delay = if self.one_in(4) { self.dice.below(3_000_000) } else { 0 };
        let rarely = if plan.groups { 12 } else { 3 };
        let ttl = self.one_in(rarely).then(|| delay + 300_000 + self.dice.below(20_000_000));
        let priority =
            if plan.priorities && self.one_in(2) { self.dice.below(10) as u8 } else { 4 };
        let key = (plan.window.is_some() && self.one_in(2)).then(|| self.dice.below(KEYS));
        let grouped = plan.groups && !self.one_in(3);
        let group = grouped.then(|| {
            let time = self.now() / GROUPS_FOR;
            time * GROUPS + self.dice.below(GROUPS)
        });
        New { tag: self.tag(), ttl, delay, priority, key, group }
    }

    pub(super) async fn send(&mut self) {
        let queue = self.any(|plan| plan.is_sent_to);
        let count = if self.one_in(5) { 1 + self.dice.below(8) } else { 1 };
        let messages = (0..count).map(|_| self.new_message(&queue)).collect();
        self.send_messages(&queue, messages).await;
    }

    /// True when they were sent.
    pub async fn send_messages(&mut self, queue: &str, messages: Vec<New>) -> bool {
        let wire: Vec<pb::NewMessage> = messages.iter().map(wire::new_message).collect();
        let request = |session| send_request(queue, &wire, session);
        let ask = |mut node: Client, r| async move { node.send(r).await };
        let call = Call::Send { queue: queue.to_owned(), messages };
        let told = self.write(call, request, ask, read_sent).await;
        self.remember_sent(&[queue.to_owned()], told.as_ref());
        if told.is_none() && self.was_refused("QUEUE_NOT_FOUND") {
            self.bring_back(queue).await;
        }
        told.is_some()
    }

    /// The receipt of a send counts until the message is given out. `queues`: of each message, or
    /// of all.
    pub(super) fn remember_sent(&mut self, queues: &[String], told: Option<&Answer>) {
        let Some(Answer::Sent { messages, .. }) = told else { return };
        for (at, message) in messages.iter().enumerate().take(2) {
            let Some(queue) = queues.get(at).or(queues.last()) else { return };
            let (id, receipt) = (message.id.clone(), message.receipt.clone());
            self.remember_old(Held { queue: queue.clone(), id, receipt });
        }
    }

    /// Deletes of what it holds and sends, as one step.
    pub(super) async fn transact(&mut self) {
        let mut queues = vec![self.any(|plan| plan.is_sent_to)];
        let account = plan(&queues[0]).account;
        let deletes: Vec<Held> =
            (0..self.dice.below(3)).filter_map(|_| self.take_held_of(account)).collect();
        let other = self.any(|plan| plan.is_sent_to && plan.account == account);
        if !queues.contains(&other) {
            queues.push(other);
        }
        let mut sends: Vec<(String, Vec<New>)> = Vec::new();
        for queue in queues {
            let count = 1 + self.dice.below(2);
            let messages = (0..count).map(|_| self.new_message(&queue)).collect();
            sends.push((queue, messages));
        }
        let of_each = sends.iter().flat_map(|(queue, new)| new.iter().map(|_| queue.clone()));
        let of_each: Vec<String> = of_each.collect();
        let wire = pb::TransactRequest {
            account: wire::account(&sends[0].0),
            deletes: deletes.iter().map(transact_delete).collect(),
            sends: sends.iter().map(|(queue, new)| transact_send(queue, new)).collect(),
            ..Default::default()
        };
        let request = |session| pb::TransactRequest { session: Some(session), ..wire.clone() };
        let ask = |mut node: Client, r| async move { node.transact(r).await };
        let read = |answer: pb::TransactResponse| {
            wire::all_sent(&answer.messages, answer.durability.as_ref())
        };
        let items = deletes.iter().map(|held| (held.queue.clone(), held.item())).collect();
        let told = self.write(Call::Transact { deletes: items, sends }, request, ask, read).await;
        self.remember_sent(&of_each, told.as_ref());
        // Their receipts may be tried again, whatever came of it.
        deletes.into_iter().for_each(|held| self.remember_old(held));
    }
}

pub(super) fn send_request(
    queue: &str,
    messages: &[pb::NewMessage],
    session: pb::Session,
) -> pb::SendRequest {
    pb::SendRequest {
        account: wire::account(queue),
        queue: queue.to_owned(),
        messages: messages.to_vec(),
        session: Some(session),
    }
}

pub(super) fn read_sent(answer: pb::SendResponse) -> super::Told<Answer> {
    wire::all_sent(&answer.messages, answer.durability.as_ref())
}

fn transact_delete(held: &Held) -> pb::TransactDelete {
    let (id, pop_receipt) = held.item();
    pb::TransactDelete { queue: held.queue.clone(), id, pop_receipt }
}

fn transact_send(queue: &str, messages: &[New]) -> pb::TransactSend {
    let messages = messages.iter().map(wire::new_message).collect();
    pb::TransactSend { queue: queue.to_owned(), messages }
}
