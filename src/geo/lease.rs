//! Keeps the region lease of a primary: once it is set, and on whichever node leads.
//!
//! Laws: the secondary agrees to a lease before the primary relies on it, and gives its word before
//! the primary stops relying on it. A copy that was let go and follows again, without the lease or
//! with a shorter one, agrees anew. A grant counts from before it was asked for, and is asked for
//! anew long before it runs out. Nothing is granted on hearsay: the secondary's leader looks only
//! after a majority has confirmed it, later than the request came.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::error::PairError;
use super::other::OtherRegion;
use super::wire;
use crate::clock::SharedClock;
use crate::consensus::group::{Grant, Group};
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::geo_service_client::GeoServiceClient;
use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
use crate::queue::authority::{Authority, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::ids::Span;

/// How often a leader looks whether a lease is to be kept.
const LOOK: Duration = Duration::from_millis(250);
/// The other region has this long to agree.
const WITHIN: Duration = Duration::from_secs(3);
/// A lease is renewed this many times before it would run out, within these bounds.
const TIMES: u32 = 5;
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The keeper of one node.
pub struct LeaseKeeper {
    group: Group,
    other: OtherRegion,
    clock: SharedClock,
    /// Which of the other region's nodes granted last.
    at: usize,
}

/// Why no lease was granted.
struct Refused {
    why: String,
    /// It was not for want of a leader, or of a line.
    by_its_state: bool,
}

/// What is kept.
struct Kept {
    authority: Authority,
    lease: Span,
}

impl LeaseKeeper {
    #[must_use]
    pub fn new(group: Group, other: OtherRegion, clock: SharedClock) -> LeaseKeeper {
        LeaseKeeper { group, other, clock, at: 0 }
    }

    /// Runs until the group ends.
    pub async fn run(mut self) {
        let mut leadership = self.group.leadership();
        loop {
            let leads = leadership.borrow_and_update().is_me && self.other.is_configured();
            let pause = match leads {
                true => self.step().await,
                false => None,
            };
            let ended = match pause {
                Some(pause) => tokio::select! {
                    changed = leadership.changed() => changed.is_err(),
                    () = tokio::time::sleep(pause) => false,
                },
                None if leads => tokio::select! {
                    changed = leadership.changed() => changed.is_err(),
                    () = tokio::time::sleep(LOOK) => false,
                },
                None => leadership.changed().await.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// Does what is due; answers when something is again, `None` = nobody knows.
    async fn step(&mut self) -> Option<Duration> {
        let authority = primary(&self.group)?;
        let is_settled = authority.settings.lease == authority.leasing.in_force;
        // To end one is for the operator who waits for the other region's word: asked on his behalf
        // as well, it could be ended there after he was told that it stays.
        if !is_settled && authority.settings.lease.is_some() {
            let deadline = Instant::now() + WITHIN;
            let settled = settle(&self.group, &self.other, "the region lease", deadline).await;
            if let Err(error) = settled {
                tracing::debug!(%error, "the regions do not agree on a lease yet");
            }
        }
        let authority = primary(&self.group)?;
        let kept = Kept { lease: authority.leasing.in_force?, authority };
        let pace = pace(kept.lease);
        let began = self.clock.monotonic_us();
        if let Err(refused) = self.renew(&kept, pace).await {
            tracing::debug!(why = refused.why, "no region lease");
            self.group.region_lease().note_trouble(refused.why);
            // To end one is for the operator, as above.
            if refused.by_its_state && kept.authority.settings.lease.is_some() {
                let deadline = Instant::now() + WITHIN;
                let agreed =
                    agree(&self.other, &kept.authority, "the region lease", deadline).await;
                if let Err(error) = agreed {
                    tracing::debug!(%error, "the copy does not agree to the region lease");
                }
            }
        }
        let took = Duration::from_micros(self.clock.monotonic_us().saturating_sub(began));
        Some(pace.saturating_sub(took))
    }

    /// Asks one node after the other, the one that granted last first.
    async fn renew(&mut self, kept: &Kept, within: Duration) -> Result<(), Refused> {
        let request = pb::GrantLeaseRequest {
            lineage: wire::wide(kept.authority.lineage),
            attachment: wire::wide(kept.authority.attachment.as_ref().map_or(0, |it| it.id)),
            epoch: kept.authority.epoch.number.0,
            lease_us: kept.lease.0,
        };
        let count = self.other.endpoints().len();
        let mut why = "no node of the other region is configured".to_owned();
        for _ in 0..count {
            let term = self.group.leadership().borrow().term;
            let sent_us = self.clock.monotonic_us();
            match self.ask(request.clone(), within).await {
                Ok(_) => {
                    self.group.region_lease().take(Grant {
                        term,
                        epoch: kept.authority.epoch.number,
                        until_us: sent_us.saturating_add(kept.lease.0),
                    });
                    return Ok(());
                }
                Err(status) => {
                    why = format!("the other region grants no lease: {}", status.message());
                    if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument) {
                        return Err(Refused { why, by_its_state: true });
                    }
                }
            }
            self.at = (self.at + 1) % count.max(1);
        }
        Err(Refused { why, by_its_state: false })
    }

    async fn ask(
        &self,
        request: pb::GrantLeaseRequest,
        within: Duration,
    ) -> Result<Response<pb::GrantLeaseResponse>, Status> {
        let endpoint = self.other.endpoints().get(self.at);
        let endpoint = endpoint.ok_or_else(|| Status::unavailable("there is no such node"))?;
        let channel = self.group.peers().channel(endpoint);
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = GeoServiceClient::new(channel);
        let silent = || Status::unavailable(format!("{endpoint} did not answer in time"));
        tokio::time::timeout(within, client.grant_lease(request)).await.map_err(|_| silent())?
    }
}

/// How often a lease is renewed, and how long one node has to grant it.
fn pace(lease: Span) -> Duration {
    (Duration::from_micros(lease.0) / TIMES).clamp(PACE.0, PACE.1)
}

/// What this cluster is, where this node leads it and it may rely on leases.
fn primary(group: &Group) -> Option<Authority> {
    let leads = group.leadership().borrow().is_me;
    let authority = group.standing().filter(|_| leads)?.authority;
    let may = matches!(authority.role, Role::Primary | Role::Sealed { .. });
    (may && authority.attachment.is_some()).then_some(authority)
}

/// Brings both regions to what is set: the secondary agrees first, also to what the primary relies
/// on already, for it may have been let go and attached anew.
///
/// # Errors
/// Refused by the other region; *not now* where it is not reached, or this node leads no more.
pub(super) async fn settle(
    group: &Group,
    other: &OtherRegion,
    who: &str,
    deadline: Instant,
) -> Result<(), PairError> {
    let leads_no_more = || PairError::not_now("this node leads no primary");
    let authority = primary(group).ok_or_else(leads_no_more)?;
    let wanted = authority.settings.lease;
    let is_relied_on = wanted == authority.leasing.in_force;
    if is_relied_on && wanted.is_none() {
        return Ok(());
    }
    agree(other, &authority, who, deadline).await?;
    if is_relied_on {
        return Ok(());
    }
    let attachment = authority.attachment.as_ref().map_or(0, |it| it.id);
    let by = Actor { who: who.to_owned(), at_us: 0 };
    let verb = RegionVerb::RelyOnLease { attachment, lease: wanted };
    let command = Command::Region(Box::new(RegionCommand { by, verb }));
    let envelope = Envelope { session: None, account: String::new(), command };
    let done = group.propose(envelope, deadline).await?;
    done.outcome.map(drop).map_err(|rejection| PairError::Group(rejection.into()))
}

/// Has the other region agree to the lease that is set here.
async fn agree(
    other: &OtherRegion,
    authority: &Authority,
    who: &str,
    deadline: Instant,
) -> Result<(), PairError> {
    let request = pb::AcceptLeaseRequest {
        lineage: wire::wide(authority.lineage),
        attachment: wire::wide(authority.attachment.as_ref().map_or(0, |it| it.id)),
        epoch: authority.epoch.number.0,
        lease_us: authority.settings.lease.map(|span| span.0),
        who: who.to_owned(),
    };
    let asked = other.ask(deadline, |mut client| {
        let request = request.clone();
        async move { client.accept_lease(request).await }
    });
    asked.await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_several_times_while_it_runs() {
        assert_eq!(pace(Span::from_secs(1)), Duration::from_millis(200));
        assert_eq!(pace(Span::from_secs(5)), Duration::from_secs(1));
        assert_eq!(pace(Span::from_secs(30)), Duration::from_secs(1));
    }
}
