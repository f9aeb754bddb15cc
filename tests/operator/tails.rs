//! What becomes of the tail of a fenced region, and of a copy that is kept: listed in any case, and
//! in some seeds sent to the new primary, by `tail replay` or on the way back; wiped, or promoted.
//!
//! Law: a tail is listed before anything is done about it. One that is sent is sent again, and from
//! other nodes, as often as the dice say: that must do nothing more.

use std::time::Duration;

use zoneq::proto::admin::v1 as pb;
use zoneq::queue::authority::RegionEpoch;

use super::{Client, Operator, WHO, WITHIN, epoch, limited, micros};
use crate::history::{Alive, Cluster, Emptied, Gone, Listed, Micros, Replay, Verb, tag_of};

impl Operator {
    /// Goes back as after a drill, in some turns in which nothing is in the way; whether it did.
    pub async fn goes_back(&mut self, to: Option<usize>) -> bool {
        let (Some(tails), Some(to)) = (&mut self.tails, to) else { return false };
        if tails.below(8) > 0 {
            return false;
        }
        self.act(1 - to, Verb::FailBack { to }).await;
        true
    }

    /// What a copy becomes that is to follow no more.
    pub fn how_to_part(&mut self) -> Verb {
        match self.tails.as_mut().map(|tails| tails.below(2)) {
            Some(0) => Verb::Wipe,
            _ => Verb::Unprotect,
        }
    }

    /// Makes a kept copy a cluster of its own, sometimes. Nothing it has is of the pair then, and
    /// what is to follow again begins anew.
    pub async fn promote(&mut self, region: usize) {
        let Some(tails) = &mut self.tails else { return };
        if tails.below(2) > 0 {
            return;
        }
        self.act(region, Verb::PromoteCopy).await;
        self.begin_anew(region).await;
    }

    /// Sends the tail of a fenced region to the other one and protects that by it again; false where
    /// the tail is to be treated otherwise.
    pub(super) async fn send_tail(&mut self, region: usize, epoch: RegionEpoch) -> bool {
        let Some(tails) = &mut self.tails else { return false };
        let (way, again) = (tails.below(8), tails.below(3));
        match way {
            0 => return false,
            1 | 2 => {
                self.history.lock().pair.close(region);
                let here = self.asked(1 - region, Verb::FailBack { to: region });
                // The one that is fenced knows no way.
                let there = self.asked(region, Verb::FailBack { to: region });
                futures::future::join(here, there).await;
                return true;
            }
            3 => self.replay_twice(region, &epoch).await,
            4 => {
                self.replay_while_protected(region, &epoch).await;
                return true;
            }
            _ => {}
        }
        let mut done = self.replay(region, &epoch).await;
        for _ in 0..again {
            let pause = self.dice_of_tails(600);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            done = self.replay(region, &epoch).await;
        }
        if !done {
            return true;
        }
        self.history.lock().pair.close(region);
        let verb = if way < 6 { Verb::Protect } else { Verb::FailBack { to: region } };
        self.act(1 - region, verb).await;
        true
    }

    fn dice_of_tails(&mut self, below: u64) -> u64 {
        self.tails.as_mut().map_or(0, |tails| tails.below(below))
    }

    /// From two nodes of the region at once, and from one of the other, which has no tail.
    async fn replay_twice(&mut self, region: usize, epoch: &RegionEpoch) {
        let of = |of: usize, at: usize| self.regions.get(of).and_then(|it| it.get(at)).cloned();
        let (one, two, other) = (of(region, 0), of(region, 1), of(1 - region, 0));
        let (Some(one), Some(two), Some(other)) = (one, two, other) else { return };
        let ask = |node, region| self.ask_to_replay(node, region, epoch);
        let here = futures::future::join(ask(one, region), ask(two, region));
        futures::future::join(here, ask(other, 1 - region)).await;
    }

    /// Says that the tail is in a file, and sends it while the side that has it is given the other
    /// one's state.
    async fn replay_while_protected(&mut self, region: usize, epoch: &RegionEpoch) {
        self.history.lock().pair.close(region);
        self.act(region, Verb::SettleTail).await;
        let node = |of: usize| self.regions.get(of).and_then(|nodes| nodes.first()).cloned();
        let (Some(one), Some(other)) = (node(region), node(1 - region)) else { return };
        let replays = futures::future::join(
            self.ask_to_replay(one, region, epoch),
            self.ask_to_replay(other, 1 - region, epoch),
        );
        futures::future::join(replays, self.asked(1 - region, Verb::Protect)).await;
    }

    /// Sends the tail by the first node that comes to its end; whether one did.
    async fn replay(&mut self, region: usize, epoch: &RegionEpoch) -> bool {
        for node in self.nodes(region) {
            if self.ask_to_replay(node, region, epoch).await {
                return true;
            }
        }
        false
    }

    async fn ask_to_replay(&self, mut node: Client, region: usize, epoch: &RegionEpoch) -> bool {
        let (invoked, cluster) = (self.now(), self.cluster(region));
        self.history
            .lock()
            .event(invoked, format_args!("the operator asks for a replay of {cluster:?}"));
        let (mut sent, mut skipped) = (0, Vec::new());
        let parts = replayed(&mut node, &mut sent, &mut skipped);
        let outcome = match tokio::time::timeout(WITHIN, parts).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("it ended before its end".to_owned()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        let (returned, epoch) = (self.now(), epoch.clone());
        let replay = Replay { invoked, returned, cluster, epoch, sent, skipped, outcome };
        let mut history = self.history.lock();
        history.event(returned, format_args!("the operator has {replay:?}"));
        let done = replay.outcome.is_ok();
        history.pair.replays.push(replay);
        done
    }

    /// Lists a tail, and says of which epoch it is.
    pub(super) async fn list_tail(&mut self, region: usize) -> Option<RegionEpoch> {
        for mut node in self.nodes(region) {
            let cluster = self.cluster(region);
            let asked = listed(&mut node, cluster, self.now());
            let Ok(Some(listed)) = tokio::time::timeout(WITHIN, asked).await else {
                let what = format_args!("the operator was not told the tail of {cluster:?}");
                self.history.lock().event(self.now(), what);
                continue;
            };
            let epoch = listed.epoch.clone();
            let mut history = self.history.lock();
            history.event(self.now(), format_args!("the operator lists {listed:?}"));
            history.pair.listed.push(listed);
            return Some(epoch);
        }
        None
    }
}

/// Sends parts to the end; whether that was reached.
async fn replayed(
    node: &mut Client,
    sent: &mut u64,
    skipped: &mut Vec<(String, String)>,
) -> Result<bool, tonic::Status> {
    let request = pb::ReplayTailRequest { who: WHO.to_owned(), all: false };
    let mut parts = node.replay_tail(limited(request, WITHIN)).await?.into_inner();
    let mut done = false;
    while let Some(part) = parts.message().await? {
        *sent += part.sent;
        done |= part.done;
        let why = |it: &pb::SkippedMessage| it.reason().as_str_name().to_owned();
        skipped.extend(part.skipped.iter().map(|it| (it.id.clone(), why(it))));
    }
    Ok(done)
}

/// A tail; `None` when it did not come whole.
async fn listed(node: &mut Client, cluster: Cluster, at: Micros) -> Option<Listed> {
    use pb::list_tail_response::Item;
    let asked = node.list_tail(limited(pb::ListTailRequest::default(), WITHIN)).await;
    let mut answers = asked.ok()?.into_inner();
    let (mut head, mut alive) = (None, Vec::new());
    let (mut deleted, mut removed) = (Vec::new(), Vec::new());
    while let Some(answer) = answers.message().await.ok()? {
        match answer.item? {
            Item::Head(it) => head = Some(it),
            Item::Message(it) => alive.push(Alive {
                tag: tag_of(&it.body),
                expires_at: it.expires_at.as_ref().map(micros),
                id: it.id,
                queue: it.queue,
            }),
            Item::Deleted(it) => {
                deleted.push(Gone { id: it.id, queue: it.queue, is_shared: it.shared });
            }
            Item::Removed(it) => {
                removed.push(Emptied { queue: it.queue, with_queue: it.with_queue });
            }
        }
    }
    let head = head?;
    // The log may have been cut off while it was read.
    let is_whole = head.whole && is_whole(node).await?;
    Some(Listed {
        at,
        cluster,
        is_whole,
        first_number: head.first_number,
        epoch: epoch(head.epoch),
        fenced_by: epoch(head.fenced_by),
        alive,
        deleted,
        removed,
    })
}

/// Whether the log still reaches back to the fork.
async fn is_whole(node: &mut Client) -> Option<bool> {
    let asked = node.list_tail(limited(pb::ListTailRequest::default(), WITHIN)).await;
    match asked.ok()?.into_inner().message().await.ok()??.item? {
        pb::list_tail_response::Item::Head(head) => Some(head.whole),
        _ => None,
    }
}
