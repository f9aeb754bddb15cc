//! Dead letters that are sent back.

use zoneq::proto::queue::v1 as pb;

use super::messages::{GROUPS, GROUPS_FOR};
use super::{Client, Worker, wire};
use crate::history::{Answer, Asked, Call, Job, Progress};
use crate::queues::{ASIDE, plan};

impl Worker {
    pub(super) async fn redrive(&mut self) {
        let queue = self.any(|plan| plan.redriven);
        match self.dice.below(10) {
            0..5 => self.start_redrive(&queue).await,
            5 => self.count_for_a_redrive(&queue).await,
            6..8 => {
                self.choose_node();
                let max_staleness = self.staleness();
                self.redrives(&queue, max_staleness).await;
            }
            _ => {
                let last = self.jobs.get(self.dice.below(self.jobs.len() as u64) as usize);
                if let Some((queue, id)) = last.cloned() {
                    self.cancel_redrive(&queue, &id).await;
                }
            }
        }
    }

    fn asked(&mut self, queue: &str) -> Asked {
        let mut asked = Asked {
            target: self.one_in(3).then(|| ASIDE.to_owned()),
            rate: self.one_in(3).then(|| 1 + self.dice.below(5) as u32),
            ..Asked::default()
        };
        match self.dice.below(8) {
            0 => {
                let mut ids = self.known_of(queue);
                ids.truncate(4);
                ids.sort_unstable();
                ids.dedup();
                asked.ids = ids;
            }
            1 => asked.group = Some(self.now() / GROUPS_FOR * GROUPS + self.dice.below(GROUPS)),
            2 => {
                let back = self.dice.below(5_000_000);
                asked.dead_before = Some((self.clock.began + self.now()).saturating_sub(back));
            }
            3 => {
                let sources = crate::queues::ALL.iter();
                let mut sources =
                    sources.filter(|from| from.dead_letters.is_some_and(|(to, _)| to == queue));
                asked.source = sources.next().map(|plan| plan.name.to_owned());
            }
            _ => {}
        }
        asked
    }

    async fn start_redrive(&mut self, queue: &str) {
        let asked = self.asked(queue);
        let wire = wire::redrive(queue, &asked);
        let request = |session| pb::StartRedriveRequest { session: Some(session), ..wire.clone() };
        let ask = |mut node: Client, r| async move { node.start_redrive(r).await };
        let read = |answer: pb::StartRedriveResponse| wire::redriving(&answer);
        let call = Call::Redrive { queue: queue.to_owned(), asked };
        if let Some(Answer::Redriving { id, .. }) = self.write(call, request, ask, read).await {
            self.jobs.retain(|(of, _)| of != queue);
            self.jobs.push((queue.to_owned(), id));
        }
    }

    async fn count_for_a_redrive(&mut self, queue: &str) {
        self.choose_node();
        let asked = self.asked(queue);
        let request = pb::StartRedriveRequest { dry_run: true, ..wire::redrive(queue, &asked) };
        let op = self.begin_read(Call::DryRun { queue: queue.to_owned(), asked });
        let told = self.ask(request, |mut node, r| async move { node.start_redrive(r).await });
        let told = told.await.map(|answer| {
            let preview = answer.preview.unwrap_or_default();
            Answer::Counted { matching: preview.matching, held: preview.held }
        });
        self.end(op, 1, told);
    }

    async fn cancel_redrive(&mut self, queue: &str, id: &str) {
        let request = |session| pb::CancelRedriveRequest {
            account: wire::account(queue),
            queue: queue.to_owned(),
            id: id.to_owned(),
            session: Some(session),
        };
        let ask = |mut node: Client, r| async move { node.cancel_redrive(r).await };
        let read = |answer: pb::CancelRedriveResponse| {
            let mark = wire::mark(answer.durability.as_ref())?;
            Ok(Answer::Cancelled { mark, cancelled: answer.cancelled })
        };
        let call = Call::CancelRedrive { queue: queue.to_owned(), id: id.to_owned() };
        self.write(call, request, ask, read).await;
    }

    async fn redrives(
        &mut self,
        queue: &str,
        max_staleness: Option<prost_types::Duration>,
    ) -> Option<Vec<Job>> {
        let stale = max_staleness.is_some();
        let op = self.begin_read(Call::Redrives { queue: queue.to_owned(), stale });
        let request = pb::ListRedrivesRequest {
            account: wire::account(queue),
            queue: queue.to_owned(),
            max_staleness,
        };
        let asked = self.ask(request, |mut node, r| async move { node.list_redrives(r).await });
        let told = asked.await.map(|answer| Answer::Redrives {
            at: wire::moment(answer.log_time.as_ref()),
            jobs: answer.redrives.iter().map(wire::job).collect(),
        });
        match self.end(op, 1, told)? {
            Answer::Redrives { jobs, .. } => Some(jobs),
            _ => None,
        }
    }

    /// Ends every redrive of a queue; false when it is not known that none runs.
    pub async fn end_redrives(&mut self, queue: &str) -> bool {
        debug_assert!(plan(queue).redriven, "no others are redriven");
        let Some(jobs) = self.redrives(queue, None).await else { return false };
        let running: Vec<&Job> =
            jobs.iter().filter(|job| job.progress == Progress::Running).collect();
        for job in &running {
            self.cancel_redrive(queue, &job.id).await;
        }
        running.is_empty()
    }
}
