//! The operator at work on a simulated pair of regions: hands over, promotes by force, takes back,
//! unprotects and protects again, by its dice.
//!
//! In one seed of four the line between the regions is shaped as well, and reads are on at the
//! secondary from the beginning: the copy is behind, and is read. In one of four the primary relies
//! on a region lease, of one length and another. In one of two the tails of fenced regions are
//! sent to the new primary as well, the operator goes back, and wipes or promotes what it
//! unprotects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zoneq::consensus::network::{ChannelOptions, channel};
use zoneq::storage::disk::faulty::Dice;

use crate::history::{SharedHistory, Verb, Whom};
use crate::layout::{Layout, host_name};
use crate::network::{SimNetwork, now_us};
use crate::operator::{Client, Operator, Wishes};
use crate::workload;

/// Salt of the seeds in which tails are sent, and copies wiped or promoted.
const TAILS: u64 = 0x7461_696c_7300;

/// The operator of a simulated pair.
pub fn operator(
    seed: u64,
    layout: &Layout,
    network: &SimNetwork,
    history: SharedHistory,
    wishes: Wishes,
) -> Operator {
    let options = ChannelOptions::for_election(Duration::from_millis(400));
    let client = |host: &u64| {
        let address = format!("{}:7401", host_name(*host));
        let made = channel(Arc::new(network.clone()), &address, &options).ok()?;
        Some(Client::new(made))
    };
    let of = |region| layout.of_region(region).iter().filter_map(client).collect();
    let regions = (0..layout.regions()).map(of).collect();
    let mut tails = Dice::new(seed ^ TAILS);
    let tails = (tails.below(2) == 0).then_some(tails);
    Operator::new(seed, regions, || now_us().unwrap_or_default(), history, wishes, tails)
}

pub struct Working {
    operator: Operator,
}

impl Working {
    pub fn new(operator: Operator) -> Working {
        Working { operator }
    }

    /// Works until told to stop, and then until the pair is whole; whether it is.
    pub async fn work(mut self, stop: Arc<AtomicBool>) -> bool {
        self.operator.protect(0).await;
        if self.operator.settings.has_shapes() {
            self.operator.act(0, Verb::ReadAccess { on: true }).await;
        }
        while !stop.load(Ordering::Relaxed) {
            let pause = 300 + self.operator.dice.below(3_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.turn().await;
        }
        self.operator.settle().await
    }

    async fn turn(&mut self) {
        let sides = self.operator.look_at_both().await;
        self.operator.set(&sides).await;
        if self.operator.dice.below(3) > 0 && self.operator.mend(&sides).await {
            return;
        }
        let is = |region: usize, role: &str| {
            sides.get(region).is_some_and(|it| it.as_ref().is_some_and(|it| it.role == role))
        };
        let secondary = (0..2).find(|region| is(*region, "secondary"));
        let primary = (0..2).find(|region| is(*region, "primary"));
        if self.operator.goes_back(secondary).await {
            return;
        }
        match (self.operator.dice.below(20), secondary, primary) {
            (0..6, Some(to), _) => self.fail_over(to).await,
            (6 | 7, Some(to), _) => self.fail_over_twice(to).await,
            (8..11, Some(region), _) => self.force(region).await,
            (11 | 12, ..) => {
                let region = self.operator.dice.below(2) as usize;
                let force = self.operator.dice.below(3) == 0;
                self.operator.act(region, Verb::TakeBack { force }).await;
            }
            (13, _, Some(region)) => {
                // A kept copy is no place for clients, nor what is left of one for those that
                // cannot tell.
                let verb = self.operator.how_to_part();
                let whom = if verb == Verb::Wipe { Whom::WhoKnowsNothing } else { Whom::All };
                let was_closed = self.operator.history.lock().pair.is_closed(1 - region);
                self.operator.history.lock().pair.close_to(whom, 1 - region);
                tokio::time::sleep(workload::LONGEST).await;
                // What was handed over may have gone on meanwhile.
                let still = self.operator.look(region).await;
                if still.is_none_or(|it| it.role != "primary") {
                    if !was_closed {
                        self.operator.history.lock().pair.open(1 - region);
                    }
                    return;
                }
                let parted = self.operator.act(region, verb).await;
                let pause = self.operator.dice.below(3_000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if parted && verb == Verb::Unprotect {
                    self.operator.promote(1 - region).await;
                }
                self.operator.protect(region).await;
            }
            (14, Some(region), _) => {
                let on = self.operator.dice.below(3) > 0;
                self.operator.act(region, Verb::ReadAccess { on }).await;
            }
            _ => {}
        }
    }

    async fn fail_over(&mut self, to: usize) {
        let from = self.operator.dice.below(2) as usize;
        self.operator.act(from, Verb::FailOver { to }).await;
    }

    /// From both sides at once, and each to itself in one of two cases.
    async fn fail_over_twice(&mut self, to: usize) {
        let other = if self.operator.dice.below(2) == 0 { to } else { 1 - to };
        let here = self.operator.asked(0, Verb::FailOver { to });
        let there = self.operator.asked(1, Verb::FailOver { to: other });
        futures::future::join(here, there).await;
    }

    /// Looks at what it would lose, and promotes. It accepts a copy that is not complete, but not
    /// one that has nothing: there clients would have no queues.
    async fn force(&mut self, region: usize) {
        let accepts = self.operator.dice.below(8) == 0;
        self.operator.look(1 - region).await;
        let copy = self.operator.look(region).await;
        let accept_incomplete = accepts && copy.is_some_and(|copy| copy.last_sync.is_some());
        self.operator.act(region, Verb::Force { accept_incomplete }).await;
    }
}
