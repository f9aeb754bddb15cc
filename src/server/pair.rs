//! What a node does in a pair of regions: its part is built here, and its tasks join the group's.

use std::sync::Arc;

use super::Config;
use crate::clock::SharedClock;
use crate::consensus::group::Started;
use crate::geo::herald::Herald;
use crate::geo::lease::LeaseKeeper;
use crate::geo::other::OtherRegion;
use crate::geo::pair::Pair;
use crate::geo::shipper::Shipper;
use crate::geo::{agreement, failover, inquiry, lag};

pub(super) fn begin(config: &Config, started: &mut Started, clock: &SharedClock) -> Pair {
    let group = started.group.clone();
    let other =
        OtherRegion::new(group.clone(), config.other_region.clone(), config.region_compression);
    let (shipper, watermark) = Shipper::new(group.clone(), other.clone(), Arc::clone(clock));
    let (herald, heard) = Herald::new(group.clone(), other.clone(), Arc::clone(clock));
    started.tasks.push(("shipper", Box::pin(shipper.run())));
    started.tasks.push(("herald", Box::pin(herald.run())));
    let keeper = LeaseKeeper::new(group.clone(), other.clone(), Arc::clone(clock));
    started.tasks.push(("region lease", Box::pin(keeper.run())));
    started.tasks.push(("lag", Box::pin(lag::run(group.clone()))));
    started.tasks.push(("failover", Box::pin(failover::run(group.clone(), watermark.clone()))));
    started.tasks.push(("inquiry", Box::pin(inquiry::run(group.clone(), other.clone()))));
    let pair = Pair::new(group, config.region.clone(), other, watermark, heard, Arc::clone(clock));
    started.tasks.push(("agreement", Box::pin(agreement::run(pair.clone()))));
    pair
}
