//! Random runs of two regions: batches and news are lost, doubled, late and overlapping, leaders
//! change, and failovers are begun, taken back, declined and ended in any order.

use proptest::prelude::*;

use super::pair::{ATTACHMENT, Side, protected, region};
use super::random::{Player, Sent, entry};
use super::stage::{create, plain, secs};
use crate::queue::authority::RegionEpoch;
use crate::queue::authority::Role;
use crate::queue::authority::command::{RegionReply, RegionVerb, ShippedBatch};
use crate::queue::authority::plan::CopyEnd;
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::command::Envelope;
use crate::queue::ids::{Epoch, LogTime, Position};

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
    Release {
        west: bool,
        old_seal: bool,
    },
    Decline {
        west: bool,
        ahead: u32,
    },
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
        6 => (side(), prop::bool::weighted(0.2))
            .prop_map(|(west, old_seal)| Step::Release { west, old_seal }),
        1 => (side(), 1..3_u32).prop_map(|(west, ahead)| Step::Decline { west, ahead }),
    ]
    .boxed()
}

#[derive(Clone, Debug)]
enum Travels {
    Batch(ShippedBatch),
    Applied { epoch: Epoch, through: Position },
    Declined(Epoch),
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
            Step::Release { west, old_seal } => self.release(usize::from(*west), *old_seal),
            Step::Decline { west, ahead } => {
                let side = usize::from(*west);
                let epoch = self.sides[side].stage.state.epoch();
                let number = Epoch(epoch.0 + ahead);
                if self.sides[side].region(RegionVerb::Decline { number }).is_ok() {
                    self.line.push((1 - side, Travels::Declined(number)));
                }
            }
        }
        for (side, ends) in self.sides.iter().zip(&mut self.ends) {
            let end = side.copy_end();
            if ends.last() != Some(&end) {
                ends.push(end);
            }
        }
        let writable = self.sides.iter().filter(|side| side.stage.state.is_writable()).count();
        assert!(writable <= 1, "two sides are writable after {step:?}");
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
        for (envelope, outcome) in commands.iter().zip(&applied.outcomes) {
            self.player.remember(&envelope.command, outcome);
        }
    }

    fn ship(&mut self, to: usize, most: usize, ago: usize) {
        let ends = &self.ends[to];
        let copy = &ends[ends.len().saturating_sub(ago + 1)];
        if let Ok(Some(batch)) = self.sides[1 - to].batch(copy, most) {
            self.line.push((to, Travels::Batch(batch)));
        }
    }

    fn arrive(&mut self, to: usize, what: Travels) {
        match what {
            Travels::Batch(batch) => self.apply(to, batch),
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
                self.line.push((1 - to, Travels::Applied { epoch, through }));
            }
            Ok(other) => panic!("shipped entries are answered so: {other:?}"),
            Err(RegionRefusal::Diverged { expected, found }) => {
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
        let _ = self.sides[at].region(RegionVerb::Release { to, seal });
    }

    /// Whoever may ship does, until the other side has everything.
    fn heal(&mut self) {
        for _ in 0..1_000 {
            let mut moved = false;
            for to in 0..2 {
                let copy = self.sides[to].copy_end();
                if let Ok(Some(batch)) = self.sides[1 - to].batch(&copy, 100) {
                    moved |= self.sides[to].apply_batch(batch).is_ok();
                }
            }
            if !moved {
                return;
            }
        }
        panic!("shipping does not come to an end");
    }
}

fn play(steps: &[Step]) -> usize {
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
    assert_eq!(east.stage.state.digest(), west.stage.state.digest(), "equal after healing");
    for side in &world.sides {
        side.stage.check();
        assert!(!matches!(side.role(), Role::Fenced { .. } | Role::Conflict { .. }));
    }
    world.promotions
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::with_cases(600) })]
    #[test]
    fn regions_agree_at_equal_positions_and_never_both_write(
        steps in prop::collection::vec(step(), 1..150),
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
    let promotions: usize =
        (0..50).map(|_| play(&steps.new_tree(&mut runner).expect("steps").current())).sum();
    assert!(promotions > 20, "only {promotions} failovers in 50 runs");
}
