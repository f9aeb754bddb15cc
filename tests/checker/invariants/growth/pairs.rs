//! Histories of two regions of which epochs, looks, tails and calls grow together.
//!
//! Law: a ledger and what was replayed are told once, by the newest state: who tells them with each
//! state tells a history that is longer than it looks.

use std::sync::Arc;

use zoneq::queue::authority::replay::Replayed;
use zoneq::queue::authority::{Authority, LedgerLine, RegionEpoch, Role};
use zoneq::queue::ids::{Epoch, Number, Position, Span};

use super::super::sample::{QUEUE, Sample, mark, new, shown};
use crate::history::{
    Act, Answer, Call, Cluster, Emptied, Ending, History, Listed, LogTime, Micros, Op, Outcome,
    REGIONS, Replay, Sighted, Standing, Told, Verb,
};
use crate::invariants::pair_sample::PairSample;

/// Two regions that take turns; what is done one after the other is one tick apart.
#[derive(Default)]
pub struct Turns {
    pub history: History,
    now: Micros,
}

fn epoch(number: u64) -> RegionEpoch {
    let region = REGIONS[(number % 2) as usize].to_owned();
    RegionEpoch { number: Epoch(number as u32), region }
}

fn writer(number: u64) -> Cluster {
    Cluster { region: (number % 2) as usize, generation: 0 }
}

/// Where an epoch begins, in the log of its own region.
fn first(number: u64) -> u64 {
    10 * number
}

/// The last entry of an epoch that the next one knows of.
fn last(number: u64) -> u64 {
    first(number) + 5
}

fn place(index: u64) -> Position {
    Position { term: 1, node: 1, index }
}

fn ledger(epochs: u64) -> Vec<LedgerLine> {
    let line = |number: u64| {
        let joins = number > 1;
        let (previous, first) = (place(last(number - 1)), place(first(number)));
        let (previous, first) = (joins.then_some(previous), joins.then_some(first));
        LedgerLine { epoch: epoch(number), previous, first, next_number: 1 }
    };
    (1..=epochs).map(line).collect()
}

impl Turns {
    fn tick(&mut self) -> Micros {
        self.now += 10;
        self.now
    }

    fn is(&mut self, cluster: Cluster, index: u64, authority: Authority) {
        let (at, authority) = (self.tick(), Arc::new(authority));
        let seen =
            Sighted { at, cluster, node: 1, index, log_time: index, digest: None, authority };
        self.history.pair.sighted.push(seen);
    }

    /// A primary that relies on a lease is seen at this index of its epoch.
    fn leads(&mut self, number: u64, index: u64) {
        let mut authority =
            Authority { role: Role::Primary, epoch: epoch(number), ..Authority::default() };
        authority.leasing.in_force = Some(Span::from_secs(1));
        self.is(writer(number), index, authority);
    }

    /// The other region has all to this index of an epoch.
    fn copied(&mut self, number: u64, index: u64) {
        let (role, applied_through) = (Role::Secondary, Some(place(index)));
        let authority =
            Authority { role, epoch: epoch(number), applied_through, ..Authority::default() };
        self.is(writer(number + 1), first(number) - 1, authority);
    }

    fn call(&mut self, site: Cluster, mut op: Op) {
        (op.invoked, op.returned, op.site) = (self.tick(), self.tick(), site);
        self.history.ops.push(op);
    }

    fn done(&mut self, site: Cluster, call: Call, answer: Answer) {
        let mut sample = Sample::default();
        sample.add(1, 1, call, Outcome::Ok(answer));
        self.call(site, sample.history.ops.pop().expect("a call"));
    }

    fn sends(&mut self, site: Cluster, queue: &str, id: &str, at: LogTime) {
        let mut sample = Sample::default();
        sample.send_new(queue, id, at, new(at));
        self.call(site, sample.history.ops.pop().expect("a send"));
    }

    fn reads(&mut self, site: Cluster, at: LogTime) {
        let call = Call::List { account: String::new(), deleted: false, stale: true };
        self.done(site, call, Answer::Listed { at, queues: Vec::new() });
    }

    fn told(&mut self, number: u64, last_sync: LogTime) {
        let told = Told {
            invoked: self.tick(),
            returned: self.tick(),
            cluster: writer(number),
            role: "primary".to_owned(),
            epoch: epoch(number),
            last_sync: Some(last_sync),
            is_live: true,
            trouble: String::new(),
            is_complete: false,
            peer: String::new(),
        };
        self.history.pair.told.push(told);
    }

    fn lists(&mut self, number: u64, ids: &[(String, LogTime)], removed: Vec<Emptied>) {
        let listed = Listed {
            at: self.tick(),
            cluster: writer(number),
            epoch: epoch(number),
            fenced_by: epoch(number + 1),
            is_whole: true,
            first_number: 1,
            alive: ids.iter().map(|(id, tag)| PairSample::alive(id, *tag)).collect(),
            deleted: Vec::new(),
            removed,
        };
        self.history.pair.listed.push(listed);
    }

    /// The newest state tells of all epochs and of all that was replayed.
    fn ended(mut self, epochs: u64, replayed: Vec<Replayed>) -> History {
        let (role, epoch, ledger) = (Role::Primary, epoch(epochs), ledger(epochs));
        let authority = Authority { role, epoch, ledger, replayed, ..Authority::default() };
        self.is(writer(epochs), first(epochs) + 1, authority);
        let (converged, served, steady, paired) = (true, true, true, true);
        self.history.ending = Ending { converged, served, steady, paired, ..Ending::default() };
        self.history
    }
}

/// Each region hands over to the other, again and again.
pub fn handed_over(rounds: u64) -> History {
    let mut turns = Turns::default();
    for number in 1..=rounds {
        let cluster = writer(number);
        turns.leads(number, first(number));
        turns.sends(cluster, QUEUE, &format!("m{number}"), first(number) + 1);
        turns.copied(number, first(number) + 1);
        turns.told(number, first(number) + 1);
        let role = Role::Released { to: epoch(number + 1), at: place(last(number)) };
        let released = Authority { role, epoch: epoch(number), ..Authority::default() };
        turns.is(cluster, last(number), released);
    }
    turns.leads(rounds + 1, first(rounds + 1));
    turns.ended(rounds + 1, Vec::new())
}

/// Each region is promoted by force in its turn; the other lists what it has alone, which is sent
/// again at the end.
pub fn forced(rounds: u64) -> History {
    let mut turns = Turns::default();
    turns.leads(1, first(1));
    for number in 1..=rounds {
        let (cluster, id) = (writer(number), format!("m{number}"));
        turns.sends(cluster, QUEUE, &format!("k{number}"), first(number) + 1);
        turns.copied(number, first(number) + 1);
        turns.told(number, first(number) + 1);
        let alone = last(number) + 2;
        turns.sends(cluster, QUEUE, &id, alone);
        turns.leads(number, alone);
        turns.leads(number + 1, first(number + 1));
        turns.reads(cluster, alone);
        let role = Role::Fenced { by: epoch(number + 1), fork: None, at: place(alone + 1) };
        let fenced = Authority { role, epoch: epoch(number), ..Authority::default() };
        turns.is(cluster, alone + 1, fenced);
        turns.lists(number, &[(id, alone)], Vec::new());
        let (invoked, returned, epoch) = (turns.tick(), turns.tick(), epoch(number));
        let (sent, skipped, outcome) = (1, Vec::new(), Ok(()));
        let replay = Replay { invoked, returned, cluster, epoch, sent, skipped, outcome };
        turns.history.pair.replays.push(replay);
    }
    let (through, sent, skipped, done) = (Number(9), 1, 0, true);
    let replayed =
        (1..=rounds).map(|number| Replayed { epoch: epoch(number), through, sent, skipped, done });
    turns.ended(rounds + 1, replayed.collect())
}

/// One tail is listed again and again: of what was called there all is told, and shown there.
pub fn listed_again(rounds: u64) -> History {
    let (mut turns, east) = (Turns::default(), writer(1));
    turns.leads(1, first(1));
    let from = last(1) + 2;
    turns.sends(east, QUEUE, "m", from);
    for round in 0..rounds {
        let at = from + 1 + 4 * round;
        turns.sends(east, "gamma", &format!("g{round}"), at);
        let queue = "beta".to_owned();
        turns.done(east, Call::Clear { queue }, Answer::Cleared { mark: mark(at + 1), removed: 0 });
        let queue = QUEUE.to_owned();
        let call = Call::Peek { queue, standing: Standing::Visible, stale: false };
        let message = crate::history::Shown { inserted_at: from, ..shown("m", from, "", from, 0) };
        turns.done(east, call, Answer::Seen { at: at + 2, messages: vec![message] });
    }
    let end = from + 4 * rounds + 5;
    turns.leads(2, first(2));
    let role = Role::Fenced { by: epoch(2), fork: None, at: place(end) };
    turns.is(east, end, Authority { role, epoch: epoch(1), ..Authority::default() });
    for _ in 0..rounds {
        let removed = vec![Emptied { queue: "beta".to_owned(), with_queue: false }];
        turns.lists(1, &[("m".to_owned(), from)], removed);
        let (invoked, returned, cluster) = (turns.tick(), turns.tick(), east);
        let (verb, outcome) = (Verb::BeginAnew, Ok(()));
        turns.history.pair.acts.push(Act { invoked, returned, cluster, verb, outcome });
    }
    turns.ended(2, Vec::new())
}
