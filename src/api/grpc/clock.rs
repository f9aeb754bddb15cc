//! The wall clock of the node that leads, accepted by an operator.
//!
//! Laws: where log time follows that clock already nothing is done; else who accepts it is in the
//! audit before. Where the cluster has no time yet nothing can be written before, the audit no more
//! than anything else: there its line comes afterwards.

use tonic::Status;

use super::call::Call;
use super::convert;
use super::error::Refusal;
use crate::consensus::group::Followed;
use crate::geo::pair::Pair;
use crate::proto::admin::v1 as pb;
use crate::queue::ids::LogTime;
use crate::queue::limits::ACTOR;

/// Lets T follow this node's wall clock, as the leader's.
pub(super) async fn accept(
    pair: &Pair,
    request: pb::AcceptClockRequest,
    call: &Call,
) -> Result<pb::AcceptClockResponse, Status> {
    let group = pair.group();
    let who = request.who;
    if who.len() > ACTOR {
        let problem = format!("has {} bytes", who.len());
        return Err(Refusal::invalid("who", problem, format!("0 to {ACTOR} bytes")).into());
    }
    if let Some(followed) = group.followed() {
        return Ok(answer(followed));
    }
    // What is left is for the audit.
    let deadline = call.deadline - call.remaining() / 4;
    let what = format!("accept the wall clock of node {} as log time's", group.node());
    let accepted = if group.leadership().borrow().is_me {
        let accepted = pair.audited(&who, what, group.accept_clock(deadline)).await;
        accepted.map_err(super::region::refusal)?
    } else {
        let accepted = group.accept_clock(deadline).await;
        if accepted.as_ref().is_ok_and(|it| !it.was_agreed) {
            pair.note_end(&who, what, accepted.as_ref().err()).await;
        }
        accepted
    };
    accepted.map(answer).map_err(|error| Refusal::from(error).into())
}

fn answer(followed: Followed) -> pb::AcceptClockResponse {
    let Followed { log_time, wall_us, was_agreed } = followed;
    pb::AcceptClockResponse {
        log_time: (log_time > LogTime::default()).then(|| convert::timestamp(log_time)),
        wall_time: Some(convert::timestamp(LogTime(wall_us))),
        was_agreed,
    }
}
