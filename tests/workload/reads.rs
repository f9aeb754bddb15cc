//! Reads, linearizable and stale.

use zoneq::proto::queue::v1 as pb;

use super::{Worker, wire};
use crate::history::{Answer, Call, Looked, Outcome, Standing};
use crate::queues::{PEEKED_AT_ONCE, TENANT, USUAL_ACCOUNT, takes_dead_letters};

impl Worker {
    pub(super) fn staleness(&mut self) -> Option<prost_types::Duration> {
        self.one_in(3).then(|| wire::span(5_000_000))
    }

    pub(super) async fn peek(&mut self) {
        let queue = self.any(|_| true);
        self.choose_node();
        let max_staleness = self.staleness();
        let mut all =
            vec![Standing::Visible, Standing::Leased, Standing::Delayed, Standing::Blocked];
        if takes_dead_letters(&queue) {
            all.push(Standing::Dead);
        }
        let standing = all[self.dice.below(all.len() as u64) as usize];
        self.peek_at(queue, standing, max_staleness).await;
    }

    /// The messages of a queue that stand so.
    pub(super) async fn peek_at(
        &mut self,
        queue: String,
        standing: Standing,
        max_staleness: Option<prost_types::Duration>,
    ) {
        let stale = max_staleness.is_some();
        let op = self.begin_read(Call::Peek { queue: queue.clone(), standing, stale });
        let request = pb::PeekRequest {
            account: wire::account(&queue),
            queue,
            max_messages: PEEKED_AT_ONCE,
            state: wire::state(standing).into(),
            max_staleness,
            ..Default::default()
        };
        let asked = self.ask(request, |mut node, r| async move { node.peek(r).await });
        let told = asked.await.map(|answer| {
            let shown = answer.messages.iter().map(|m| wire::shown(m, Some(standing)));
            Answer::Seen { at: wire::moment(answer.log_time.as_ref()), messages: shown.collect() }
        });
        self.end(op, 1, told);
    }

    pub(super) async fn get(&mut self) {
        let queue = self.any(|_| true);
        self.choose_node();
        let known = self.known_of(&queue);
        let at = self.dice.below(known.len() as u64) as usize;
        let Some(id) = known.get(at).cloned() else { return };
        let max_staleness = self.staleness();
        self.get_one(queue, id, max_staleness).await;
    }

    /// One message.
    pub(super) async fn get_one(
        &mut self,
        queue: String,
        id: String,
        max_staleness: Option<prost_types::Duration>,
    ) {
        let stale = max_staleness.is_some();
        let op = self.begin_read(Call::Get { queue: queue.clone(), id: id.clone(), stale });
        let account = wire::account(&queue);
        let request = pb::GetMessageRequest { account, queue, id, max_staleness };
        let asked = self.ask(request, |mut node, r| async move { node.get_message(r).await });
        let told = asked.await.map(|answer| {
            let standing = wire::standing(answer.state());
            let shown = answer.message.iter().map(|m| wire::shown(m, standing));
            Answer::Seen { at: wire::moment(answer.log_time.as_ref()), messages: shown.collect() }
        });
        self.end(op, 1, told);
    }

    pub(super) async fn look_at_any(&mut self) {
        let queue = self.any(|_| true);
        self.choose_node();
        let max_staleness = self.staleness();
        self.look(&queue, max_staleness).await;
    }

    /// A queue as it is.
    pub async fn look(
        &mut self,
        queue: &str,
        max_staleness: Option<prost_types::Duration>,
    ) -> Option<(Looked, u64)> {
        let stale = max_staleness.is_some();
        let op = self.begin_read(Call::Look { queue: queue.to_owned(), stale });
        let (account, name) = (wire::account(queue), queue.to_owned());
        let request = pb::GetQueueRequest { account, name, max_staleness };
        let asked = self.ask(request, |mut node, r| async move { node.get_queue(r).await });
        let told = asked.await.map(|answer| {
            let queue = answer.queue.as_ref().map(wire::looked).unwrap_or_default();
            Answer::Looked { at: wire::moment(answer.log_time.as_ref()), queue }
        });
        match self.end(op, 1, told)? {
            Answer::Looked { at, queue } => Some((queue, at)),
            _ => None,
        }
    }

    pub(super) async fn list(&mut self) {
        self.choose_node();
        let max_staleness = self.staleness();
        let account = if self.one_in(4) { TENANT } else { USUAL_ACCOUNT }.to_owned();
        let (deleted, stale) = (self.one_in(3), max_staleness.is_some());
        let op = self.begin_read(Call::List { account: account.clone(), deleted, stale });
        let request =
            pb::ListQueuesRequest { account, deleted, max_staleness, ..Default::default() };
        let asked = self.ask(request, |mut node, r| async move { node.list_queues(r).await });
        let told = asked.await.map(|answer| Answer::Listed {
            at: wire::moment(answer.log_time.as_ref()),
            queues: answer.queues.into_iter().map(|queue| queue.name).collect(),
        });
        self.end(op, 1, told);
    }

    /// Whether a write that it was told of stands.
    pub(super) async fn ask_for_durability(&mut self) {
        let last = {
            let history = self.history.lock();
            let own = history.ops.iter().rev().filter(|op| op.client == self.number);
            own.take(20).find_map(|op| match &op.outcome {
                Outcome::Ok(answer) => answer.mark(),
                _ => None,
            })
        };
        let Some(position) = last else { return };
        let op = self.begin_read(Call::Durability { position });
        let request = pb::GetDurabilityRequest { position: Some(wire::position(&position)) };
        let asked = self.ask(request, |mut node, r| async move { node.get_durability(r).await });
        let told = asked.await.map(|answer| Answer::Durable {
            committed: answer.committed,
            zones_at_least: answer.zones_at_least,
        });
        self.end(op, 1, told);
    }
}
