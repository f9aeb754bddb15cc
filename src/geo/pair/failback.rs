//! The way back after a failover: the region where the data was at first becomes the primary again.
//!
//! Law: the way is worked out anew from what both regions are, before each stage, and nothing of it
//! is kept; so it goes on from where it is, whoever runs it again, and ends where nothing is left to
//! do. Every stage is a verb that a person may run by hand.

use std::time::Duration;

use tokio::time::Instant;

use super::{Pair, STEP};
use crate::consensus::error::Fate;
use crate::geo::error::PairError;
use crate::geo::watermark::GeoStatus;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::{Authority, Role};

/// Between two looks at a copy that is not there yet.
const LOOK: Duration = Duration::from_secs(1);
/// One call for the tail has this long.
const TAIL: Duration = Duration::from_secs(30);
/// Between two tries of what cannot be now.
const PAUSE: Duration = Duration::from_millis(200);

/// What is done next on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The deposed primary sends what it has alone.
    ReplayTail,
    /// It is attached again, and given the data.
    Protect,
    /// Until the copy has nearly all.
    AwaitCopy,
    /// As a planned failover.
    HandOver,
}

/// What is left of a way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The region that is to be the primary.
    pub to: String,
    /// Empty = it is so.
    pub stages: Vec<Stage>,
    /// Of this run.
    pub replayed: u64,
    pub skipped: u64,
    pub copied_bytes: u64,
}

/// A way back under way.
pub struct Return {
    pair: Pair,
    who: String,
    to: Option<String>,
    discard_tail: bool,
    deadline: Instant,
    way: Way,
    is_shown: bool,
    /// A stage was tried, and could not be now.
    last: Option<String>,
}

impl Pair {
    /// Begins the way back to region `to`, or to the one where the data was at first.
    #[must_use]
    pub fn fail_back(
        &self,
        who: &str,
        to: Option<String>,
        discard_tail: bool,
        deadline: Instant,
    ) -> Return {
        let (pair, who) = (self.clone(), who.to_owned());
        let way = Way::default();
        Return { pair, who, to, discard_tail, deadline, way, is_shown: false, last: None }
    }

    /// What is left to do until region `to` is the primary.
    ///
    /// # Errors
    /// Refused where there is no way, or where the primary must be asked.
    pub async fn way_back(&self, to: Option<&str>) -> Result<(String, Vec<Stage>), PairError> {
        let own = self.in_pair()?;
        let home = own.ledger.first().map(|line| line.epoch.region.clone()).unwrap_or_default();
        let to = to.map_or(home, str::to_owned);
        let is_there = match &own.role {
            Role::Primary | Role::Standalone => own.region == to,
            Role::Secondary => own.epoch.region == to,
            Role::Released { to: heir, .. } => {
                heir.region == to && self.watermark.borrow().promoted
            }
            _ => false,
        };
        if is_there {
            return Ok((to, Vec::new()));
        }
        let stages = match &own.role {
            Role::Standalone => self.way_alone(&own, &to).await?,
            Role::Primary => {
                let peer = own.attachment.as_ref().map_or("", |it| it.peer.as_str());
                if peer != to {
                    let why = format!("region {to:?} is not in this pair");
                    return Err(PairError::Refused(why));
                }
                let is_live = self.watermark.borrow().status == GeoStatus::Live;
                let await_copy = (!is_live).then_some(Stage::AwaitCopy);
                await_copy.into_iter().chain([Stage::HandOver]).collect()
            }
            Role::Sealed { .. } | Role::Released { .. } => vec![Stage::HandOver],
            Role::Secondary => return Err(ask(&own.epoch.region)),
            Role::Fenced { by, .. } => return Err(ask(&by.region)),
            role => {
                let why = format!("a cluster that is {} hands over nothing", role.name());
                return Err(PairError::Refused(why));
            }
        };
        Ok((to, stages))
    }

    /// The way of a primary that stands alone, as after a promotion by force.
    async fn way_alone(&self, own: &Authority, to: &str) -> Result<Vec<Stage>, PairError> {
        let theirs = self.other.status(Instant::now() + STEP).await?;
        if theirs.region != to {
            let why = format!("the other region is {:?}, and not {to:?}", theirs.region);
            return Err(PairError::Refused(why));
        }
        let same = theirs.lineage == wire::wide(own.lineage);
        let tail = match theirs.role.as_str() {
            "fenced" if same => {
                // What is in a file only is not in the new primary.
                let is_left = matches!(theirs.tail.as_str(), "" | "exported");
                is_left.then_some(Stage::ReplayTail)
            }
            "detached" | "secondary" if same => None,
            _ if theirs.is_empty => None,
            // It has not heard yet that it was deposed, or is another's.
            role => {
                let why = format!("region {to:?} is {role}: it cannot be given the data");
                return Err(if same { PairError::not_now(why) } else { PairError::Refused(why) });
            }
        };
        let rest = [Stage::Protect, Stage::AwaitCopy, Stage::HandOver];
        Ok(tail.into_iter().chain(rest).collect())
    }

    /// Sends this side's tail for as long as one call may take; the new primary asks again.
    ///
    /// # Errors
    /// As [`Pair::replay`].
    pub async fn send_tail(
        &self,
        who: &str,
        deadline: Instant,
    ) -> Result<pb::SendTailResponse, PairError> {
        let mut answer = pb::SendTailResponse::default();
        let mut replay = self.replay(who, false).await?;
        while let Some(step) = replay.next().await? {
            answer.sent += step.sent;
            answer.skipped += step.skipped.len() as u64;
            answer.done = step.done;
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(answer)
    }
}

fn ask(region: &str) -> PairError {
    PairError::Refused(format!("region {region:?} is the primary: ask a node of it"))
}

impl Return {
    /// What is left of the way, after one more stage was done; `None` when that was said already.
    ///
    /// # Errors
    /// Refused where there is no way; *not now* at the deadline, and when the other region is not
    /// reached: run it again.
    pub async fn next(&mut self) -> Result<Option<Way>, PairError> {
        if self.is_shown {
            let Some(stage) = self.way.stages.first().copied() else { return Ok(None) };
            self.run(stage).await?;
        }
        self.is_shown = true;
        let discards = self.discard_tail;
        let (to, mut stages) = self.pair.way_back(self.to.as_deref()).await?;
        stages.retain(|stage| !(discards && *stage == Stage::ReplayTail));
        self.way.copied_bytes = self.pair.watermark.borrow().copied_bytes;
        self.way = Way { to, stages, ..self.way.clone() };
        Ok(Some(self.way.clone()))
    }

    async fn run(&mut self, stage: Stage) -> Result<(), PairError> {
        if Instant::now() >= self.deadline {
            let why = match self.last.take() {
                Some(why) => format!("the way back is under way, and not at its end: {why}"),
                None => "the way back is under way: run it again to go on".to_owned(),
            };
            return Err(PairError::NotNow { why, fate: Fate::Unknown });
        }
        let done = match stage {
            Stage::ReplayTail => self.replay().await,
            Stage::Protect => self.pair.protect(&self.who, self.discard_tail).await,
            Stage::AwaitCopy => {
                let mut watermark = self.pair.watermark.clone();
                let live = watermark.wait_for(|mark| mark.status == GeoStatus::Live);
                let waited = tokio::time::timeout(LOOK, live).await.map(drop);
                self.last = waited.err().and_then(|_| {
                    let mark = self.pair.watermark.borrow();
                    mark.trouble.clone().or(Some("the copy is being given the data".to_owned()))
                });
                Ok(())
            }
            Stage::HandOver => self.pair.hand_over(&self.who, &self.way.to, self.deadline).await,
        };
        match done {
            Err(PairError::NotNow { why, .. }) => {
                self.last = Some(why);
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            other => other,
        }
    }

    async fn replay(&mut self) -> Result<(), PairError> {
        let own = self.pair.in_pair()?;
        let request =
            pb::SendTailRequest { lineage: wire::wide(own.lineage), who: self.who.clone() };
        let until = self.deadline.min(Instant::now() + TAIL);
        let asked = self.pair.other.ask_patiently(until, TAIL, |mut client| {
            let request = request.clone();
            async move { client.send_tail(request).await }
        });
        let answer = asked.await?;
        self.way.replayed += answer.sent;
        self.way.skipped += answer.skipped;
        Ok(())
    }
}
