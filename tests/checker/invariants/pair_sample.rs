//! Short histories of two regions for the tests of the checks: east is protected by west; what is
//! done one after the other is one tick apart.

use std::sync::Arc;

use zoneq::queue::authority::replay::Replayed;
use zoneq::queue::authority::{Authority, LedgerLine, RegionEpoch, Role};
use zoneq::queue::ids::{Epoch, Number, Position, Span};

use super::sample::{Sample, mark, new, shown};
use crate::history::{
    Act, Alive, Answer, Applied, Call, Cluster, Deleted, Emptied, Gone, History, Listed, LogTime,
    Mark, Micros, Op, Outcome, Replay, Shown, Sighted, Told, Verb,
};

const EAST: Cluster = Cluster { region: 0, generation: 0 };
const WEST: Cluster = Cluster { region: 1, generation: 0 };

pub struct PairSample {
    pub history: History,
    now: Micros,
}

fn epoch(number: u32, region: &str) -> RegionEpoch {
    RegionEpoch { number: Epoch(number), region: region.to_owned() }
}

fn at(index: u64) -> Position {
    Position { term: 1, node: 1, index }
}

fn first() -> LedgerLine {
    LedgerLine { epoch: epoch(1, "east"), previous: None, first: None, next_number: 1 }
}

fn line(number: u32, region: &str, previous: u64, first: u64) -> LedgerLine {
    let (previous, first) = (Some(at(previous)), Some(at(first)));
    LedgerLine { epoch: epoch(number, region), previous, first, next_number: 1 }
}

fn begin(authority: &mut Authority, line: LedgerLine) {
    authority.epoch = line.epoch.clone();
    authority.ledger.push(line);
}

impl PairSample {
    pub fn protected() -> PairSample {
        let mut sample = PairSample { history: History::default(), now: 0 };
        sample.is(EAST, 1, 0, 0, Role::Primary, |_| ());
        sample
    }

    fn tick(&mut self) -> Micros {
        self.now += 10;
        self.now
    }

    fn is(
        &mut self,
        cluster: Cluster,
        index: u64,
        log_time: LogTime,
        digest: u128,
        role: Role,
        change: impl FnOnce(&mut Authority),
    ) {
        let region = if cluster == EAST { "east" } else { "west" }.to_owned();
        let (epoch, ledger) = (epoch(1, "east"), vec![first()]);
        let mut authority = Authority { region, role, epoch, ledger, ..Authority::default() };
        change(&mut authority);
        let (at, node) = (self.tick(), 1 + 3 * cluster.region as u64);
        let (authority, digest) = (Arc::new(authority), Some(digest));
        let sighted = Sighted { at, cluster, node, index, log_time, digest, authority };
        self.history.pair.sighted.push(sighted);
    }

    /// The copy has all to this index, and T is so.
    pub fn copied(&mut self, index: u64, log_time: LogTime) {
        self.copied_as(index, log_time, 0);
    }

    pub fn copied_as(&mut self, index: u64, log_time: LogTime, digest: u128) {
        let through = |it: &mut Authority| it.applied_through = Some(at(index));
        self.is(WEST, index, log_time, digest, Role::Secondary, through);
    }

    /// East has applied this index.
    pub fn applied(&mut self, index: u64, digest: u128) {
        let applied = Applied { cluster: EAST, node: 1, index, term: 1, leader: 1, digest };
        self.history.applied.push(applied);
    }

    /// A tail of east: what is alive in it and what was deleted there, each with its body.
    pub fn lists(&mut self, is_whole: bool, alive: &[(String, u64)], deleted: &[String]) {
        self.listed(&[]);
        let queue = || super::sample::QUEUE.to_owned();
        let gone = |id: &String| Gone { id: id.clone(), queue: queue(), is_shared: false };
        if let Some(listed) = self.history.pair.listed.last_mut() {
            listed.is_whole = is_whole;
            listed.alive = alive.iter().map(|(id, tag)| PairSample::alive(id, *tag)).collect();
            listed.deleted = deleted.iter().map(gone).collect();
        }
    }

    /// East is the primary, and T is so at this index.
    pub fn seen(&mut self, index: u64, log_time: LogTime) {
        self.is(EAST, index, log_time, 0, Role::Primary, |_| ());
    }

    /// East relies on a region lease from this index on.
    pub fn leased(&mut self, index: u64) {
        let relies = |it: &mut Authority| it.leasing.in_force = Some(Span::from_secs(1));
        self.is(EAST, index, 10 * index, 0, Role::Primary, relies);
    }

    /// East gives a message out by a stream, which does not say where that stands in its log.
    pub fn given_by_stream(&mut self, id: &str, at: LogTime) {
        let (queue, messages) =
            (super::sample::QUEUE.to_owned(), vec![shown(id, 1, "r", at + 1, 1)]);
        let call = Call::Receive { queue, max: 1, visibility: 1 };
        self.op(EAST, call, Answer::Received { mark: None, messages, more: false });
    }

    pub fn released(&mut self, index: u64) {
        let role = Role::Released { to: epoch(2, "west"), at: at(index) };
        self.is(EAST, index, 10 * index, 0, role, |_| ());
    }

    /// West goes on from that index of east, by force.
    pub fn promoted(&mut self, index: u64) {
        self.west_is(Role::Standalone, index);
    }

    /// East hands over at that index, and west goes on.
    pub fn handed_to(&mut self, index: u64) {
        self.released(index);
        self.west_is(Role::Primary, index);
    }

    fn west_is(&mut self, role: Role, index: u64) {
        self.is(WEST, 100, 10 * index, 0, role, |it| begin(it, line(2, "west", index, 100)));
    }

    /// East takes back what it handed over at the index before this one, without west.
    pub fn taken_back(&mut self, index: u64) {
        let line = line(3, "east", index - 1, index);
        self.is(EAST, index, 10 * index, 0, Role::Primary, |it| begin(it, line));
    }

    /// After west was promoted, east follows it and is handed to, at this index of its own.
    pub fn handed_back(&mut self, index: u64) {
        self.is(EAST, index - 1, 10 * index, 0, Role::Secondary, |_| ());
        self.is(EAST, index, 10 * index, 0, Role::Primary, |it| {
            begin(it, line(2, "west", 5, 100));
            begin(it, line(3, "east", 110, index));
        });
    }

    pub fn fenced(&mut self, index: u64) {
        let role = Role::Fenced { by: epoch(2, "west"), fork: None, at: at(index) };
        self.is(EAST, index, 10 * index, 0, role, |_| ());
    }

    fn op(&mut self, site: Cluster, call: Call, answer: Answer) {
        let (invoked, returned) = (self.tick(), self.tick());
        let outcome = Outcome::Ok(answer);
        let (client, session, attempts, elsewhere) = (1, None, 1, false);
        let op =
            Op { client, session, attempts, elsewhere, invoked, returned, call, outcome, site };
        self.history.ops.push(op);
    }

    /// East acknowledges a write at this index and T.
    pub fn write(&mut self, index: u64, at: LogTime) {
        self.write_of(EAST, index, at);
    }

    /// The last call was tried before, in the other region, and nobody knows what came of that.
    pub fn tried_elsewhere(&mut self) {
        if let Some(last) = self.history.ops.last_mut() {
            (last.attempts, last.elsewhere) = (2, true);
        }
    }

    pub fn write_of_the_other(&mut self, index: u64, at: LogTime) {
        self.write_of(WEST, index, at);
    }

    fn write_of(&mut self, site: Cluster, index: u64, at: LogTime) {
        let queue = super::sample::QUEUE.to_owned();
        let mark = Mark { index, term: 1, node: 1, at };
        self.op(site, Call::Create { queue }, Answer::Done { mark });
    }

    /// East answers a read that must be the newest.
    pub fn read(&mut self, at: LogTime) {
        self.read_as(false, at);
    }

    /// East answers a read that may be old.
    pub fn read_old(&mut self, at: LogTime) {
        self.read_as(true, at);
    }

    fn read_as(&mut self, stale: bool, at: LogTime) {
        let call = Call::List { account: String::new(), deleted: false, stale };
        self.op(EAST, call, Answer::Listed { at, queues: Vec::new() });
    }

    /// East acknowledges a message, at an index and a T that are the same number.
    pub fn send(&mut self, id: &str, at: u64) {
        let mut sample = Sample::default();
        sample.send_new(super::sample::QUEUE, id, at, new(at));
        let Some(mut op) = sample.history.ops.pop() else { return };
        (op.invoked, op.returned, op.site) = (self.tick(), self.tick(), EAST);
        self.history.ops.push(op);
    }

    /// East gives a message another body.
    pub fn updated(&mut self, id: &str, tag: u64) {
        let (queue, id, receipt) = (super::sample::QUEUE.to_owned(), id.to_owned(), "r".to_owned());
        let call = Call::Update { queue, id, receipt, visibility: None, tag: Some(tag) };
        let (receipt, visible_at) = ("r2".to_owned(), tag);
        self.op(EAST, call, Answer::Updated { mark: mark(tag), receipt, visible_at });
    }

    pub fn given_out_by_the_other(&mut self, id: &str, at: u64) {
        let (queue, messages) = (super::sample::QUEUE.to_owned(), vec![shown(id, 1, "r", at, 1)]);
        let call = Call::Receive { queue, max: 1, visibility: 1 };
        self.op(WEST, call, Answer::Received { mark: Some(mark(at)), messages, more: false });
    }

    /// A last sync time is shown by east.
    pub fn told(&mut self, last_sync: LogTime) {
        self.told_by(EAST, epoch(1, "east"), last_sync);
    }

    /// West shows one of the epoch that it began.
    pub fn told_by_the_other(&mut self, last_sync: LogTime) {
        self.told_by(WEST, epoch(2, "west"), last_sync);
    }

    fn told_by(&mut self, cluster: Cluster, epoch: RegionEpoch, last_sync: LogTime) {
        let (invoked, returned) = (self.tick(), self.tick());
        let peer = if cluster == EAST { "west" } else { "east" }.to_owned();
        let told = Told {
            invoked,
            returned,
            cluster,
            role: "primary".to_owned(),
            epoch,
            last_sync: Some(last_sync),
            is_live: true,
            trouble: String::new(),
            is_complete: false,
            peer,
        };
        self.history.pair.told.push(told);
    }

    /// The tail of east has these, with the bodies that they were sent with.
    pub fn listed(&mut self, ids: &[&str]) {
        self.listed_with(ids, Vec::new(), Vec::new());
    }

    pub fn listed_with(&mut self, ids: &[&str], deleted: Vec<Gone>, removed: Vec<Emptied>) {
        let listed = Listed {
            at: self.tick(),
            cluster: EAST,
            epoch: epoch(1, "east"),
            fenced_by: epoch(2, "west"),
            is_whole: true,
            first_number: 6,
            alive: ids.iter().map(|id| PairSample::alive(id, self.tag_of(id))).collect(),
            deleted,
            removed,
        };
        self.history.pair.listed.push(listed);
    }

    pub fn alive(id: &str, tag: u64) -> Alive {
        let (id, queue) = (id.to_owned(), super::sample::QUEUE.to_owned());
        Alive { id, queue, tag: Some(tag), expires_at: None }
    }

    fn tag_of(&self, id: &str) -> u64 {
        let sent = self.history.ops.iter().find_map(|op| match &op.outcome {
            Outcome::Ok(Answer::Sent { messages, .. }) if messages[0].id == id => {
                op.call.sends().next().map(|(_, new)| new.tag)
            }
            _ => None,
        });
        sent.unwrap_or_default()
    }

    /// West has taken the tail of east, to its end, at this index; T is 2 behind it from the state
    /// before on.
    pub fn replayed(&mut self, index: u64, sent: u64) {
        let mut of_west = self.history.pair.sighted.iter().filter(|it| it.cluster == WEST);
        let before =
            of_west.next_back().map(|it| it.authority.replayed.clone()).unwrap_or_default();
        let (through, skipped, done) = (Number(9), 0, true);
        let now = Replayed { epoch: epoch(1, "east"), through, sent, skipped, done };
        for (index, replayed) in [(index - 2, before), (index, vec![now])] {
            self.is(WEST, index, index, 0, Role::Standalone, |it| {
                begin(it, line(2, "west", 5, 100));
                it.replayed = replayed;
            });
        }
    }

    /// A replay of the tail of east told that it did not send these.
    pub fn replay_told(&mut self, skipped: &[&str]) {
        let (invoked, returned) = (self.tick(), self.tick());
        let skipped = skipped.iter().map(|id| ((*id).to_owned(), "why".to_owned())).collect();
        let (cluster, epoch, outcome) = (EAST, epoch(1, "east"), Ok(()));
        let replay = Replay { invoked, returned, cluster, epoch, sent: 0, skipped, outcome };
        self.history.pair.replays.push(replay);
    }

    /// East acknowledges a delete, at an index and a T that are the same number.
    pub fn delete(&mut self, id: &str, at: u64) {
        let queue = super::sample::QUEUE.to_owned();
        let call = Call::Delete { queue, items: vec![(id.to_owned(), "r".to_owned())] };
        let outcomes = vec![Deleted::Done];
        self.op(EAST, call, Answer::Deleted { mark: mark(at), outcomes });
    }

    /// East clears the queue.
    pub fn clear(&mut self, at: u64) {
        self.clear_of(EAST, at);
    }

    pub fn clear_of_the_other(&mut self, at: u64) {
        self.clear_of(WEST, at);
    }

    fn clear_of(&mut self, site: Cluster, at: u64) {
        let queue = super::sample::QUEUE.to_owned();
        self.op(site, Call::Clear { queue }, Answer::Cleared { mark: mark(at), removed: 0 });
    }

    /// West gives a message out that has this body and came with the replay at 200.
    pub fn given_again(&mut self, id: &str, tag: u64, at: u64) {
        self.given_by_the_other(Shown { inserted_at: 200, ..shown(id, tag, "r", at + 1, 1) }, at);
    }

    /// West gives a message out that says that it was a dead letter before.
    pub fn given_redriven(&mut self, id: &str, was: &str, tag: u64, inserted_at: u64) {
        let message = Sample::redriven(was, inserted_at, shown(id, tag, "r", 231, 1));
        self.given_by_the_other(message, 230);
    }

    fn given_by_the_other(&mut self, message: Shown, at: u64) {
        let (queue, messages) = (super::sample::QUEUE.to_owned(), vec![message]);
        let call = Call::Receive { queue, max: 1, visibility: 1 };
        self.op(WEST, call, Answer::Received { mark: Some(mark(at)), messages, more: false });
    }

    pub fn begins_anew(&mut self) {
        self.act(Verb::BeginAnew);
    }

    pub fn wipes_copy(&mut self) {
        self.act(Verb::Wipe);
    }

    pub fn promotes_copy(&mut self) {
        self.act(Verb::PromoteCopy);
    }

    /// An operator promotes the other side by force.
    pub fn forces(&mut self) {
        self.act(Verb::Force { accept_incomplete: false });
    }

    /// What is told behind the sentence of the first case of a promise.
    pub fn told_of(&self, promise: &str) -> Vec<String> {
        let broken = super::broken(&self.history);
        let case = broken.into_iter().find(|(name, _)| *name == promise).map(|(_, case)| case);
        let lines = case.unwrap_or_default();
        lines.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }

    fn act(&mut self, verb: Verb) {
        let at = self.tick();
        let (cluster, outcome) = (EAST, Ok(()));
        self.history.pair.acts.push(Act { invoked: at, returned: at, cluster, verb, outcome });
    }

    /// East is asked to delete a queue, and nobody knows what came of that.
    pub fn unknown_deletion_of_queue(&mut self, queue: &str) {
        let queue = queue.to_owned();
        self.op(EAST, Call::DeleteQueue { queue }, Answer::Done { mark: mark(7) });
        if let Some(last) = self.history.ops.last_mut() {
            last.outcome = Outcome::Unknown("no answer".to_owned());
        }
    }

    /// East is asked to delete a message, and nobody knows what came of that.
    pub fn asked_to_delete(&mut self, id: &str) {
        self.delete(id, 7);
        if let Some(last) = self.history.ops.last_mut() {
            last.outcome = Outcome::Unknown("no answer".to_owned());
        }
    }
}
