//! The way back after a failover: the region where the data was at first becomes the primary again.
//!
//! Law: the way is worked out anew from what both regions are, before each stage, and nothing of it
//! is kept; so it goes on from where it is, whoever runs it again, and ends where nothing is left to
//! do. Every stage is a verb that a person may run by hand. A side that follows or is fenced has the
//! other one show the way and try its stages, one a call.

use std::time::Duration;

use tokio::time::Instant;

use super::replay::not_sent_to;
use super::toward::elsewhere;
use super::{Pair, STEP};
use crate::consensus::error::Fate;
use crate::geo::error::PairError;
use crate::geo::watermark::GeoStatus;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::carry_request::Verb;
use crate::queue::authority::{Authority, Role};

/// Between two looks at a copy that is not there yet.
const LOOK: Duration = Duration::from_secs(1);
/// One call for the tail has this long.
const TAIL: Duration = Duration::from_secs(30);
/// What the other side asks for is tried this long in one call.
const CALLED: Duration = Duration::from_secs(25);
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
            role => {
                let why = format!("a cluster that is {} hands over nothing", role.name());
                return Err(elsewhere(&why, &own, "failback"));
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

    /// Sends this side's tail for as long as one call may take, or one part of it; the new primary
    /// asks again.
    ///
    /// # Errors
    /// As [`Pair::replay`].
    pub async fn send_tail(
        &self,
        asked: &pb::SendTailRequest,
        deadline: Instant,
    ) -> Result<pb::SendTailResponse, PairError> {
        let mut answer = pb::SendTailResponse::default();
        let mut replay = self.replay(&asked.who, asked.all).await?;
        while let Some(step) = replay.next().await? {
            answer.found += step.found;
            answer.sent += step.sent;
            answer.skipped += step.skipped.len() as u64;
            answer.done = step.done;
            (answer.total_sent, answer.total_skipped) = (step.total_sent, step.total_skipped);
            if asked.one_part {
                answer.not_sent = step.skipped.into_iter().map(not_sent_to).collect();
                break;
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(answer)
    }
}

impl Pair {
    /// Shows what is left of a way back, after its next stage was tried where that is asked for;
    /// and why that could not be now. For the other side, which asks again.
    ///
    /// # Errors
    /// As [`Return::next`].
    pub(in crate::geo) async fn step_back(
        &self,
        who: &str,
        asked: pb::CarryFailBack,
    ) -> Result<(Way, Option<String>), PairError> {
        let to = (!asked.to.is_empty()).then_some(asked.to);
        let mut back = self.fail_back(who, to, asked.discard_tail, Instant::now() + CALLED);
        back.step(asked.run).await?;
        Ok((back.way, back.last))
    }

    /// Whether the way to that region is gone from the other side.
    fn is_led_there(&self, to: Option<&str>) -> Result<bool, PairError> {
        let own = self.in_pair()?;
        let home = own.ledger.first().map(|line| line.epoch.region.as_str());
        Ok(match &own.role {
            Role::Secondary => to.or(home) != Some(own.epoch.region.as_str()),
            Role::Fenced { .. } => true,
            _ => false,
        })
    }
}

impl Return {
    /// What is left of the way, after one more stage was done; `None` when that was said already.
    ///
    /// # Errors
    /// Refused where there is no way; *not now* at the deadline, and when the other region is not
    /// reached: run it again.
    pub async fn next(&mut self) -> Result<Option<Way>, PairError> {
        let runs = self.is_shown;
        if runs && self.way.stages.is_empty() {
            return Ok(None);
        }
        match self.pair.is_led_there(self.to.as_deref())? {
            true => self.step_there(runs).await?,
            false => self.step(runs).await?,
        }
        self.is_shown = true;
        Ok(Some(self.way.clone()))
    }

    /// Works out the way; with `runs` the next stage of it is tried, and it is worked out anew.
    async fn step(&mut self, runs: bool) -> Result<(), PairError> {
        self.look().await?;
        if let (true, Some(stage)) = (runs, self.way.stages.first().copied()) {
            self.run(stage).await?;
            self.look().await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), PairError> {
        let discards = self.discard_tail;
        let (to, mut stages) = self.pair.way_back(self.to.as_deref()).await?;
        stages.retain(|stage| !(discards && *stage == Stage::ReplayTail));
        self.way.copied_bytes = self.pair.watermark.borrow().copied_bytes;
        self.way = Way { to, stages, ..self.way.clone() };
        Ok(())
    }

    /// As [`Return::step`], by the other side.
    async fn step_there(&mut self, run: bool) -> Result<(), PairError> {
        if run {
            self.check_time()?;
        }
        let (to, discard_tail) = (self.to.clone().unwrap_or_default(), self.discard_tail);
        let verb = Verb::FailBack(pb::CarryFailBack { to, discard_tail, run });
        let until = self.deadline.min(Instant::now() + TAIL);
        match self.pair.carry(&self.who, verb, "failback", until).await {
            Ok(answer) => {
                let silent = || PairError::not_now("the other region did not say what is left");
                let way = answer.way.ok_or_else(silent)?;
                self.last = (!way.trouble.is_empty()).then_some(way.trouble.clone());
                self.way.replayed += way.replayed;
                self.way.skipped += way.skipped;
                self.way =
                    Way { replayed: self.way.replayed, skipped: self.way.skipped, ..way_from(way) };
                Ok(())
            }
            // What was begun there goes on, or is looked at again.
            Err(PairError::NotNow { why, .. }) if run => {
                self.last = Some(why);
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn check_time(&mut self) -> Result<(), PairError> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let why = match self.last.take() {
            Some(why) => format!("the way back is under way, and not at its end: {why}"),
            None => "the way back is under way: run it again to go on".to_owned(),
        };
        Err(PairError::NotNow { why, fate: Fate::Unknown })
    }

    async fn run(&mut self, stage: Stage) -> Result<(), PairError> {
        self.check_time()?;
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
        let lineage = wire::wide(own.lineage);
        let request = pb::SendTailRequest { lineage, who: self.who.clone(), ..Default::default() };
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

/// What is left of a way back, as the other side is told.
#[must_use]
pub fn way_to((way, last): (Way, Option<String>)) -> pb::CarryWay {
    let stage = |stage: Stage| match stage {
        Stage::ReplayTail => pb::CarryStage::ReplayTail,
        Stage::Protect => pb::CarryStage::Protect,
        Stage::AwaitCopy => pb::CarryStage::AwaitCopy,
        Stage::HandOver => pb::CarryStage::HandOver,
    };
    pb::CarryWay {
        to: way.to,
        stages: way.stages.into_iter().map(|it| stage(it).into()).collect(),
        replayed: way.replayed,
        skipped: way.skipped,
        copied_bytes: way.copied_bytes,
        trouble: last.unwrap_or_default(),
    }
}

/// Reads what [`way_to`] wrote; a stage that this node does not know is waited for.
#[must_use]
pub fn way_from(way: pb::CarryWay) -> Way {
    let stage = |stage: &i32| match pb::CarryStage::try_from(*stage).unwrap_or_default() {
        pb::CarryStage::ReplayTail => Stage::ReplayTail,
        pb::CarryStage::Protect => Stage::Protect,
        pb::CarryStage::AwaitCopy | pb::CarryStage::Unspecified => Stage::AwaitCopy,
        pb::CarryStage::HandOver => Stage::HandOver,
    };
    Way {
        stages: way.stages.iter().map(stage).collect(),
        to: way.to,
        replayed: way.replayed,
        skipped: way.skipped,
        copied_bytes: way.copied_bytes,
    }
}
