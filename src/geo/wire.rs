//! Between the messages of `geo.proto` and the types of the queue. A batch travels as the bytes
//! that the secondary's log will hold, with a checksum.

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::batch::Batch;
use crate::proto::geo::v1 as pb;
use crate::proto::log::v1 as log;
use crate::queue::authority::command::{Attach, RegionVerb, ShippedBatch};
use crate::queue::authority::plan::CopyEnd;
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::replay::ReplayTail;
use crate::queue::authority::{LedgerLine, RegionEpoch};
use crate::queue::ids::{Epoch, Position, Span};
use crate::storage::codec::{self, CodecError};

/// A message of the stream is at most this long: an entry, and what is around it.
pub const MESSAGE_BYTES: usize = 16 << 20;
/// How a refusal begins that only says that the disk is too full.
const NO_ROOM: &str = "there is no room for a state of";

/// What a side says that has no room for a state, or the rest of one, of so many bytes.
#[must_use]
pub fn no_room(bytes: u64) -> String {
    format!("{NO_ROOM} {bytes} bytes")
}

/// Whether a refusal says that there is no room, or that a leader before this one has begun to give
/// a state meanwhile: nothing is wrong with what was to be given.
#[must_use]
pub fn is_of_the_moment(why: &str) -> bool {
    why.starts_with(NO_ROOM) || why == RegionRefusal::OtherSeed.to_string()
}

pub fn hello(lineage: u128, attachment: u128, region: &str) -> pb::ShipRequest {
    let hello = pb::Hello {
        lineage: wide(lineage),
        attachment: wide(attachment),
        region: region.to_owned(),
    };
    pb::ShipRequest { message: Some(pb::ship_request::Message::Hello(hello)) }
}

pub fn wide(number: u128) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Encodes a batch without decoding what it carries.
pub fn batch(batch: Batch) -> pb::ShipRequest {
    let entry =
        |(at, entry): (Position, Bytes)| log::ShippedEntry { position: Some(position(at)), entry };
    let shipped = log::ApplyShipped {
        attachment: wide(batch.attachment),
        line: Some(codec::line_to(&batch.line)),
        after: batch.after.map(position),
        through: Some(position(batch.through)),
        release: batch.release.as_ref().map(codec::epoch_to),
        entries: batch.entries.into_iter().map(entry).collect(),
        head: Some(codec::head_to(batch.head)),
    };
    let content = Bytes::from(shipped.encode_to_vec());
    let sealed = pb::Batch { crc32c: crc32c::crc32c(&content), content };
    pb::ShipRequest { message: Some(pb::ship_request::Message::Batch(sealed)) }
}

/// Checks and reads a batch.
pub fn opened(batch: pb::Batch) -> Result<ShippedBatch, Box<Status>> {
    if crc32c::crc32c(&batch.content) != batch.crc32c {
        return Err(Box::new(Status::aborted("a batch arrived with a wrong checksum")));
    }
    let bad = |error: CodecError| Box::new(Status::invalid_argument(error.to_string()));
    let shipped = log::ApplyShipped::decode(batch.content)
        .map_err(|source| bad(CodecError::Proto { what: "a shipped batch", source }))?;
    codec::batch_from(shipped).map_err(bad)
}

pub fn ledger_to(ledger: &[LedgerLine]) -> Vec<log::LedgerLine> {
    ledger.iter().map(codec::line_to).collect()
}

pub fn ledger_from(ledger: Vec<log::LedgerLine>) -> Result<Vec<LedgerLine>, CodecError> {
    ledger.into_iter().map(codec::line_from).collect()
}

pub fn position_from(at: log::Position) -> Position {
    Position { term: at.term, node: at.node, index: at.index }
}

/// What a primary asks of the cluster that is to follow it, which is of that region.
pub fn attach(asked: pb::AttachRequest, region: String) -> Result<Attach, Box<Status>> {
    let bad = |error: CodecError| Box::new(Status::invalid_argument(error.to_string()));
    Ok(Attach {
        region,
        lineage: narrow(&asked.lineage, "the lineage")?,
        attachment: narrow(&asked.attachment, "the attachment")?,
        ledger: ledger_from(asked.ledger).map_err(bad)?,
        reseed: asked.reseed,
        discard_tail: asked.discard_tail,
        lease: asked.lease_us.map(Span),
    })
}

pub fn fence(asked: pb::FenceRequest) -> Result<RegionVerb, Box<Status>> {
    let lineage = narrow(&asked.lineage, "the lineage")?;
    let ledger = ledger_from(asked.ledger);
    let bad = |error: CodecError| Box::new(Status::invalid_argument(error.to_string()));
    Ok(RegionVerb::Fence { lineage, ledger: ledger.map_err(bad)? })
}

pub fn accept_lease(asked: &pb::AcceptLeaseRequest) -> Result<RegionVerb, Box<Status>> {
    Ok(RegionVerb::AcceptLease {
        attachment: narrow(&asked.attachment, "the attachment")?,
        epoch: Epoch(asked.epoch),
        lease: asked.lease_us.map(Span),
    })
}

/// Checks and reads a part of a tail; `None` = the question how far that of this epoch is.
pub fn tail_part(
    asked: pb::ReplayTailRequest,
) -> Result<(RegionEpoch, Option<ReplayTail>), Box<Status>> {
    let missing = || Box::new(Status::invalid_argument("an epoch is missing"));
    let epoch = codec::epoch_from(asked.epoch.ok_or_else(missing)?);
    if asked.content.is_empty() {
        return Ok((epoch, None));
    }
    if crc32c::crc32c(&asked.content) != asked.crc32c {
        let why = "a part of a tail arrived with a wrong checksum";
        return Err(Box::new(Status::aborted(why)));
    }
    let part = codec::decode_replay(asked.content);
    let bad = |error: CodecError| Box::new(Status::invalid_argument(error.to_string()));
    Ok((epoch, Some(part.map_err(bad)?)))
}

/// A step of a seed as a command's verb.
pub fn seed_step(step: pb::seed_request::Step) -> log::region_command::Verb {
    use log::region_command::Verb;
    use pb::seed_request::Step;
    match step {
        Step::Begin(it) => Verb::SeedBegin(it),
        Step::Chunk(it) => Verb::SeedChunk(it),
        Step::Commit(it) => Verb::SeedCommit(it),
        Step::Drop(it) => Verb::SeedDrop(it),
    }
}

/// The request of a verb, if it is one of a seed.
pub fn seed_request(verb: &RegionVerb) -> Option<pb::SeedRequest> {
    use log::region_command::Verb;
    use pb::seed_request::Step;
    let step = match codec::seed_to(verb) {
        Verb::SeedBegin(it) => Step::Begin(it),
        Verb::SeedChunk(it) => Step::Chunk(it),
        Verb::SeedCommit(it) => Step::Commit(it),
        Verb::SeedDrop(it) => Step::Drop(it),
        _ => return None,
    };
    Some(pb::SeedRequest { step: Some(step), bytes: 0 })
}

/// A number of 128 bits.
pub fn narrow(bytes: &[u8], what: &str) -> Result<u128, Box<Status>> {
    let bytes = <[u8; 16]>::try_from(bytes);
    let bytes = bytes.map_err(|_| Status::invalid_argument(format!("{what} has not 16 bytes")))?;
    Ok(u128::from_be_bytes(bytes))
}

pub fn position(at: Position) -> log::Position {
    log::Position { term: at.term, node: at.node, index: at.index }
}

pub fn copy_end(answer: &pb::ShipResponse) -> Result<CopyEnd, CodecError> {
    let missing = CodecError::Missing { what: "an answer", field: "epoch" };
    Ok(CopyEnd {
        epoch: codec::epoch_from(answer.epoch.clone().ok_or(missing)?),
        through: answer.through.map(position_from),
    })
}

/// How a refusal by `apply` ends a stream.
pub fn status(refusal: &RegionRefusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        RegionRefusal::Gap { .. } => Status::aborted(text),
        RegionRefusal::Diverged { .. } => Status::data_loss(text),
        RegionRefusal::BadField { .. } => Status::invalid_argument(text),
        _ => Status::failed_precondition(text),
    }
}
