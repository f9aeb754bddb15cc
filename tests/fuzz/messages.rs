//! Examples of the messages of rpcs, as nodes, clients and operators send them. A message that
//! needs nothing has an empty one by itself.

use bytes::Bytes;
use prost::Message as _;
use prost_types::{Duration, Timestamp};
use zoneq::api::grpc::{questions, requests, wishes};
use zoneq::proto::admin::v1 as admin;
use zoneq::proto::geo::v1 as geo;
use zoneq::proto::log::v1 as log;
use zoneq::proto::peer::v1 as peer;
use zoneq::proto::queue::v1 as queue;
use zoneq::queue::authority::RegionEpoch;
use zoneq::queue::authority::command::{RegionVerb, ShippedBatch};
use zoneq::queue::ids::{ContentId, Epoch};
use zoneq::storage::bodies::encode_record;
use zoneq::storage::codec;

use crate::decoders::{
    ANSWERS, ATTACHMENT, Kind, LINEAGE, OPERATORS, PEERS, REGIONS, commit, first_line, milestones,
    region, secondary, stocked,
};
use crate::samples;

/// A message under its name.
type Given = (&'static str, Vec<u8>);

macro_rules! given {
    ($package:ident.$message:ident { $($fields:tt)* }) => {
        (
            concat!(stringify!($package), ".", stringify!($message)),
            $package::$message { $($fields)* }.encode_to_vec(),
        )
    };
}

/// Each with its place in the list in front; those of which none is given are empty.
fn placed(names: &[&str], given: &[Given]) -> Vec<Vec<u8>> {
    let unknown: Vec<&str> =
        given.iter().map(|(name, _)| *name).filter(|name| !names.contains(name)).collect();
    assert!(unknown.is_empty(), "no list has {unknown:?}");
    let of = |name: &str| -> Vec<&[u8]> {
        given.iter().filter(|(it, _)| *it == name).map(|(_, bytes)| bytes.as_slice()).collect()
    };
    let mut all = Vec::new();
    for (number, name) in (0u8..).zip(names) {
        let mut examples = of(name);
        if examples.is_empty() {
            examples.push(&[]);
        }
        all.extend(examples.into_iter().map(|bytes| [&[number], bytes].concat()));
    }
    all
}

fn names(list: &[Kind]) -> Vec<&'static str> {
    list.iter().map(|kind| kind.message).collect()
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 5_000 })
}

fn time() -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 })
}

fn orders() -> String {
    "orders".to_owned()
}

/// What a write that is more than its kind needs.
pub fn requests() -> Vec<Vec<u8>> {
    let (_, granted) = stocked();
    let (id, pop_receipt) = (granted.id.to_string(), granted.receipt.to_string());
    let headers = queue::Headers { values: [("colour".to_owned(), "red".to_owned())].into() };
    let send = queue::SendRequest {
        queue: orders(),
        messages: vec![queue::NewMessage { body: Bytes::from_static(b"b"), ..Default::default() }],
        ..Default::default()
    };
    let open = queue::ReceiveStreamOpen { queue: orders(), ..Default::default() };
    let delete = queue::ReceiveStreamDelete {
        tag: 3,
        items: vec![queue::DeleteItem { id: id.clone(), pop_receipt: pop_receipt.clone() }],
        ..Default::default()
    };
    use queue::receive_stream_request::Request;
    let more = [
        given!(queue.UpdateRequest {
            queue: orders(),
            id: id.clone(),
            pop_receipt,
            visibility_timeout: seconds(9),
            body: Some(Bytes::from_static(b"another body")),
            headers: Some(headers),
            ..Default::default()
        }),
        given!(queue.ClearRequest { queue: orders(), ..Default::default() }),
        given!(queue.DeleteQueueRequest { name: orders(), ..Default::default() }),
        given!(queue.PauseQueueRequest { name: orders(), ..Default::default() }),
        given!(queue.ResumeQueueRequest { name: orders(), ..Default::default() }),
        given!(queue.CancelRedriveRequest { queue: orders(), id, ..Default::default() }),
        given!(queue.SetAccountQuotaRequest {
            quota: Some(queue::AccountQuota { max_messages: 1, max_bytes: 2_000, max_queues: 3 }),
            ..Default::default()
        }),
        given!(queue.SendStreamRequest {
            items: vec![queue::SendStreamItem { tag: 9, send: Some(send) }],
        }),
        given!(queue.ReceiveStreamRequest { request: Some(Request::Open(open)) }),
        given!(queue.ReceiveStreamRequest { request: Some(Request::Delete(delete)) }),
    ];
    let first: Vec<Vec<u8>> = samples::requests();
    let begun = u8::try_from(first.len()).expect("few");
    let rest = placed(requests::MESSAGES, &more);
    first.into_iter().chain(rest.into_iter().filter(|bytes| bytes[0] >= begun)).collect()
}

pub fn questions() -> Vec<Vec<u8>> {
    let (_, granted) = stocked();
    let at = Some(queue::Position { term: 1, node: 2, index: 3 });
    let peek = |state: queue::MessageState, page_token: &str| {
        given!(queue.PeekRequest {
            queue: orders(),
            max_messages: 10,
            state: state.into(),
            page_token: page_token.to_owned(),
            max_staleness: seconds(1),
            ..Default::default()
        })
    };
    let given = [
        given!(queue.GetQueueRequest { name: orders(), ..Default::default() }),
        given!(queue.ListQueuesRequest {
            prefix: "o".to_owned(),
            page_size: 5,
            page_token: "n".to_owned(),
            ..Default::default()
        }),
        given!(queue.ListQueuesRequest {
            page_token: "orders/3".to_owned(),
            deleted: true,
            ..Default::default()
        }),
        peek(queue::MessageState::Visible, "4-1-f4240-2"),
        peek(queue::MessageState::Leased, ""),
        peek(queue::MessageState::Dead, ""),
        given!(queue.GetMessageRequest {
            queue: orders(),
            id: granted.id.to_string(),
            ..Default::default()
        }),
        given!(queue.ListRedrivesRequest { queue: orders(), ..Default::default() }),
        given!(queue.ListAccountsRequest { page_token: "a".to_owned(), ..Default::default() }),
        given!(queue.GetDurabilityRequest { position: at }),
        given!(queue.StartRedriveRequest {
            queue: orders(),
            filter: Some(queue::RedriveFilter { dead_since: time(), ..Default::default() }),
            dry_run: true,
            ..Default::default()
        }),
    ];
    placed(questions::MESSAGES, &given)
}

pub fn wishes() -> Vec<Vec<u8>> {
    let outages =
        vec![admin::LineOutage { after: seconds(10), lasts: seconds(5), every: seconds(60) }];
    let step = |at, down| admin::LineStep {
        at: seconds(at),
        delay: seconds(1),
        bytes_per_second: Some(2_048),
        down,
    };
    let trace =
        admin::LineTrace { steps: vec![step(0, false), step(7, true)], repeats: seconds(20) };
    let given = [
        given!(admin.AddLearnerRequest {
            id: 4,
            zone: "z2".to_owned(),
            peer_address: "10.0.0.4:7501".to_owned(),
            grpc_address: "10.0.0.4:7401".to_owned(),
            who: "an operator".to_owned(),
        }),
        given!(admin.ChangeVotersRequest { voters: vec![1, 2, 4], ..Default::default() }),
        given!(admin.ReplaceNodeRequest { old_id: 3, new_id: 4, ..Default::default() }),
        given!(admin.RemoveNodeRequest { id: 3, ..Default::default() }),
        given!(admin.ShapeLineRequest {
            delay: seconds(1),
            jitter: seconds(2),
            bytes_per_second: Some(4_096),
            paused: Some(false),
            outages: Some(admin::LineOutages { outages }),
            trace: Some(trace),
            ..Default::default()
        }),
        given!(admin.SetLagLimitRequest {
            max_lag: seconds(60),
            max_unshipped_bytes: Some(1 << 20),
            throttle: Some(true),
            ..Default::default()
        }),
        given!(admin.SetRegionLeaseRequest { lease: seconds(10), ..Default::default() }),
        given!(admin.SettleTailRequest {
            fate: admin::TailFate::Exported.into(),
            ..Default::default()
        }),
        given!(admin.AwaitWritableRequest { wait: seconds(3) }),
    ];
    placed(wishes::MESSAGES, &given)
}

pub fn operators() -> Vec<Vec<u8>> {
    let given = [
        given!(admin.ForceFailOverRequest {
            who: "an operator".to_owned(),
            from_epoch: 3,
            ..Default::default()
        }),
        given!(admin.SetFaultsRequest { cut_peers: vec![2, 3], ..Default::default() }),
        given!(admin.AcceptLossRequest { first_index: 7, last_index: 9 }),
        given!(admin.GetStatusRequest { of_leader: true }),
        given!(admin.AcceptClockRequest { who: who() }),
        given!(admin.PromoteCopyRequest { who: who() }),
    ];
    placed(&names(OPERATORS), &given)
}

fn a_message() -> queue::Message {
    queue::Message {
        id: stocked().1.id.to_string(),
        body: Bytes::from_static(b"a body"),
        inserted_at: time(),
        visible_at: time(),
        dead_letter: Some(queue::DeadLetter { dead_lettered_at: time(), ..Default::default() }),
        ..Default::default()
    }
}

pub fn answers() -> Vec<Vec<u8>> {
    let settings = queue::QueueSettings {
        default_ttl: seconds(60),
        back_off: Some(queue::BackOff { first: seconds(1), most: seconds(9), factor: 2 }),
        ..Default::default()
    };
    let one = queue::Queue {
        name: orders(),
        settings: Some(settings),
        created_at: time(),
        ..Default::default()
    };
    let refused = queue::ItemError { code: 5, retry_after: seconds(1), ..Default::default() };
    let result = Some(queue::send_stream_result::Result::Error(refused));
    let redrive = queue::Redrive { queue: orders(), started_at: time(), ..Default::default() };
    let tail = admin::TailMessage {
        queue: orders(),
        body: Bytes::from_static(b"b"),
        inserted_at: time(),
        ..Default::default()
    };
    let removal = admin::TailRemoval { queue: orders(), at: time(), ..Default::default() };
    let given = [
        given!(queue.GetQueueResponse { queue: Some(one.clone()), log_time: time() }),
        given!(queue.ListQueuesResponse { queues: vec![one], ..Default::default() }),
        given!(queue.SendStreamResponse {
            results: vec![queue::SendStreamResult { tag: 1, result }],
        }),
        given!(queue.ReceiveResponse { messages: vec![a_message()], ..Default::default() }),
        given!(queue.ReceiveStreamResponse { messages: vec![a_message()], ..Default::default() }),
        given!(queue.GetMessageResponse { message: Some(a_message()), ..Default::default() }),
        given!(queue.ListRedrivesResponse { redrives: vec![redrive], ..Default::default() }),
        given!(admin.GetRegionResponse { log_time: time(), ..Default::default() }),
        given!(admin.ListTailResponse {
            item: Some(admin::list_tail_response::Item::Message(tail)),
        }),
        given!(admin.ListTailResponse {
            item: Some(admin::list_tail_response::Item::Removed(removal)),
        }),
        given!(admin.AcceptClockResponse {
            log_time: time(),
            wall_time: time(),
            was_agreed: true,
        }),
    ];
    placed(&names(ANSWERS), &given)
}

fn vote() -> Option<peer::Vote> {
    Some(peer::Vote { term: 3, node: 1, committed: true })
}

pub fn peers() -> Vec<Vec<u8>> {
    use peer::install_snapshot_request::Part;
    let at = Some(peer::LogId { term: 3, node: 1, index: 9 });
    let head = peer::SnapshotHead { vote: vote(), meta: Bytes::from_static(samples::META) };
    let data = Bytes::from_static(b"a part of a snapshot");
    let chunk = peer::SnapshotChunk { offset: 7, checksum: crc32c::crc32c(&data), data };
    let entry = |kind: peer::EntryKind, payload: &'static [u8]| peer::LogEntry {
        id: at,
        kind: kind.into(),
        payload: Bytes::from_static(payload),
    };
    let record = encode_record(ContentId(9), &samples::content(b"a body"));
    let own = milestones();
    let asked = codec::milestones_to(&own);
    let compared = codec::compared_to(&own, asked.clone()).ok();
    let given = [
        ("peer.AppendRequest", samples::append().encode_to_vec()),
        given!(peer.AppendResponse {
            result: peer::AppendResult::Success.into(),
            log_id: at,
            disk_stage: peer::DiskStage::Ok.into(),
            disk_free_bytes: 1 << 30,
            ..Default::default()
        }),
        given!(peer.AppendResponse {
            result: peer::AppendResult::HigherVote.into(),
            vote: vote(),
            ..Default::default()
        }),
        given!(peer.VoteRequest { vote: vote(), last_log_id: at, ..Default::default() }),
        given!(peer.VoteResponse { vote: vote(), granted: true, last_log_id: at }),
        given!(peer.InstallSnapshotRequest { part: Some(Part::Head(head)) }),
        given!(peer.InstallSnapshotRequest { part: Some(Part::Chunk(chunk.clone())) }),
        given!(peer.InstallSnapshotResponse { vote: vote() }),
        given!(peer.TransferLeaderRequest { vote: vote(), to: 2, last_log_id: at }),
        given!(peer.ReadClockResponse { wall_time_us: 1_700_000_000_000_000 }),
        given!(peer.ReadLogRequest { from_index: 3, to_index: 9 }),
        given!(peer.ReadLogResponse {
            entries: vec![
                entry(peer::EntryKind::Blank, b""),
                entry(peer::EntryKind::Membership, samples::MEMBERSHIP),
            ],
        }),
        given!(peer.ReadSnapshotResponse { chunk: Some(chunk) }),
        given!(peer.ReadContentResponse { record, applied_index: 9 }),
        given!(peer.CompareRequest { milestones: Some(asked) }),
        given!(peer.CompareResponse { compared }),
        given!(peer.GetDigestResponse { index: 9, digest: Bytes::from_static(&[7; 16]) }),
        given!(peer.GetStandingResponse {
            formed: true,
            standing: peer::NodeStanding::Voter.into(),
            held_index: 9,
            admitted: true,
            held_term: 3,
        }),
    ];
    placed(&names(PEERS), &given)
}

fn lineage() -> Bytes {
    Bytes::copy_from_slice(&LINEAGE.to_be_bytes())
}

fn attachment() -> Bytes {
    Bytes::copy_from_slice(&ATTACHMENT.to_be_bytes())
}

fn who() -> String {
    "an operator".to_owned()
}

/// A batch that the secondary takes.
fn of_first_epoch() -> ShippedBatch {
    ShippedBatch { line: first_line(), ..samples::batch() }
}

#[test]
fn a_batch_of_the_examples_comes_to_the_state_of_the_secondary() {
    let verb = RegionVerb::ApplyShipped(of_first_epoch());
    let state = commit(secondary(), vec![region(verb, String::new())]);
    assert_eq!(state.totals().0, 1, "it makes a queue");
}

/// The ledger of the region that asks.
fn ledger() -> Vec<log::LedgerLine> {
    vec![codec::line_to(&first_line())]
}

/// What one region asks of the other about the epochs.
fn asked_of_regions() -> Vec<Given> {
    vec![
        given!(geo.FenceRequest {
            lineage: lineage(),
            ledger: vec![codec::line_to(&first_line()), samples::ledger_line()],
        }),
        given!(geo.AttachRequest {
            lineage: lineage(),
            attachment: attachment(),
            ledger: ledger(),
            who: who(),
            ..Default::default()
        }),
        given!(geo.DetachRequest { lineage: lineage(), who: who(), wipe: false }),
        given!(geo.DetachRequest { lineage: lineage(), who: who(), wipe: true }),
        given!(geo.HandOverRequest { lineage: lineage(), who: who(), to: "west".to_owned() }),
        given!(geo.DeclineRequest { lineage: lineage(), number: 2, who: who() }),
        given!(geo.AcceptLeaseRequest {
            lineage: lineage(),
            attachment: attachment(),
            epoch: 1,
            lease_us: Some(10_000_000),
            who: who(),
        }),
        given!(geo.GrantLeaseRequest {
            lineage: lineage(),
            attachment: attachment(),
            epoch: 1,
            lease_us: 10_000_000,
        }),
        given!(geo.ResolveRequest {
            lineage: lineage(),
            keep: "east".to_owned(),
            number: 2,
            who: who(),
        }),
        given!(geo.SendTailRequest { lineage: lineage(), who: who(), ..Default::default() }),
    ]
}

pub fn regions() -> Vec<Vec<u8>> {
    use geo::ship_request::Message;
    let epoch = RegionEpoch { number: Epoch(1), region: "east".to_owned() };
    let hello =
        geo::Hello { lineage: lineage(), attachment: attachment(), region: "east".to_owned() };
    let batch = |batch: &ShippedBatch| {
        let content = Bytes::from(codec::batch_to(batch).encode_to_vec());
        let batch = geo::Batch { crc32c: crc32c::crc32c(&content), content };
        given!(geo.ShipRequest { message: Some(Message::Batch(batch)) })
    };
    let behind = |messages, numbers| geo::QueueAhead {
        account: "default".to_owned(),
        queue: orders(),
        messages,
        numbers,
    };
    let ahead = geo::Ahead {
        queues: vec![behind(2, vec![7, 9]), behind(40, vec![])],
        ..Default::default()
    };
    let shape = log::Shape {
        delay_us: 20_000,
        outages: vec![log::ShapeOutage { after_us: 1, lasts_us: 2, every_us: Some(3) }],
        trace: vec![log::ShapeStep { at_us: 1, delay_us: 2, ..Default::default() }],
        trace_repeats_us: Some(9),
        ..Default::default()
    };
    let own = milestones();
    let mut given = asked_of_regions();
    given.extend(samples::seed_steps().into_iter().map(|bytes| ("geo.SeedRequest", bytes)));
    given.extend([
        given!(geo.ShipRequest { message: Some(Message::Hello(hello)) }),
        batch(&samples::batch()),
        batch(&of_first_epoch()),
        given!(geo.ShipResponse { epoch: Some(codec::epoch_to(&epoch)), ..Default::default() }),
        given!(geo.GetStatusRequest {
            next_message: 1,
            epoch: Some(codec::epoch_to(&epoch)),
            applied_through: Some(log::Position { term: 1, node: 1, index: 3 }),
        }),
        given!(geo.GetStatusResponse {
            lineage: lineage(),
            epoch: Some(codec::epoch_to(&epoch)),
            ledger: ledger(),
            shape: Some(shape),
            ahead: Some(ahead),
            bytes_ahead: Some(1 << 20),
            wall_us: Some(1_700_000_000_000_000),
            ..Default::default()
        }),
        given!(geo.ReplayTailRequest {
            lineage: lineage(),
            epoch: Some(codec::epoch_to(&epoch)),
            content: samples::tail_part().encode_to_vec().into(),
            ..Default::default()
        }),
        given!(geo.InventoryRequest {
            lineage: lineage(),
            attachment: attachment(),
            ..Default::default()
        }),
        given!(geo.InventoryResponse {
            digest: Bytes::from_static(&[7; 16]),
            sums: vec![geo::InventorySum { key: Bytes::from_static(b"\x10"), sum: 9 }],
            runs: vec![1, 2, 3, 4],
            seed: Some(geo::InventorySeed { ledger: ledger(), ..Default::default() }),
        }),
        given!(geo.CompareRequest {
            lineage: lineage(),
            milestones: Some(codec::milestones_to(&own)),
        }),
        given!(geo.CompareResponse {
            compared: codec::compared_to(&own, codec::milestones_to(&own)).ok(),
        }),
        given!(geo.CarryRequest {
            lineage: lineage(),
            who: who(),
            verb: Some(geo::carry_request::Verb::FailBack(geo::CarryFailBack {
                to: "east".to_owned(),
                run: true,
                ..Default::default()
            })),
        }),
        given!(geo.CarryRequest {
            who: who(),
            verb: Some(geo::carry_request::Verb::Protect(geo::CarryProtect { discard_tail: true })),
            ..Default::default()
        }),
        given!(geo.CarryRequest {
            lineage: lineage(),
            verb: Some(geo::carry_request::Verb::TakeBack(geo::CarryTakeBack { force: true })),
            ..Default::default()
        }),
        given!(geo.CarryResponse {
            way: Some(geo::CarryWay {
                to: "east".to_owned(),
                stages: vec![1, 2, 3, 4, 9],
                trouble: "the copy is being given the data".to_owned(),
                ..Default::default()
            }),
        }),
        given!(geo.SendTailResponse {
            not_sent: vec![geo::TailNotSent { why: 1, ..Default::default() }],
            total_sent: 4,
            ..Default::default()
        }),
    ]);
    placed(&names(REGIONS), &given)
}
