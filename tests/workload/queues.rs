//! What is done to queues as a whole.

use std::time::Duration;

use zoneq::proto::queue::v1 as pb;

use super::{Worker, wire};
use crate::history::{Answer, Call, Outcome};
use crate::queues::{ALL, Plan, plan};

impl Worker {
    /// A queue of which something is true.
    pub(super) fn any(&mut self, fits: impl Fn(&Plan) -> bool) -> String {
        let fitting = || ALL.iter().filter(|plan| fits(plan));
        let mut at = self.dice.below(fitting().map(|plan| plan.share).sum());
        for plan in fitting() {
            if at < plan.share {
                return plan.name.to_owned();
            }
            at -= plan.share;
        }
        String::new()
    }

    /// Creates a queue, trying until it is there.
    pub async fn create(&mut self, queue: &str) {
        while !self.try_to_create(queue).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// False when it is not known to be there.
    pub(super) async fn try_to_create(&mut self, queue: &str) -> bool {
        let name = queue.to_owned();
        let call = Call::Create { queue: name.clone() };
        let request = |session| pb::CreateQueueRequest {
            account: wire::account(queue),
            name: name.clone(),
            settings: Some(wire::settings(plan(queue), None)),
            session: Some(session),
            ..Default::default()
        };
        let ask = |mut node: super::Client, r| async move { node.create_queue(r).await };
        let read = |answer: pb::CreateQueueResponse| wire::done(answer.durability.as_ref());
        let told = self.write(call, request, ask, read).await;
        // Somebody has given it other settings.
        told.is_some() || self.was_refused("QUEUE_EXISTS")
    }

    /// Whether its last call was refused for this reason.
    pub(super) fn was_refused(&self, why: &str) -> bool {
        let history = self.history.lock();
        let last = history.ops.iter().rev().find(|op| op.client == self.number);
        last.is_some_and(|op| matches!(&op.outcome, Outcome::Failed(reason) if reason == why))
    }

    /// Removes everything of a queue at once, in one way or the other; or tries to delete a queue
    /// that others need.
    pub(super) async fn empty(&mut self) {
        match self.dice.below(8) {
            0..4 => {
                let queue = self.any(|plan| plan.is_cleared);
                self.clear(&queue).await;
            }
            4..7 => {
                let queue = self.any(|plan| plan.is_deleted);
                self.delete_queue(&queue).await;
                let undeletes = self.one_in(2);
                // Its window is a second.
                let pause = self.dice.below(if undeletes { 1_800 } else { 300 });
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if !undeletes || !self.undelete(&queue).await {
                    self.try_to_create(&queue).await;
                }
            }
            _ => {
                let queue = self.any(|plan| crate::queues::takes_dead_letters(plan.name));
                self.delete_queue(&queue).await;
            }
        }
    }

    /// Takes a queue away for a while.
    pub(super) async fn delete_for_a_while(&mut self) {
        let queue = self.any(|plan| plan.comes_back);
        self.delete_queue(&queue).await;
        let pause = self.dice.below(900);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.undelete(&queue).await;
    }

    /// What is done when a queue is not there.
    pub(super) async fn bring_back(&mut self, queue: &str) {
        if plan(queue).comes_back {
            self.undelete(queue).await;
        } else if plan(queue).is_deleted {
            self.try_to_create(queue).await;
        }
    }

    /// True when it came back.
    pub async fn undelete(&mut self, queue: &str) -> bool {
        let name = queue.to_owned();
        let request = |session| pb::UndeleteQueueRequest {
            account: wire::account(queue),
            name: name.clone(),
            session: Some(session),
            ..Default::default()
        };
        let ask = |mut node: super::Client, r| async move { node.undelete_queue(r).await };
        let read = |answer: pb::UndeleteQueueResponse| wire::done(answer.durability.as_ref());
        self.write(Call::Undelete { queue: name.clone() }, request, ask, read).await.is_some()
    }

    /// True when it was answered.
    pub(super) async fn clear(&mut self, queue: &str) -> bool {
        let name = queue.to_owned();
        let request = |session| pb::ClearRequest {
            account: wire::account(queue),
            queue: name.clone(),
            session: Some(session),
        };
        let ask = |mut node: super::Client, r| async move { node.clear(r).await };
        let read = |answer: pb::ClearResponse| {
            let mark = wire::mark(answer.durability.as_ref())?;
            Ok(Answer::Cleared { mark, removed: answer.removed })
        };
        self.write(Call::Clear { queue: name.clone() }, request, ask, read).await.is_some()
    }

    async fn delete_queue(&mut self, queue: &str) {
        let name = queue.to_owned();
        let request = |session| pb::DeleteQueueRequest {
            account: wire::account(queue),
            name: name.clone(),
            session: Some(session),
        };
        let ask = |mut node: super::Client, r| async move { node.delete_queue(r).await };
        let read = |answer: pb::DeleteQueueResponse| wire::done(answer.durability.as_ref());
        self.write(Call::DeleteQueue { queue: name.clone() }, request, ask, read).await;
    }

    pub(super) async fn pause_for_a_while(&mut self) {
        let queue = self.any(|plan| plan.is_paused);
        self.pause(&queue).await;
        let pause = 100 + self.dice.below(1_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.resume(&queue).await;
    }

    async fn pause(&mut self, queue: &str) {
        let name = queue.to_owned();
        let request = |session| pb::PauseQueueRequest {
            account: wire::account(queue),
            name: name.clone(),
            session: Some(session),
        };
        let ask = |mut node: super::Client, r| async move { node.pause_queue(r).await };
        let read = |answer: pb::PauseQueueResponse| wire::done(answer.durability.as_ref());
        let call = Call::Pause { queue: name.clone(), paused: true };
        self.write(call, request, ask, read).await;
    }

    /// False when it is not known to go on.
    pub async fn resume(&mut self, queue: &str) -> bool {
        let name = queue.to_owned();
        let request = |session| pb::ResumeQueueRequest {
            account: wire::account(queue),
            name: name.clone(),
            session: Some(session),
        };
        let ask = |mut node: super::Client, r| async move { node.resume_queue(r).await };
        let read = |answer: pb::ResumeQueueResponse| wire::done(answer.durability.as_ref());
        let call = Call::Pause { queue: name.clone(), paused: false };
        self.write(call, request, ask, read).await.is_some()
    }

    /// Replaces metadata or settings.
    pub(super) async fn set(&mut self) {
        let queue = self.any(|plan| plan.is_set);
        let value = self.tag();
        if self.one_in(2) {
            let request = |session| pb::SetQueueMetadataRequest {
                account: wire::account(&queue),
                name: queue.clone(),
                metadata: wire::metadata(value),
                session: Some(session),
            };
            let ask = |mut node: super::Client, r| async move { node.set_queue_metadata(r).await };
            let read =
                |answer: pb::SetQueueMetadataResponse| wire::done(answer.durability.as_ref());
            let call = Call::SetMetadata { queue: queue.clone(), value };
            self.write(call, request, ask, read).await;
        } else {
            let request = |session| pb::SetQueueSettingsRequest {
                account: wire::account(&queue),
                name: queue.clone(),
                settings: Some(wire::settings(plan(&queue), Some(value))),
                session: Some(session),
            };
            let ask = |mut node: super::Client, r| async move { node.set_queue_settings(r).await };
            let read =
                |answer: pb::SetQueueSettingsResponse| wire::done(answer.durability.as_ref());
            let call = Call::SetSettings { queue: queue.clone(), value };
            self.write(call, request, ask, read).await;
        }
    }
}
