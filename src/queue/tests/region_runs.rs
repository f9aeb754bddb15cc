//! Random runs of two regions: batches and news are lost, doubled, late and overlapping, leaders
//! change, and failovers are begun, taken back, declined, forced, fenced and resolved in any order.
//!
//! What is held against them: a copy equals its primary at its position (G2), T and all (G1); as
//! long as nothing is forced there is never a second writable side (G3); a side that was promoted
//! by force begins with a state its primary had, so what is lost is a suffix (G4); who saw a
//! higher epoch acknowledges nothing (G5); all that a deposed side acknowledged alone is where its
//! fork says that its tail is (G6).

use proptest::prelude::*;

use super::pair::{ATTACHMENT, Side, protected, region};
use super::random::{Player, Sent, entry};
use super::stage::{create, plain, secs};
use crate::queue::authority::command::{RegionReply, RegionVerb, ShippedBatch};
use crate::queue::authority::plan::CopyEnd;
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{LedgerLine, RegionEpoch, Role};
use crate::queue::command::Envelope;
use crate::queue::ids::{Epoch, LogTime, MessageId, Position};
use crate::queue::outcome::Reply;

#[derive(Clone, Debug)]
enum Step {
    /// Clients write to a side; perhaps with the epoch of a while ago.
    Write {
        west: bool,
        wait: u64,
        sent: Vec<Sent>,
        stale: bool,
    },
    Elect {
        west: bool,
    },
    /// A shipper reads from where the copy is said to end: now, or at an earlier time.
    Ship {
        to_west: bool,
        most: usize,
        ago: usize,
    },
    /// Of what travels, one arrives; perhaps it stays to arrive again.
    Arrive {
        pick: usize,
        again: bool,
    },
    Lose {
        pick: usize,
    },
    Seal {
        west: bool,
    },
    Unseal {
        west: bool,
    },
    /// A side hands over, perhaps by an old seal, perhaps once all before it has arrived.
    Release {
        west: bool,
        old_seal: bool,
        drained: bool,
    },
    Decline {
        west: bool,
        ahead: u32,
    },
    Promote {
        west: bool,
        ahead: u32,
        accepted: bool,
    },
    TakeBack {
        west: bool,
        ahead: u32,
    },
    /// A side tells the other its epochs.
    Tell {
        west: bool,
    },
    Resolve {
        west: bool,
        keep_west: bool,
    },
}

/// Steps by which something may be lost, among them.
fn any_step() -> BoxedStrategy<Step> {
    let side = any::<bool>;
    prop_oneof![
        44 => step(),
        1 => (side(), 0..2_u32, any::<bool>())
            .prop_map(|(west, ahead, accepted)| Step::Promote { west, ahead, accepted }),
        2 => (side(), 0..2_u32).prop_map(|(west, ahead)| Step::TakeBack { west, ahead }),
        2 => side().prop_map(|west| Step::Tell { west }),
        1 => (side(), side()).prop_map(|(west, keep_west)| Step::Resolve { west, keep_west }),
    ]
    .boxed()
}

fn step() -> BoxedStrategy<Step> {
    let side = any::<bool>;
    let entry = || entry().boxed();
    prop_oneof![
        8 => (side(), 0..3_u64, entry(), prop::bool::weighted(0.1))
            .prop_map(|(west, wait, (_, sent), stale)| Step::Write { west, wait, sent, stale }),
        2 => side().prop_map(|west| Step::Elect { west }),
        9 => (side(), 1..6_usize, prop_oneof![3 => Just(0_usize), 1 => 1..4_usize])
            .prop_map(|(to_west, most, ago)| Step::Ship { to_west, most, ago }),
        12 => (0..50_usize, prop::bool::weighted(0.3))
            .prop_map(|(pick, again)| Step::Arrive { pick, again }),
        1 => (0..50_usize).prop_map(|pick| Step::Lose { pick }),
        3 => side().prop_map(|west| Step::Seal { west }),
        1 => side().prop_map(|west| Step::Unseal { west }),
        6 => (side(), prop::bool::weighted(0.2), side()).prop_map(|(west, old_seal, drained)| {
            Step::Release { west, old_seal, drained }
        }),
        1 => (side(), 1..3_u32).prop_map(|(west, ahead)| Step::Decline { west, ahead }),
    ]
    .boxed()
}

#[derive(Clone, Debug)]
enum Travels {
    Batch(Box<ShippedBatch>),
    Applied { epoch: Epoch, through: Position },
    Declined(Epoch),
    Ledger(Vec<LedgerLine>),
}

struct World {
    sides: [Side; 2],
    player: Player,
    /// What travels, with the side it goes to.
    line: Vec<(usize, Travels)>,
    /// Where each side's copy ended, over time.
    ends: [Vec<CopyEnd>; 2],
    seals: [Vec<Position>; 2],
    promotions: usize,
    /// Something was forced.
    forced: bool,
    /// What each side acknowledged: where in its own log, and which message.
    acknowledged: [Vec<(Position, MessageId)>; 2],
}

impl World {
    fn new() -> World {
        let (east, west) = protected();
        let ends = [vec![east.copy_end()], vec![west.copy_end()]];
        World {
            sides: [east, west],
            player: Player::default(),
            line: Vec::new(),
            ends,
            seals: [Vec::new(), Vec::new()],
            promotions: 0,
            forced: false,
            acknowledged: [Vec::new(), Vec::new()],
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write { west, wait, sent, stale } => {
                self.write(usize::from(*west), *wait, sent, *stale);
            }
            Step::Elect { west } => self.sides[usize::from(*west)].elect(),
            Step::Ship { to_west, most, ago } => self.ship(usize::from(*to_west), *most, *ago),
            Step::Arrive { pick, again } if !self.line.is_empty() => {
                let at = pick % self.line.len();
                let (to, what) = self.line[at].clone();
                if !again {
                    self.line.remove(at);
                }
                self.arrive(to, what);
            }
            Step::Lose { pick } if !self.line.is_empty() => {
                self.line.remove(pick % self.line.len());
            }
            Step::Arrive { .. } | Step::Lose { .. } => {}
            Step::Seal { west } => {
                let side = usize::from(*west);
                if let Ok(RegionReply::At(at)) = self.sides[side].region(RegionVerb::Seal) {
                    self.seals[side].push(at);
                }
            }
            Step::Unseal { west } => {
                let _ = self.sides[usize::from(*west)].region(RegionVerb::Unseal);
            }
            Step::Release { west, old_seal, drained } => {
                let side = usize::from(*west);
                if *drained {
                    self.ship_all(1 - side);
                }
                self.release(side, *old_seal);
            }
            Step::Decline { west, ahead } => {
                let side = usize::from(*west);
                let epoch = self.sides[side].stage.state.epoch();
                let number = Epoch(epoch.0 + ahead);
                if self.sides[side].region(RegionVerb::Decline { number }).is_ok() {
                    self.line.push((1 - side, Travels::Declined(number)));
                }
            }
            Step::Promote { west, ahead, accepted } => {
                self.promote(usize::from(*west), *ahead, *accepted);
            }
            Step::TakeBack { west, ahead } => {
                let side = &mut self.sides[usize::from(*west)];
                let number = next_number(side, *ahead);
                self.forced |= side.region(RegionVerb::TakeBack { number }).is_ok();
            }
            Step::Tell { west } => {
                let from = usize::from(*west);
                let ledger = ledger(&self.sides[from]);
                self.line.push((1 - from, Travels::Ledger(ledger)));
            }
            Step::Resolve { west, keep_west } => {
                self.resolve(usize::from(*west), usize::from(*keep_west), 0);
            }
        }
        for (side, ends) in self.sides.iter().zip(&mut self.ends) {
            let end = side.copy_end();
            if ends.last() != Some(&end) {
                ends.push(end);
            }
        }
        assert!(self.forced || self.writable() <= 1, "two sides are writable after {step:?}");
    }

    fn writable(&self) -> usize {
        self.sides.iter().filter(|side| side.stage.state.is_writable()).count()
    }

    /// What is promoted by force has a state that its primary had (G4).
    fn promote(&mut self, at: usize, ahead: u32, accepted: bool) {
        let side = &mut self.sides[at];
        let before = side.stage.state.digest();
        let end = side.copy_end().through;
        let number = next_number(side, ahead);
        if side.region(RegionVerb::Promote { number, accepted, stopped: None, loss: None }).is_err()
        {
            return;
        }
        assert_eq!(ledger(side).last().and_then(|line| line.previous), end);
        let had = end.map(|end| self.sides[1 - at].digests[end.index as usize]);
        assert!(had.is_none_or(|had| had == before), "not a state the primary had");
        self.forced = true;
    }

    fn resolve(&mut self, at: usize, keep: usize, ahead: u32) {
        let keep = self.sides[keep].region.to_owned();
        let number = next_number(&self.sides[at], ahead);
        let _ = self.sides[at].region(RegionVerb::Resolve { keep, number });
    }

    fn tell(&mut self, to: usize, ledger: Vec<LedgerLine>) {
        let lineage = super::pair::LINEAGE;
        let highest = ledger.last().map(|line| line.epoch.clone()).expect("a line");
        let side = &mut self.sides[to];
        let before = side.stage.state.digest();
        let own = side.stage.state.authority().expect("in a pair").epoch.clone();
        let told = side.region(RegionVerb::Fence { lineage, ledger });
        assert_eq!(side.stage.state.digest(), before, "news changed the data");
        if told.is_ok() && highest.number > own.number {
            assert!(!side.stage.state.is_writable(), "it writes on at {own:?} beside {highest:?}");
        }
    }

    /// All that a deposed side acknowledged alone is beyond its fork, and nothing else (G6).
    fn check_tail(&self, at: usize) {
        let Role::Fenced { fork: Some(fork), .. } = self.sides[at].role() else { return };
        for (position, id) in &self.acknowledged[at] {
            let alone = fork.after.is_none_or(|after| position.index > after.index);
            assert_eq!(alone, id.number.0 >= fork.next_number, "{id} of {position}, {fork:?}");
        }
    }

    fn write(&mut self, at: usize, wait: u64, sent: &[Sent], stale: bool) {
        let side = &mut self.sides[at];
        let stamp = LogTime(side.stage.state.log_time().0 + secs(wait).0);
        let commands: Vec<Envelope> = sent.iter().map(|sent| self.player.envelope(sent)).collect();
        let epoch = Epoch(side.stage.state.epoch().0 - u32::from(stale));
        let (before, writable) = (side.stage.state.digest(), side.stage.state.is_writable());
        let applied = side.commit_at(epoch, stamp, commands.clone());
        if !writable || stale {
            assert!(applied.outcomes.iter().all(Result::is_err), "{:?}", applied.outcomes);
            assert_eq!(side.stage.state.digest(), before, "refused data changed the state");
        }
        let position = side.log.last().expect("just committed").0;
        for (envelope, outcome) in commands.iter().zip(&applied.outcomes) {
            self.player.remember(&envelope.command, outcome);
            if let (None, Ok(Reply::Sent(sent))) = (&envelope.session, outcome) {
                let new = sent.iter().filter(|it| !it.duplicate);
                self.acknowledged[at].extend(new.map(|it| (position, it.id)));
            }
        }
    }

    fn ship(&mut self, to: usize, most: usize, ago: usize) {
        let ends = &self.ends[to];
        let copy = &ends[ends.len().saturating_sub(ago + 1)];
        if let Ok(Some(batch)) = self.sides[1 - to].batch(copy, most) {
            self.line.push((to, Travels::Batch(Box::new(batch))));
        }
    }

    fn arrive(&mut self, to: usize, what: Travels) {
        match what {
            Travels::Batch(batch) => self.apply(to, *batch),
            Travels::Applied { epoch, through } => {
                let verb =
                    RegionVerb::RecordShipped { attachment: ATTACHMENT, epoch, position: through };
                let side = &mut self.sides[to];
                let stamp = side.stage.state.log_time();
                // It rides behind a client's command, where there is one.
                side.commit(stamp, vec![plain(create("queue-a")), region(verb)]);
            }
            Travels::Declined(number) => {
                let _ = self.sides[to].region(RegionVerb::Declined { number });
            }
            Travels::Ledger(ledger) => self.tell(to, ledger),
        }
    }

    fn apply(&mut self, to: usize, batch: ShippedBatch) {
        let before = self.sides[to].stage.state.digest();
        let epoch = batch.line.epoch.number;
        match self.sides[to].apply_batch(batch) {
            Ok(RegionReply::Shipped { through, promoted }) => {
                self.promotions += usize::from(promoted);
                let theirs = self.sides[1 - to].digests[through.index as usize];
                assert_eq!(self.sides[to].stage.state.digest(), theirs, "equal at {through}");
                assert_eq!(self.sides[1 - to].log[through.index as usize].0, through);
                self.line.push((1 - to, Travels::Applied { epoch, through }));
            }
            Ok(other) => panic!("shipped entries are answered so: {other:?}"),
            Err(RegionRefusal::Diverged { expected, found }) if !self.forced => {
                panic!("planned failovers part no histories: {expected:?} {found:?}")
            }
            Err(_) => assert_eq!(self.sides[to].stage.state.digest(), before),
        }
    }

    fn release(&mut self, at: usize, old_seal: bool) {
        let peer = self.sides[1 - at].region.to_owned();
        let seals = &self.seals[at];
        let seal = if old_seal { seals.first() } else { seals.last() };
        let Some(seal) = seal.copied() else { return };
        let number = self.sides[at].stage.state.authority().expect("in a pair").next_number();
        let to = RegionEpoch { number, region: peer };
        let acknowledged = self.sides[1 - at].copy_end();
        // The leader asks the other side where it is, in this epoch.
        let own = self.sides[at].stage.state.authority().expect("in a pair").epoch.clone();
        let Some(acknowledged) = acknowledged.through.filter(|_| acknowledged.epoch == own) else {
            return;
        };
        let _ = self.sides[at].region(RegionVerb::Release { to, seal, acknowledged });
    }

    /// Each hears of the other's epochs, conflicts are decided, and whoever may ship does, until
    /// the other side has everything.
    fn heal(&mut self) {
        for _ in 0..3 {
            for to in 0..2 {
                let ledger = ledger(&self.sides[1 - to]);
                self.tell(to, ledger);
            }
            let numbers = [0, 1].map(|at| next_number(&self.sides[at], 0).0);
            for (at, own) in numbers.iter().enumerate() {
                // Both are told the same number.
                let number = Epoch(numbers[0].max(numbers[1]));
                assert!(number.0 >= *own);
                let keep = "east".to_owned();
                let _ = self.sides[at].region(RegionVerb::Resolve { keep, number });
            }
        }
        assert!(self.writable() <= 1, "both write when each knows of the other");
        while self.ship_all(0) | self.ship_all(1) {}
    }

    /// Ships to a side until it has all there is; answers whether there was anything.
    fn ship_all(&mut self, to: usize) -> bool {
        for batches in 0..1_000 {
            let copy = self.sides[to].copy_end();
            let Ok(Some(batch)) = self.sides[1 - to].batch(&copy, 100) else { return batches > 0 };
            if self.sides[to].apply_batch(batch).is_err() {
                return batches > 0;
            }
        }
        panic!("shipping does not come to an end");
    }
}

/// Answers how many planned failovers there were, and whether a side was fenced in the end.
fn play(steps: &[Step]) -> (usize, usize) {
    let mut world = World::new();
    for (turn, step) in steps.iter().enumerate() {
        world.run(step);
        if turn % 9 == 8 {
            for side in &mut world.sides {
                side.stage.check();
                side.stage.state = side.stage.reload();
            }
        }
    }
    world.heal();
    let [east, west] = &world.sides;
    let fenced = [east, west].iter().any(|side| matches!(side.role(), Role::Fenced { .. }));
    let alone = [east, west].iter().any(|side| matches!(side.role(), Role::Standalone));
    assert!(world.forced || !(fenced || alone), "nothing was forced");
    if !(fenced || alone) {
        assert_eq!(east.stage.state.digest(), west.stage.state.digest(), "equal after healing");
    }
    for at in 0..2 {
        world.sides[at].stage.check();
        world.check_tail(at);
        assert!(!matches!(world.sides[at].role(), Role::Conflict { .. }));
    }
    (world.promotions, usize::from(fenced))
}

fn next_number(side: &Side, ahead: u32) -> Epoch {
    Epoch(side.stage.state.authority().expect("in a pair").next_number().0 + ahead)
}

fn ledger(side: &Side) -> Vec<LedgerLine> {
    side.stage.state.authority().expect("in a pair").ledger.clone()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::with_cases(600) })]
    #[test]
    fn regions_agree_at_equal_positions_and_never_both_write(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        play(&steps);
    }

    #[test]
    fn what_is_forced_parts_histories_where_the_ledgers_say(
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        play(&steps);
    }
}

/// Random runs must meet what they are to prove.
#[test]
fn random_runs_do_fail_over() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 400);
    let planned: usize =
        (0..50).map(|_| play(&steps.new_tree(&mut runner).expect("steps").current()).0).sum();
    assert!(planned > 20, "only {planned} failovers in 50 runs");
    let steps = prop::collection::vec(any_step(), 150);
    let fenced: usize =
        (0..50).map(|_| play(&steps.new_tree(&mut runner).expect("steps").current()).1).sum();
    assert!(fenced > 20, "only {fenced} fenced sides in 50 runs");
}
