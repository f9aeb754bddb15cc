//! What nodes of one cluster say to each other.

use prost::Message as _;
use zoneq::consensus::transport::{convert, incoming_chunk};
use zoneq::proto::peer::v1 as peer;
use zoneq::queue::ids::{Epoch, Position};
use zoneq::queue::milestones::Milestone;
use zoneq::storage::codec;

use super::stored::sealed_record;
use super::{kinds, of_kind, stocked};

kinds! {
    /// Every message of an rpc between nodes that has fields.
    PEERS:
    peer.AppendRequest => appended,
    peer.AppendResponse => |it: peer::AppendResponse| {
        let disk = convert::disk_in(&it);
        let Ok(read) = convert::appended_in(it) else { return false };
        let written = convert::appended_out(&read, disk);
        assert_eq!(convert::disk_in(&written).map(|it| it.stage), disk.map(|it| it.stage));
        assert_eq!(convert::appended_in(written).expect("what was written is read"), read);
        true
    },
    peer.VoteRequest => |it: peer::VoteRequest| {
        let pre_vote = it.pre_vote;
        let Ok(read) = convert::vote_request_in(it) else { return false };
        let again = convert::vote_request_in(convert::vote_request_out(&read, pre_vote));
        assert_eq!(again.expect("what was written is read"), read);
        true
    },
    peer.VoteResponse => |it: peer::VoteResponse| {
        let Ok(read) = convert::vote_response_in(it) else { return false };
        let again = convert::vote_response_in(convert::vote_response_out(&read));
        assert_eq!(again.expect("what was written is read"), read);
        true
    },
    peer.InstallSnapshotRequest => |it: peer::InstallSnapshotRequest| {
        use peer::install_snapshot_request::Part;
        match it.part {
            Some(Part::Head(head)) => headed(head),
            Some(Part::Chunk(chunk)) => {
                assert_eq!(convert::chunk_out(convert::chunk_in(chunk.clone())), chunk);
                true
            }
            None => false,
        }
    },
    peer.InstallSnapshotResponse => |it: peer::InstallSnapshotResponse| {
        let Ok(vote) = convert::vote_in(it.vote, "an answer") else { return false };
        assert_eq!(Some(convert::vote_out(&vote)), it.vote);
        true
    },
    peer.TransferLeaderRequest => |it: peer::TransferLeaderRequest| {
        let Ok(read) = convert::transfer_in(it) else { return false };
        let again = convert::transfer_in(convert::transfer_out(&read));
        assert_eq!(again.expect("what was written is read"), read);
        true
    },
    peer.TransferLeaderResponse,
    peer.ReadClockResponse,
    peer.ReadLogRequest,
    peer.ReadLogResponse => |it: peer::ReadLogResponse| {
        it.entries.into_iter().all(|given| {
            let Some(read) = convert::stored_in(given) else { return false };
            let again = convert::stored_in(convert::stored_out(read.clone()));
            assert_eq!(again, Some(read));
            true
        })
    },
    peer.ReadSnapshotRequest,
    peer.ReadSnapshotResponse => |it: peer::ReadSnapshotResponse| incoming_chunk(it).is_some(),
    peer.ReadContentRequest,
    peer.ReadContentResponse => |it: peer::ReadContentResponse| sealed_record(&it.record),
    peer.CompareRequest => |it: peer::CompareRequest| {
        let own = milestones();
        codec::compared_to(&own, it.milestones.unwrap_or_default()).is_ok_and(|answer| {
            codec::compared_from(&own, answer).expect("an own answer is read");
            true
        })
    },
    peer.CompareResponse => |it: peer::CompareResponse| {
        codec::compared_from(&milestones(), it.compared.unwrap_or_default()).is_ok()
    },
    peer.GetDigestRequest,
    peer.GetDigestResponse,
    peer.GetStandingResponse,
}

/// What this side of a comparison has.
pub fn milestones() -> Vec<Milestone> {
    let (state, _) = stocked();
    let at = |index| Position { term: 1, node: 1, index };
    [1, 1_024].map(|index| state.milestone(Epoch(1), at(index))).into()
}

fn appended(request: peer::AppendRequest) -> bool {
    let Ok(read) = convert::append_in(request) else { return false };
    let written = convert::append_out(read).expect("what was read is written");
    let again = convert::append_in(written.clone()).expect("what was written is read");
    let again = convert::append_out(again).expect("what was read is written");
    assert_eq!(again, written);
    true
}

fn headed(head: peer::SnapshotHead) -> bool {
    let Ok((vote, meta)) = convert::head_in(head) else { return false };
    let written = convert::head_out(&vote, &meta).expect("what was read is written");
    let again = convert::head_in(written).expect("what was written is read");
    assert_eq!(again, (vote, meta));
    true
}

pub fn peer_append(data: &[u8]) -> bool {
    peer::AppendRequest::decode(data).is_ok_and(appended)
}

/// The first byte says which message follows.
pub fn peer_vote(data: &[u8]) -> bool {
    let Some((kind, data)) = data.split_first() else { return false };
    match kind % 4 {
        0 => peer::VoteRequest::decode(data).is_ok_and(|it| convert::vote_request_in(it).is_ok()),
        1 => peer::VoteResponse::decode(data).is_ok_and(|it| convert::vote_response_in(it).is_ok()),
        2 => peer::SnapshotHead::decode(data).is_ok_and(headed),
        _ => peer::AppendResponse::decode(data).is_ok_and(|it| convert::disk_in(&it).is_some()),
    }
}

pub fn peer_message(data: &[u8]) -> bool {
    of_kind(PEERS, data)
}
