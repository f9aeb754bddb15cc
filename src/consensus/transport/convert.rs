//! Between openraft's messages and those of peer.proto.
//!
//! Laws: what was encoded decodes to the same; an entry's commands stay the bytes they are in
//! the log, never parsed or copied here; a message from a peer is untrusted, so nothing in it
//! ends the process.
//!
//! Refuses a message that lacks a vote, an entry without position or of an unknown kind, a
//! membership that is not readable, and an answer of an unknown kind, each by name.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::alias::{EntryOf, LeaderIdOf, LogIdOf, SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use tokio::time::Instant;

use super::super::types::{Proposal, TypeConfig, read_membership, read_snapshot_meta};
use super::peers::DiskReport;
use crate::proto::peer::v1 as pb;
use crate::queue::ids::Position;
use crate::storage::log::{LogEntry, Payload};
use crate::storage::reserve::Stage;
use crate::storage::snapshot::Chunk;

/// A message between nodes that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("{message} has no {field}")]
    Missing { message: &'static str, field: &'static str },
    #[error("{message} has the unknown {field} {value}")]
    Unknown { message: &'static str, field: &'static str, value: i32 },
    #[error("{message} holds a {field} that cannot be read")]
    Json {
        message: &'static str,
        field: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

fn missing(message: &'static str, field: &'static str) -> ConvertError {
    ConvertError::Missing { message, field }
}

/// openraft's vote on the wire.
#[must_use]
pub fn vote_out(vote: &VoteOf<TypeConfig>) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub fn vote_in(
    vote: Option<pb::Vote>,
    message: &'static str,
) -> Result<VoteOf<TypeConfig>, ConvertError> {
    let vote = vote.ok_or_else(|| missing(message, "vote"))?;
    Ok(VoteOf::<TypeConfig> { leader_id: leader(vote.term, vote.node), committed: vote.committed })
}

fn leader(term: u64, node_id: u64) -> LeaderIdOf<TypeConfig> {
    LeaderIdOf::<TypeConfig> { term, node_id }
}

#[must_use]
pub fn log_id_out(id: &LogIdOf<TypeConfig>) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

#[must_use]
pub fn log_id_in(id: pb::LogId) -> LogIdOf<TypeConfig> {
    LogIdOf::<TypeConfig> { leader_id: leader(id.term, id.node), index: id.index }
}

fn ids_out(id: Option<&LogIdOf<TypeConfig>>) -> Option<pb::LogId> {
    id.map(log_id_out)
}

fn entry_out(entry: EntryOf<TypeConfig>) -> Result<pb::LogEntry, ConvertError> {
    let (kind, payload) =
        match entry.payload {
            EntryPayload::Blank => (pb::EntryKind::Blank, Bytes::new()),
            EntryPayload::Normal(proposal) => (pb::EntryKind::Commands, proposal.encoded),
            EntryPayload::Membership(membership) => {
                let json = serde_json::to_vec(&membership).map_err(|source| {
                    ConvertError::Json { message: "an entry", field: "membership", source }
                })?;
                (pb::EntryKind::Membership, json.into())
            }
        };
    Ok(pb::LogEntry { id: Some(log_id_out(&entry.log_id)), kind: kind.into(), payload })
}

fn entry_in(entry: pb::LogEntry) -> Result<EntryOf<TypeConfig>, ConvertError> {
    let message = "an entry";
    let log_id = log_id_in(entry.id.ok_or_else(|| missing(message, "log id"))?);
    let payload = match pb::EntryKind::try_from(entry.kind) {
        Ok(pb::EntryKind::Blank) => EntryPayload::Blank,
        Ok(pb::EntryKind::Commands) => EntryPayload::Normal(Proposal::encoded(entry.payload)),
        Ok(pb::EntryKind::Membership) => {
            let membership = read_membership(&entry.payload)
                .map_err(|source| ConvertError::Json { message, field: "membership", source })?;
            EntryPayload::Membership(membership)
        }
        Ok(pb::EntryKind::Unspecified) | Err(_) => {
            return Err(ConvertError::Unknown { message, field: "kind", value: entry.kind });
        }
    };
    Ok(EntryOf::<TypeConfig> { log_id, payload })
}

pub fn append_out(
    request: AppendEntriesRequest<TypeConfig>,
) -> Result<pb::AppendRequest, ConvertError> {
    Ok(pb::AppendRequest {
        vote: Some(vote_out(&request.vote)),
        previous: ids_out(request.prev_log_id.as_ref()),
        committed: ids_out(request.leader_commit.as_ref()),
        entries: request.entries.into_iter().map(entry_out).collect::<Result<_, _>>()?,
    })
}

pub fn append_in(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, ConvertError> {
    Ok(AppendEntriesRequest {
        vote: vote_in(request.vote, "an append request")?,
        prev_log_id: request.previous.map(log_id_in),
        leader_commit: request.committed.map(log_id_in),
        entries: request.entries.into_iter().map(entry_in).collect::<Result<_, _>>()?,
    })
}

#[must_use]
pub fn appended_out(
    result: &StreamAppendResult<TypeConfig>,
    disk: Option<DiskReport>,
) -> pb::AppendResponse {
    let (result, log_id, vote) = match result {
        Ok(last) => (pb::AppendResult::Success, ids_out(last.as_ref()), None),
        Err(StreamAppendError::Conflict(at)) => {
            (pb::AppendResult::Conflict, Some(log_id_out(at)), None)
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            (pb::AppendResult::HigherVote, None, Some(vote_out(vote)))
        }
    };
    let (stage, disk_free_bytes) = disk.map_or((pb::DiskStage::Unspecified, 0), |disk| {
        let stage = match disk.stage {
            Stage::Ok => pb::DiskStage::Ok,
            Stage::RefuseSends => pb::DiskStage::RefuseSends,
            Stage::RefuseReceives => pb::DiskStage::RefuseReceives,
            Stage::RefuseDeletes => pb::DiskStage::RefuseDeletes,
            Stage::Emergency => pb::DiskStage::Emergency,
        };
        (stage, disk.free_bytes)
    });
    pb::AppendResponse {
        result: result.into(),
        log_id,
        vote,
        disk_stage: stage.into(),
        disk_free_bytes,
    }
}

/// What the answering node says of its disk; none of one that does not know.
#[must_use]
pub fn disk_in(response: &pb::AppendResponse) -> Option<DiskReport> {
    let stage = match response.disk_stage() {
        pb::DiskStage::Unspecified => return None,
        pb::DiskStage::Ok => Stage::Ok,
        pb::DiskStage::RefuseSends => Stage::RefuseSends,
        pb::DiskStage::RefuseReceives => Stage::RefuseReceives,
        pb::DiskStage::RefuseDeletes => Stage::RefuseDeletes,
        pb::DiskStage::Emergency => Stage::Emergency,
    };
    Some(DiskReport { stage, free_bytes: response.disk_free_bytes, at: Instant::now() })
}

pub fn appended_in(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, ConvertError> {
    let message = "an append response";
    match pb::AppendResult::try_from(response.result) {
        Ok(pb::AppendResult::Success | pb::AppendResult::Partial) => {
            Ok(Ok(response.log_id.map(log_id_in)))
        }
        Ok(pb::AppendResult::Conflict) => {
            let at = response.log_id.ok_or_else(|| missing(message, "log id"))?;
            Ok(Err(StreamAppendError::Conflict(log_id_in(at))))
        }
        Ok(pb::AppendResult::HigherVote) => {
            Ok(Err(StreamAppendError::HigherVote(vote_in(response.vote, message)?)))
        }
        Ok(pb::AppendResult::Unspecified) | Err(_) => {
            Err(ConvertError::Unknown { message, field: "result", value: response.result })
        }
    }
}

#[must_use]
pub fn vote_request_out(request: &VoteRequest<TypeConfig>, pre_vote: bool) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_out(&request.vote)),
        last_log_id: ids_out(request.last_log_id.as_ref()),
        pre_vote,
        leadership_transfer: request.leadership_transfer,
    }
}

pub fn vote_request_in(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, ConvertError> {
    Ok(VoteRequest {
        vote: vote_in(request.vote, "a vote request")?,
        last_log_id: request.last_log_id.map(log_id_in),
        leadership_transfer: request.leadership_transfer,
    })
}

#[must_use]
pub fn vote_response_out(response: &VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_out(&response.vote)),
        granted: response.vote_granted,
        last_log_id: ids_out(response.last_log_id.as_ref()),
    }
}

pub fn vote_response_in(
    response: pb::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, ConvertError> {
    Ok(VoteResponse {
        vote: vote_in(response.vote, "a vote response")?,
        vote_granted: response.granted,
        last_log_id: response.last_log_id.map(log_id_in),
    })
}

#[must_use]
pub fn transfer_out(request: &TransferLeaderRequest<TypeConfig>) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        vote: Some(vote_out(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: ids_out(request.last_log_id()),
    }
}

pub fn transfer_in(
    request: pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, ConvertError> {
    let vote = vote_in(request.vote, "a leadership transfer")?;
    Ok(TransferLeaderRequest::new(vote, request.to, request.last_log_id.map(log_id_in)))
}

pub fn head_out(
    vote: &VoteOf<TypeConfig>,
    meta: &SnapshotMetaOf<TypeConfig>,
) -> Result<pb::SnapshotHead, ConvertError> {
    let json = serde_json::to_vec(meta).map_err(|source| ConvertError::Json {
        message: "a snapshot head",
        field: "meta",
        source,
    })?;
    Ok(pb::SnapshotHead { vote: Some(vote_out(vote)), meta: json.into() })
}

pub fn head_in(
    head: pb::SnapshotHead,
) -> Result<(VoteOf<TypeConfig>, SnapshotMetaOf<TypeConfig>), ConvertError> {
    let message = "a snapshot head";
    let vote = vote_in(head.vote, message)?;
    let meta = read_snapshot_meta(&head.meta).map_err(|source| ConvertError::Json {
        message,
        field: "meta",
        source,
    })?;
    Ok((vote, meta))
}

/// An entry as the log of a node holds it, for one that mends its own; openraft has no part in it.
#[must_use]
pub fn stored_out(entry: LogEntry) -> pb::LogEntry {
    let (kind, payload) = match entry.payload {
        Payload::Blank => (pb::EntryKind::Blank, Bytes::new()),
        Payload::Membership(bytes) => (pb::EntryKind::Membership, bytes),
        Payload::Commands(bytes) => (pb::EntryKind::Commands, bytes),
    };
    let Position { term, node, index } = entry.position;
    pb::LogEntry { id: Some(pb::LogId { term, node, index }), kind: kind.into(), payload }
}

/// `None` of an entry without a position or of an unknown kind.
#[must_use]
pub fn stored_in(entry: pb::LogEntry) -> Option<LogEntry> {
    let payload = match entry.kind() {
        pb::EntryKind::Blank => Payload::Blank,
        pb::EntryKind::Membership => Payload::Membership(entry.payload),
        pb::EntryKind::Commands => Payload::Commands(entry.payload),
        pb::EntryKind::Unspecified => return None,
    };
    let id = entry.id?;
    Some(LogEntry { position: Position { term: id.term, node: id.node, index: id.index }, payload })
}

#[must_use]
pub fn chunk_out(chunk: Chunk) -> pb::SnapshotChunk {
    pb::SnapshotChunk { offset: chunk.offset, data: chunk.data, checksum: chunk.checksum }
}

/// The checksum stays the sender's: the snapshot's taker compares it with the data.
#[must_use]
pub fn chunk_in(chunk: pb::SnapshotChunk) -> Chunk {
    Chunk { offset: chunk.offset, data: chunk.data, checksum: chunk.checksum }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::{Membership, SnapshotMeta, StoredMembership};
    use prost::Message as _;

    use super::super::super::types::Member;
    use super::*;

    fn at(term: u64, node: u64, index: u64) -> LogIdOf<TypeConfig> {
        log_id_in(pb::LogId { term, node, index })
    }

    fn vote(term: u64, node: u64, committed: bool) -> VoteOf<TypeConfig> {
        VoteOf::<TypeConfig> { leader_id: leader(term, node), committed }
    }

    fn membership() -> Membership<u64, Member> {
        let nodes: BTreeMap<u64, Member> = (1..=4)
            .map(|id| {
                let (zone, peer_address) = (format!("z{id}"), format!("127.0.0.1:750{id}"));
                (id, Member { zone, peer_address, ..Member::default() })
            })
            .collect();
        let voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        Membership::new(voters, nodes).unwrap()
    }

    #[test]
    fn an_append_request_comes_back_as_it_left() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal::encoded(Bytes::from_static(b"commands"))),
            EntryPayload::Membership(membership()),
        ];
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: vote(7, 2, true),
            prev_log_id: Some(at(6, 1, 40)),
            leader_commit: None,
            entries: (41..)
                .zip(payloads)
                .map(|(index, payload)| EntryOf::<TypeConfig> { log_id: at(7, 2, index), payload })
                .collect(),
        };
        let wire = append_out(request.clone()).unwrap().encode_to_vec();
        let back = append_in(pb::AppendRequest::decode(&*wire).unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }

    #[test]
    fn commands_are_not_copied_on_their_way_in() {
        let entry = EntryOf::<TypeConfig> {
            log_id: at(1, 1, 1),
            payload: EntryPayload::Normal(Proposal::encoded(Bytes::from(vec![9; 1000]))),
        };
        let frame = Bytes::from(entry_out(entry).unwrap().encode_to_vec());
        let entry = entry_in(pb::LogEntry::decode(frame.clone()).unwrap()).unwrap();
        let EntryPayload::Normal(proposal) = entry.payload else { panic!("not commands") };
        assert!(frame.as_ptr_range().contains(&proposal.encoded.as_ptr()));
    }

    #[test]
    fn every_append_answer_comes_back_as_it_left() {
        let answers: [StreamAppendResult<TypeConfig>; 4] = [
            Ok(None),
            Ok(Some(at(3, 1, 9))),
            Err(StreamAppendError::Conflict(at(2, 3, 8))),
            Err(StreamAppendError::HigherVote(vote(9, 3, false))),
        ];
        for answer in answers {
            assert_eq!(appended_in(appended_out(&answer, None)).unwrap(), answer);
        }
    }

    #[test]
    fn votes_and_transfers_come_back_as_they_left() {
        for leadership_transfer in [false, true] {
            let request = VoteRequest::<TypeConfig> {
                vote: vote(4, 2, false),
                last_log_id: Some(at(3, 1, 17)),
                leadership_transfer,
            };
            let wire = vote_request_out(&request, true);
            assert!(wire.pre_vote);
            assert_eq!(vote_request_in(wire).unwrap(), request);
        }
        let response = VoteResponse::<TypeConfig>::new(vote(4, 2, false), None, true);
        assert_eq!(vote_response_in(vote_response_out(&response)).unwrap(), response);
        let transfer = TransferLeaderRequest::new(vote(4, 2, true), 3, Some(at(4, 2, 20)));
        assert_eq!(transfer_in(transfer_out(&transfer)).unwrap(), transfer);
    }

    #[test]
    fn a_snapshot_head_comes_back_as_it_left() {
        let meta = SnapshotMeta {
            last_log_id: Some(at(3, 1, 9)),
            last_membership: StoredMembership::new(Some(at(2, 1, 4)), membership()),
        };
        let (found_vote, found) = head_in(head_out(&vote(3, 1, true), &meta).unwrap()).unwrap();
        assert_eq!((found_vote, found), (vote(3, 1, true), meta));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        let error = append_in(pb::AppendRequest::default()).unwrap_err();
        assert_eq!(error.to_string(), "an append request has no vote");

        let entry = pb::LogEntry { id: Some(pb::LogId::default()), ..Default::default() };
        let error = entry_in(entry.clone()).unwrap_err();
        assert_eq!(error.to_string(), "an entry has the unknown kind 0");

        let garbled = pb::LogEntry {
            kind: pb::EntryKind::Membership.into(),
            payload: Bytes::from_static(b"{"),
            ..entry
        };
        let error = entry_in(garbled).unwrap_err();
        assert_eq!(error.to_string(), "an entry holds a membership that cannot be read");

        let error = appended_in(pb::AppendResponse { result: 77, ..Default::default() });
        assert_eq!(error.unwrap_err().to_string(), "an append response has the unknown result 77");
    }
}
