//! Where the epochs of a pair join, and what came of the tails of fenced ones, as the service shows
//! it. Translation only.

use super::epoch_out;
use crate::consensus::group::Standing;
use crate::proto::admin::v1 as pb;
use crate::queue::authority::LedgerLine;
use crate::queue::authority::replay::Replayed;

/// How far the log is, where the epochs join, and which tails came here.
pub fn tell(out: &mut pb::GetRegionResponse, standing: &Standing) {
    let authority = &standing.authority;
    out.applied_index = standing.applied.index;
    out.epochs = authority.ledger.iter().map(join_out).collect();
    out.tails_taken = authority.replayed.iter().map(taken_out).collect();
}

fn join_out(line: &LedgerLine) -> pb::EpochJoin {
    pb::EpochJoin {
        epoch: Some(epoch_out(&line.epoch)),
        previous: line.previous.map(|at| at.index),
        first: line.first.map(|at| at.index),
    }
}

fn taken_out(replayed: &Replayed) -> pb::TailTaken {
    pb::TailTaken {
        epoch: Some(epoch_out(&replayed.epoch)),
        through: replayed.through.0,
        sent: replayed.sent,
        skipped: replayed.skipped,
        done: replayed.done,
    }
}
