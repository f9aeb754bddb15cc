//! Messages that are received, and what is done with their receipts, new and old.

use zoneq::proto::queue::v1 as pb;

use super::{Client, Worker, wire};
use crate::history::{After, Answer, Call, Item};
use crate::queues::plan;

/// Messages and old receipts that a worker remembers.
const REMEMBERED: usize = 40;

/// A message of which it has, or had, the receipt.
#[derive(Clone, Debug)]
pub struct Held {
    pub queue: String,
    pub id: String,
    pub receipt: String,
}

impl Held {
    pub(super) fn item(&self) -> Item {
        (self.id.clone(), self.receipt.clone())
    }
}

impl Worker {
    pub(super) async fn receive(&mut self) {
        let queue = self.any(|_| true);
        let max = 1 + self.dice.below(4) as u32;
        let visibility = 200_000 + self.dice.below(2_500_000);
        let wait = if self.one_in(4) { self.dice.below(800_000) } else { 0 };
        let given = self.receive_for(&queue, max, visibility, wait).await;
        self.hold(given);
    }

    /// What it was given.
    pub async fn receive_for(
        &mut self,
        queue: &str,
        max: u32,
        visibility: u64,
        wait: u64,
    ) -> Vec<Held> {
        let request = |session| pb::ReceiveRequest {
            account: wire::account(queue),
            queue: queue.to_owned(),
            max_messages: max,
            visibility_timeout: Some(wire::span(visibility)),
            wait: Some(wire::span(wait)),
            session: Some(session),
        };
        let ask = |mut node: Client, r| async move { node.receive(r).await };
        let read = |answer: pb::ReceiveResponse| wire::received(&answer);
        let call = Call::Receive { queue: queue.to_owned(), max, visibility };
        let told = self.write(call, request, ask, read).await;
        given(queue, told.as_ref())
    }

    pub(super) fn hold(&mut self, given: Vec<Held>) {
        for held in given {
            if self.held.len() >= REMEMBERED {
                let oldest = self.held.remove(0);
                self.remember_old(oldest);
            }
            self.held.push(held);
        }
    }

    pub(super) fn remember_old(&mut self, held: Held) {
        if self.old.len() >= REMEMBERED {
            self.old.remove(0);
        }
        self.old.push(held);
    }

    pub(super) fn take_held(&mut self) -> Option<Held> {
        let count = self.held.len() as u64;
        let at = self.dice.below(count) as usize;
        (count > 0).then(|| self.held.remove(at))
    }

    /// One of a queue of this account.
    pub(super) fn take_held_of(&mut self, account: &str) -> Option<Held> {
        let of = |held: &Held| plan(&held.queue).account == account;
        let count = self.held.iter().filter(|held| of(held)).count() as u64;
        let nth = self.dice.below(count) as usize;
        let all = self.held.iter().enumerate().filter(|(_, held)| of(held));
        let at = all.map(|(at, _)| at).nth(nth)?;
        Some(self.held.remove(at))
    }

    /// One that it holds and, half of the time, up to three more of the same queue.
    fn take_some(&mut self) -> Vec<Held> {
        let Some(first) = self.take_held() else { return Vec::new() };
        let (mut taken, wanted) = (vec![first], if self.one_in(2) { 4 } else { 1 });
        while taken.len() < wanted
            && let Some(at) = self.held.iter().position(|held| held.queue == taken[0].queue)
        {
            taken.push(self.held.remove(at));
        }
        taken
    }

    pub(super) async fn delete_held(&mut self) {
        let items = self.take_some();
        if let Some(queue) = items.first().map(|held| held.queue.clone()) {
            self.delete(&queue, items).await;
        }
    }

    /// True when it was answered.
    pub async fn delete(&mut self, queue: &str, items: Vec<Held>) -> bool {
        let items: Vec<Item> = items.iter().map(Held::item).collect();
        let wire: Vec<pb::DeleteItem> = items.iter().map(wire::delete_item).collect();
        let request = |session| delete_request(queue, &wire, session);
        let ask = |mut node: Client, r| async move { node.delete(r).await };
        let read = |answer: pb::DeleteResponse| wire::deleted(&answer);
        let call = Call::Delete { queue: queue.to_owned(), items };
        self.write(call, request, ask, read).await.is_some()
    }

    /// Tries a receipt that a later grant, an update, a release or a delete may have voided.
    pub(super) async fn use_old_receipt(&mut self) {
        let at = self.dice.below(self.old.len() as u64) as usize;
        let Some(old) = self.old.get(at).cloned() else { return };
        match self.dice.below(4) {
            0 => self.update(old, Some(1_000_000), None).await,
            1 => self.release(vec![old], After::Now).await,
            _ => {
                self.delete(&old.queue.clone(), vec![old]).await;
            }
        }
    }

    pub(super) async fn update_held(&mut self) {
        let Some(held) = self.take_held() else { return };
        let visibility = match self.dice.below(4) {
            0 => None,
            1 => Some(0),
            _ => Some(300_000 + self.dice.below(2_000_000)),
        };
        let tag = self.one_in(3).then(|| self.tag());
        self.update(held, visibility, tag).await;
    }

    pub(super) async fn update(&mut self, held: Held, visibility: Option<u64>, tag: Option<u64>) {
        let Held { queue, id, receipt } = held.clone();
        // With both halves of the content nobody needs to look for the other first.
        let headers = tag.filter(|tag| tag.is_multiple_of(2)).map(|_| pb::Headers::default());
        let request = |session| pb::UpdateRequest {
            account: wire::account(&queue),
            queue: queue.clone(),
            id: id.clone(),
            pop_receipt: receipt.clone(),
            visibility_timeout: visibility.map(wire::span),
            body: tag.map(|tag| crate::history::body(tag).into()),
            headers: headers.clone(),
            session: Some(session),
        };
        let ask = |mut node: Client, r| async move { node.update(r).await };
        let read = |answer: pb::UpdateResponse| {
            let mark = wire::mark(answer.durability.as_ref())?;
            let visible_at = wire::moment(answer.visible_at.as_ref());
            Ok(Answer::Updated { mark, receipt: answer.pop_receipt, visible_at })
        };
        let (queue, id, receipt) = (queue.clone(), id.clone(), receipt.clone());
        let call = Call::Update { queue, id, receipt, visibility, tag };
        if let Some(Answer::Updated { receipt, .. }) = self.write(call, request, ask, read).await {
            self.hold(vec![Held { receipt, ..held.clone() }]);
        }
        self.remember_old(held);
    }

    pub(super) async fn release_held(&mut self) {
        let items = self.take_some();
        let after = match self.dice.below(3) {
            0 => After::Now,
            1 => After::Delay(100_000 + self.dice.below(1_500_000)),
            _ => After::BackOff,
        };
        if !items.is_empty() {
            self.release(items, after).await;
        }
    }

    pub(super) async fn release(&mut self, held: Vec<Held>, after: After) {
        let Some(queue) = held.first().map(|held| held.queue.clone()) else { return };
        let item =
            |item: &Item| pb::ReleaseItem { id: item.0.clone(), pop_receipt: item.1.clone() };
        let items: Vec<Item> = held.iter().map(Held::item).collect();
        let wire: Vec<pb::ReleaseItem> = items.iter().map(item).collect();
        let request = |session| pb::ReleaseRequest {
            account: wire::account(&queue),
            queue: queue.clone(),
            items: wire.clone(),
            after: wire::after(after),
            session: Some(session),
        };
        let ask = |mut node: Client, r| async move { node.release(r).await };
        let read = |answer: pb::ReleaseResponse| wire::released(&answer);
        let call = Call::Release { queue: queue.clone(), items, after };
        self.write(call, request, ask, read).await;
        held.into_iter().for_each(|held| self.remember_old(held));
    }

    pub(super) fn known_of(&self, queue: &str) -> Vec<String> {
        let known = self.old.iter().chain(&self.held).filter(|held| held.queue == queue);
        known.map(|held| held.id.clone()).collect()
    }
}

pub(super) fn given(queue: &str, told: Option<&Answer>) -> Vec<Held> {
    let Some(Answer::Received { messages, .. }) = told else { return Vec::new() };
    let held = messages.iter().map(|message| Held {
        queue: queue.to_owned(),
        id: message.id.clone(),
        receipt: message.receipt.clone(),
    });
    held.collect()
}

pub(super) fn delete_request(
    queue: &str,
    items: &[pb::DeleteItem],
    session: pb::Session,
) -> pb::DeleteRequest {
    pb::DeleteRequest {
        account: wire::account(queue),
        queue: queue.to_owned(),
        items: items.to_vec(),
        session: Some(session),
    }
}
