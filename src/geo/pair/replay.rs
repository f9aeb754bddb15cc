//! Sends the tail of a deposed primary to the one that deposed it.
//!
//! Laws: the new primary alone decides what counts, and keeps how far it is; this side asks, and
//! goes on from there. So a replay may be run again, by any node, after any node ended at any
//! step. Parts are bounded in messages and bytes, and one follows the other. That all is there is
//! noted here too, for whoever wants to give this side's data up. The new primary may be asked as
//! well: it has the other side send part after part, and keeps nothing of its own about that.

use std::time::Duration;

use tokio::time::Instant;

use super::Pair;
use super::senders;
use super::toward::elsewhere;
use crate::consensus::error::{Fate, GroupError};
use crate::geo::error::PairError;
use crate::geo::tail::check_has;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{Actor, RegionVerb};
use crate::queue::authority::replay::{ReplayTail, Skip, TailOutcome};
use crate::queue::authority::tail::{TailPart, TailWindow};
use crate::queue::authority::{RegionEpoch, Role, TailFate};
use crate::queue::command::Content;
use crate::queue::ids::Number;
use crate::storage::codec;

/// Bytes of contents after which a part takes no more.
const PART_BYTES: usize = 512 << 10;
/// Messages whose numbers are looked up at once.
const WINDOW: usize = 16 << 10;
/// One part has this long, leader changes there included.
const STEP: Duration = Duration::from_secs(30);
/// One node there has this long to answer.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A replay under way.
pub struct Replay {
    pair: Pair,
    who: String,
    all: bool,
    epoch: RegionEpoch,
    lineage: u128,
    /// The first number of the tail.
    first: Number,
    through: Number,
    window: Option<TailWindow>,
    is_over: bool,
}

/// What one part came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayStep {
    /// Messages in this part; 0 where it was dealt with before.
    pub found: u64,
    pub sent: u64,
    pub skipped: Vec<SkippedMessage>,
    pub done: bool,
    /// Of all parts, those of earlier runs included.
    pub total_sent: u64,
    pub total_skipped: u64,
}

/// A message that was not sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedMessage {
    pub account: String,
    pub queue: String,
    pub id: String,
    pub why: Skip,
}

/// A replay under way, as either side sees it.
pub enum Replaying {
    Here(Box<Replay>),
    /// The other side sends its tail.
    There {
        pair: Pair,
        who: String,
        all: bool,
        is_over: bool,
    },
}

impl Replaying {
    /// As [`Replay::next`].
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<Option<ReplayStep>, PairError> {
        let (pair, who, all, is_over) = match self {
            Replaying::Here(replay) => return replay.next().await,
            Replaying::There { is_over: true, .. } => return Ok(None),
            Replaying::There { pair, who, all, is_over } => (pair, who, *all, is_over),
        };
        let lineage = wire::wide(pair.in_pair()?.lineage);
        let request = pb::SendTailRequest { lineage, who: who.clone(), all, one_part: true };
        let asked = pair.other.ask_patiently(Instant::now() + STEP, STEP, |client| {
            let request = request.clone();
            let mut client = client.max_decoding_message_size(wire::MESSAGE_BYTES);
            async move { client.send_tail(request).await }
        });
        let answer = asked.await?;
        *is_over = answer.done;
        let skipped = answer.not_sent.into_iter().filter_map(not_sent_from).collect();
        Ok(Some(ReplayStep {
            found: answer.found,
            sent: answer.sent,
            skipped,
            done: answer.done,
            total_sent: answer.total_sent,
            total_skipped: answer.total_skipped,
        }))
    }
}

impl Pair {
    /// As [`Pair::replay`], asked of either side.
    ///
    /// # Errors
    /// As there; refused where neither side is fenced.
    pub async fn replay_tail(&self, who: &str, all: bool) -> Result<Replaying, PairError> {
        let own = self.in_pair()?;
        if matches!(own.role, Role::Fenced { .. }) {
            return Ok(Replaying::Here(Box::new(self.replay(who, all).await?)));
        }
        let theirs = self.other.status(Instant::now() + STEP).await?;
        if theirs.role != "fenced" || theirs.lineage != wire::wide(own.lineage) {
            let why = format!(
                "neither region has a tail: this cluster is {}, and region {:?} is {}",
                own.role.name(),
                theirs.region,
                theirs.role
            );
            return Err(elsewhere(&why, &own, "status"));
        }
        let (pair, who, is_over) = (self.clone(), who.to_owned(), false);
        Ok(Replaying::There { pair, who, all, is_over })
    }

    /// Begins to send this side's tail to the new primary, or goes on with it.
    ///
    /// # Errors
    /// Refused where this side is not fenced, or by the other region; *not now* while that is not
    /// reached.
    pub async fn replay(&self, who: &str, all: bool) -> Result<Replay, PairError> {
        let head = self.tail_head()?;
        let lineage = self.in_pair()?.lineage;
        let mut replay = Replay {
            pair: self.clone(),
            who: who.to_owned(),
            all,
            epoch: head.epoch,
            lineage,
            first: Number(head.fork.next_number),
            through: Number(0),
            window: None,
            is_over: false,
        };
        let known = replay.ask(None).await?;
        let before = head.fork.next_number.saturating_sub(1);
        let forgets = crate::mutants::is_chosen("replay-forgotten");
        replay.through = Number(if forgets { before } else { known.through.max(before) });
        Ok(replay)
    }

    /// Notes that this side's tail is in a file, or given up.
    ///
    /// # Errors
    /// Refused where this side is not fenced.
    pub async fn settle_tail(&self, who: &str, fate: TailFate) -> Result<(), PairError> {
        let own = self.in_pair()?;
        if !matches!(own.role, Role::Fenced { .. }) {
            let why = format!("a cluster that is {} has no tail", own.role.name());
            return Err(elsewhere(&why, &own, "tail export"));
        }
        let epoch = own.epoch;
        self.propose(RegionVerb::SettleTail { epoch, fate }, who).await.map(drop)
    }
}

impl Replay {
    /// Sends the next part; `None` after the last.
    ///
    /// # Errors
    /// As [`Pair::replay`], also where this side was given another state meanwhile; what was sent
    /// before stays so.
    pub async fn next(&mut self) -> Result<Option<ReplayStep>, PairError> {
        if self.is_over {
            return Ok(None);
        }
        let (part, contents) = self.part().await?;
        let names: Vec<SkippedMessage> = part
            .units
            .iter()
            .flat_map(|unit| &unit.messages)
            .map(|message| {
                let queue = part.queues.get(message.queue as usize);
                SkippedMessage {
                    account: queue.map(|it| it.account.clone()).unwrap_or_default(),
                    queue: queue.map(|it| it.name.clone()).unwrap_or_default(),
                    id: message.id.to_string(),
                    why: Skip::Expired,
                }
            })
            .collect();
        let sent_at = part.sent_at.clone();
        let mut part = self.filled(part, contents);
        senders::find(&self.pair.group, &sent_at, &mut part).await?;
        let answer = self.ask(Some(part)).await?;
        self.through = self.through.max(Number(answer.through));
        let mut step = ReplayStep {
            found: answer.results.len() as u64,
            done: answer.done,
            total_sent: answer.sent,
            total_skipped: answer.skipped,
            ..ReplayStep::default()
        };
        for (result, name) in answer.results.iter().zip(names) {
            match skip_from(result.skipped()) {
                Some(why) => step.skipped.push(SkippedMessage { why, ..name }),
                None => step.sent += 1,
            }
        }
        if answer.done {
            self.pair.settle_tail(&self.who, TailFate::Replayed).await?;
            self.is_over = true;
        }
        Ok(Some(step))
    }

    /// The next part with its contents, read without holding the state up.
    async fn part(&mut self) -> Result<(TailPart, Vec<Content>), PairError> {
        let lost = |why: String| PairError::from(GroupError::Fatal(why));
        let (part, found) = {
            let store = self.pair.group.store().read();
            let state = store.state();
            check_has(state, &self.epoch)?;
            let next = Number(self.through.0.saturating_add(1)).max(self.first);
            if self.window.as_ref().is_none_or(|window| window.is_spent(self.through)) {
                self.window = Some(state.tail_window(next, WINDOW));
            }
            let window = self.window.get_or_insert_default();
            let part = state.tail_part(window, self.through, (PART_BYTES, self.all));
            let found: Vec<_> = part.contents.iter().map(|id| store.find(*id)).collect();
            (part, found)
        };
        let until = Instant::now() + ATTEMPT;
        let mut contents = Vec::with_capacity(found.len());
        for content in found {
            let missing = || lost("the body of a message is not in the store".to_owned());
            let content = content.ok_or_else(missing)?;
            contents.push(self.pair.group.content(&content, until, Fate::NotApplied).await?);
        }
        Ok((part, contents))
    }

    fn filled(&self, part: TailPart, contents: Vec<Content>) -> ReplayTail {
        let TailPart { through, last, ended_at, queues, mut units, .. } = part;
        let messages = units.iter_mut().flat_map(|unit| &mut unit.messages);
        for (message, content) in messages.zip(contents) {
            message.content = content;
        }
        ReplayTail {
            by: Actor { who: self.who.clone(), at_us: self.pair.clock.wall_us() },
            epoch: self.epoch.clone(),
            after: self.through,
            through,
            last,
            first: self.first,
            ended_at,
            all: self.all,
            queues,
            units,
        }
    }

    async fn ask(&self, part: Option<ReplayTail>) -> Result<pb::ReplayTailResponse, PairError> {
        let content = part.as_ref().map(codec::encode_replay).unwrap_or_default();
        let request = pb::ReplayTailRequest {
            lineage: wire::wide(self.lineage),
            epoch: Some(codec::epoch_to(&self.epoch)),
            crc32c: crc32c::crc32c(&content),
            content,
        };
        let answer = self.pair.other.ask_patiently(Instant::now() + STEP, ATTEMPT, |client| {
            let request = request.clone();
            let mut client = client.max_encoding_message_size(wire::MESSAGE_BYTES);
            async move { client.replay_tail(request).await }
        });
        answer.await
    }
}

fn skip_from(skip: pb::TailSkip) -> Option<Skip> {
    match skip {
        pb::TailSkip::Unspecified => None,
        pb::TailSkip::Expired => Some(Skip::Expired),
        pb::TailSkip::QueueGone => Some(Skip::QueueGone),
        pb::TailSkip::QueueMadeAnew => Some(Skip::QueueMadeAnew),
        pb::TailSkip::Duplicate => Some(Skip::Duplicate),
        pb::TailSkip::SentAgain => Some(Skip::SentAgain),
        pb::TailSkip::MayBeSentAgain => Some(Skip::MayBeSentAgain),
        pb::TailSkip::StillHere => Some(Skip::StillHere),
    }
}

fn skip_to(why: Skip) -> pb::TailSkip {
    match why {
        Skip::Expired => pb::TailSkip::Expired,
        Skip::QueueGone => pb::TailSkip::QueueGone,
        Skip::QueueMadeAnew => pb::TailSkip::QueueMadeAnew,
        Skip::Duplicate => pb::TailSkip::Duplicate,
        Skip::SentAgain => pb::TailSkip::SentAgain,
        Skip::MayBeSentAgain => pb::TailSkip::MayBeSentAgain,
        Skip::StillHere => pb::TailSkip::StillHere,
    }
}

/// A message that was not sent, as the new primary is told that asked for the tail.
pub(super) fn not_sent_to(message: SkippedMessage) -> pb::TailNotSent {
    pb::TailNotSent {
        account: message.account,
        queue: message.queue,
        id: message.id,
        why: skip_to(message.why).into(),
    }
}

/// Reads what `not_sent_to` wrote; `None` = for a reason that this node does not know.
#[must_use]
pub fn not_sent_from(message: pb::TailNotSent) -> Option<SkippedMessage> {
    let why = skip_from(message.why())?;
    let pb::TailNotSent { account, queue, id, .. } = message;
    Some(SkippedMessage { account, queue, id, why })
}

/// An outcome as the new primary answers it.
pub fn result_to(outcome: &TailOutcome) -> pb::TailResult {
    match outcome {
        TailOutcome::Sent(id) => {
            let sent = crate::proto::log::v1::MessageId { epoch: id.epoch.0, number: id.number.0 };
            pb::TailResult { sent: Some(sent), skipped: pb::TailSkip::Unspecified.into() }
        }
        TailOutcome::Skipped(why) => {
            let skipped = skip_to(*why);
            pb::TailResult { sent: None, skipped: skipped.into() }
        }
    }
}
