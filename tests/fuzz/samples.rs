//! The first examples: bytes as the program writes them.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::sync::oneshot;
use zoneq::cli::lab::files::{Lab, LabNode};
use zoneq::cli::tail::exported;
use zoneq::proto::admin::v1 as admin;
use zoneq::proto::geo::v1 as geo;
use zoneq::proto::log::v1 as log;
use zoneq::proto::peer::v1 as peer;
use zoneq::proto::queue::v1 as pb;
use zoneq::queue::PeekToken;
use zoneq::queue::authority::command::ShippedBatch;
use zoneq::queue::command::{Command, Content, Entry, Envelope, NewMessage, Receive, SessionTag};
use zoneq::queue::ids::{ContentId, Digest, Epoch, LogTime, Number, Position};
use zoneq::storage::bodies::{Directory, Flush, Group, Place, SegmentFiles};
use zoneq::storage::codec::{self, Mark, Part};
use zoneq::storage::disk::faulty::FaultyDisk;
use zoneq::storage::disk::{Disk, OpenMode};
use zoneq::storage::format::{DataDir, Identity};
use zoneq::storage::log::{Log, LogEntry, Payload};
use zoneq::storage::store::Store;
use zoneq::storage::vote::{VoteFile, VoteRecord};

use crate::decoders::{
    RECORDS, SEGMENT_HEAD, first_segment, in_runtime, log_options, stocked, tables_options,
};
use crate::messages;

/// Examples for the decoder of this name.
#[must_use]
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "entry" => entries().iter_mut().map(|it| codec::encode_entry(it).to_vec()).collect(),
        "apply" => vec![story()],
        "row" => rows(),
        "mark" => vec![codec::encode_mark(&mark())],
        "snapshot-part" => parts(),
        "headers" => vec![headers()],
        "shipped-batch" => vec![codec::batch_to(&batch()).encode_to_vec()],
        "seed-step" => seed_steps(),
        "ledger-line" => vec![ledger_line().encode_to_vec()],
        "tail-part" => vec![tail_part().encode_to_vec()],
        "peer-append" => vec![append().encode_to_vec()],
        "peer-vote" => votes(),
        "peer-message" => messages::peers(),
        "geo-message" => messages::regions(),
        "client-request" => messages::requests(),
        "client-question" => messages::questions(),
        "operator-request" => messages::wishes(),
        "operator-message" => messages::operators(),
        "answer" => messages::answers(),
        "membership" => vec![MEMBERSHIP.to_vec()],
        "state-rows" => vec![whole_state()],
        "snapshot-stream" => vec![snapshot()],
        "contents-row" => contents_rows(),
        "tables-pointer" => vec![pointer()],
        "text" => texts(),
        "config-file" => vec![CONFIG.as_bytes().to_vec()],
        "files" => files(),
        "log-segment" => vec![segment()],
        "log-record" => vec![record()],
        "body-record" => vec![body_record()],
        "vote-file" => vec![vote_file()],
        "identity" => vec![identity()],
        _ => Vec::new(),
    }
}

/// A membership, as nodes write one.
pub const MEMBERSHIP: &[u8] = br#"{
    "configs": [[1, 2]],
    "nodes": {
        "1": {"zone": "z1", "region": "east", "peer_address": "h:7501", "grpc_address": ""},
        "2": {"zone": "z2", "region": "east", "peer_address": "h:7502", "grpc_address": ""}
    }
}"#;

/// What the head of a snapshot says of it.
pub const META: &[u8] = br#"{
    "last_log_id": null,
    "last_membership": {"log_id": null, "membership": {"configs": [], "nodes": {}}},
    "snapshot_id": "1"
}"#;

const CONFIG: &str = r#"
node_id = 1
cluster_id = "shop"
zone = "z1"
data_dir = "/var/lib/zoneq"
grpc_listen = "127.0.0.1:7401"
peer_listen = "127.0.0.1:7501"
peers = "1=z1@127.0.0.1:7501/127.0.0.1:7401,2=z2@127.0.0.1:7502,3=z3@127.0.0.1:7503"
election_ms = "500..1000"
other_region = "127.0.0.1:8501,127.0.0.1:8502"
region_compression = "zstd"
disk_reserve_bytes = 1000000
"#;

pub fn content(body: &'static [u8]) -> Content {
    let headers = [("colour".to_owned(), "green".to_owned())].into();
    Content { body: Bytes::from_static(body), headers }
}

fn message(body: &'static [u8]) -> NewMessage {
    NewMessage {
        content: content(body),
        key: Some(Box::new(7)),
        group: Some("of one customer".into()),
        ..NewMessage::default()
    }
}

/// A queue that is made, filled, received from and cleared.
fn entries() -> Vec<Entry> {
    let queue = || "orders".to_owned();
    let session = Some(SessionTag { client: 5, sequence: 1, lowest_unanswered: 1 });
    let receive =
        Receive { queue: queue(), max_messages: 10, max_bytes: 1 << 20, visibility: None };
    let commands = [
        Command::CreateQueue {
            name: queue(),
            metadata: [("team".to_owned(), "shop".to_owned())].into(),
            settings: Default::default(),
        },
        Command::Send { queue: queue(), messages: vec![message(b"first"), message(b"second")] },
        Command::Receive(receive),
        Command::SetPaused { name: queue(), paused: true },
        Command::Clear { queue: queue() },
        Command::Pulse,
        Command::DeleteQueue { name: queue() },
    ];
    (1..)
        .zip(commands)
        .map(|(index, command)| Entry {
            position: Position { term: 1, node: 1, index },
            stamp: LogTime(1_000_000 * index),
            epoch: Epoch(1),
            commands: vec![Envelope { session, account: "main".to_owned(), command }],
        })
        .collect()
}

/// The entries with their lengths in front.
fn story() -> Vec<u8> {
    let mut story = Vec::new();
    for entry in &mut entries() {
        let bytes = codec::encode_entry(entry);
        story.extend((bytes.len() as u16).to_le_bytes());
        story.extend(bytes);
    }
    story
}

/// Every row of the state in the middle of the story.
fn rows() -> Vec<Vec<u8>> {
    let mut state = zoneq::queue::state::State::new();
    for entry in entries().iter().take(4) {
        state.apply(entry);
    }
    let row = |key| {
        let row = state.row(&key)?;
        let key = zoneq::storage::keys::row(&key);
        let len = u8::try_from(key.len()).ok()?;
        Some([&[len], key.as_slice(), &codec::encode_row(&row)].concat())
    };
    state.row_keys().into_iter().filter_map(row).collect()
}

/// One request of each of the first kinds, its number in front.
pub fn requests() -> Vec<Vec<u8>> {
    let (_, granted) = stocked();
    let (id, pop_receipt) = (granted.id.to_string(), granted.receipt.to_string());
    let queue = || "orders".to_owned();
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 5_000 });
    let item = pb::DeleteItem { id: id.clone(), pop_receipt: pop_receipt.clone() };
    let kept = pb::ReleaseItem { id: id.clone(), pop_receipt: pop_receipt.clone() };
    let session = Some(pb::Session {
        client_id: Bytes::from_static(&[7; 16]),
        sequence: 3,
        lowest_unanswered: 2,
    });
    let message = pb::NewMessage {
        body: Bytes::from_static(b"a body"),
        headers: [("colour".to_owned(), "green".to_owned())].into(),
        delay: seconds(3),
        ttl: seconds(60),
        priority: Some(7),
        deduplication_key: "a key".into(),
        group: "of one customer".into(),
    };
    let send = pb::SendRequest {
        queue: queue(),
        messages: vec![message.clone(), Default::default()],
        session: session.clone(),
        ..Default::default()
    };
    let receive = pb::ReceiveRequest {
        queue: queue(),
        max_messages: 5,
        visibility_timeout: seconds(30),
        wait: seconds(2),
        ..Default::default()
    };
    let delete = pb::DeleteRequest {
        queue: queue(),
        items: vec![item],
        session: session.clone(),
        ..Default::default()
    };
    let release = pb::ReleaseRequest {
        queue: queue(),
        items: vec![kept],
        after: Some(pb::release_request::After::Delay(seconds(9).expect("a duration"))),
        ..Default::default()
    };
    let transact = pb::TransactRequest {
        deletes: vec![pb::TransactDelete { queue: queue(), id: id.clone(), pop_receipt }],
        sends: vec![pb::TransactSend { queue: queue(), messages: vec![message] }],
        session,
        ..Default::default()
    };
    let back_off = pb::BackOff { first: seconds(1), most: seconds(900), factor: 2 };
    let settings = Some(pb::QueueSettings {
        default_ttl: seconds(3_600),
        default_visibility_timeout: seconds(30),
        max_message_bytes: 1_000,
        max_messages: 1_000,
        undelete_window: seconds(60),
        back_off: Some(back_off),
        ..Default::default()
    });
    let metadata = || [("team".to_owned(), "shop".to_owned())].into();
    let name = || "returns".to_owned();
    let create = pb::CreateQueueRequest {
        name: name(),
        metadata: metadata(),
        settings: settings.clone(),
        ..Default::default()
    };
    let set_metadata =
        pb::SetQueueMetadataRequest { name: queue(), metadata: metadata(), ..Default::default() };
    let set_settings =
        pb::SetQueueSettingsRequest { name: queue(), settings, ..Default::default() };
    let undelete = pb::UndeleteQueueRequest { name: name(), id: 3, ..Default::default() };
    let filter = Some(pb::RedriveFilter { source: queue(), ids: vec![id], ..Default::default() });
    let redrive = pb::StartRedriveRequest {
        queue: queue(),
        max_messages_per_second: 10,
        filter,
        ..Default::default()
    };
    let encoded = [
        send.encode_to_vec(),
        receive.encode_to_vec(),
        delete.encode_to_vec(),
        release.encode_to_vec(),
        transact.encode_to_vec(),
        create.encode_to_vec(),
        set_metadata.encode_to_vec(),
        set_settings.encode_to_vec(),
        undelete.encode_to_vec(),
        redrive.encode_to_vec(),
    ];
    (0u8..).zip(encoded).map(|(number, bytes)| [vec![number], bytes].concat()).collect()
}

fn position() -> Position {
    Position { term: 2, node: 1, index: 77 }
}

fn mark() -> Mark {
    let membership = Some((position(), Bytes::from_static(b"{\"configs\":[[1,2,3]]}")));
    Mark { applied: Some(position()), membership }
}

fn parts() -> Vec<Vec<u8>> {
    let parts = [
        Part::Header { format: 1, mark: mark(), digest: Digest(12) },
        Part::Row { key: Bytes::from_static(b"\x01"), value: Bytes::from_static(b"\x01\x08\x07") },
        Part::Content { id: ContentId(9), content: content(b"a body") },
        Part::End { rows: 2, contents: 1 },
    ];
    let encoded = |part| {
        let mut bytes = BytesMut::new();
        codec::encode_part(part, &mut bytes);
        bytes.split_off(4).to_vec()
    };
    parts.into_iter().map(encoded).collect()
}

fn headers() -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::put_headers(&content(b"").headers, &mut bytes);
    bytes
}

pub fn ledger_line() -> log::LedgerLine {
    let at = |index| Some(log::Position { term: 2, node: 1, index });
    let epoch = Some(log::RegionEpoch { number: 3, region: "east".to_owned() });
    log::LedgerLine { epoch, previous: at(5), first: at(9), next_number: 40 }
}

pub fn batch() -> ShippedBatch {
    let mut entries = entries();
    let entries = entries.iter_mut().take(3).map(|entry| log::ShippedEntry {
        position: Some(log::Position { term: 1, node: 1, index: entry.position.index }),
        entry: codec::encode_entry(entry),
    });
    let shipped = log::ApplyShipped {
        attachment: Bytes::from_static(&[7; 16]),
        line: Some(ledger_line()),
        after: None,
        through: Some(log::Position { term: 1, node: 1, index: 4 }),
        release: None,
        entries: entries.collect(),
        head: Some(log::Head {
            position: Some(log::Position { term: 1, node: 1, index: 4 }),
            log_time_us: 9,
        }),
    };
    codec::batch_from(shipped).expect("it is whole")
}

pub fn seed_steps() -> Vec<Vec<u8>> {
    use geo::seed_request::Step;
    let id = || Bytes::from_static(&[7; 16]);
    let row = rows().pop().expect("a row");
    let (key, value) = row.split_at(1 + usize::from(row[0]));
    let rows = vec![log::SeedStoredRow {
        key: Bytes::copy_from_slice(&key[1..]),
        value: Bytes::copy_from_slice(value),
    }];
    let steps = [
        Step::Begin(log::SeedBegin {
            attachment: id(),
            id: id(),
            position: Some(log::Position { term: 1, node: 1, index: 4 }),
            ledger: vec![ledger_line()],
            ..Default::default()
        }),
        Step::Chunk(log::SeedChunk {
            attachment: id(),
            id: id(),
            number: 0,
            rows,
            contents: Vec::new(),
            ..Default::default()
        }),
        Step::Commit(log::SeedCommit { attachment: id(), id: id(), chunks: 1, digest: id() }),
        Step::Drop(log::SeedDrop { attachment: id() }),
    ];
    steps
        .map(|step| geo::SeedRequest { step: Some(step), ..Default::default() }.encode_to_vec())
        .into()
}

pub fn tail_part() -> log::ReplayTail {
    let queue = log::TailQueue {
        id: 1,
        account: "main".to_owned(),
        name: "orders".to_owned(),
        created_at_us: 7,
        make: None,
    };
    log::ReplayTail {
        epoch: Some(log::RegionEpoch { number: 3, region: "east".to_owned() }),
        after: 5,
        through: 9,
        ended_at_us: 11,
        queues: vec![queue],
        ..Default::default()
    }
}

fn vote() -> peer::Vote {
    peer::Vote { term: 3, node: 1, committed: true }
}

pub fn append() -> peer::AppendRequest {
    let at = |index| Some(peer::LogId { term: 3, node: 1, index });
    let entry = |index, kind: peer::EntryKind, payload| peer::LogEntry {
        id: at(index),
        kind: kind.into(),
        payload,
    };
    let commands = entries().first_mut().map(codec::encode_entry).expect("an entry");
    let membership = Bytes::from_static(MEMBERSHIP);
    peer::AppendRequest {
        vote: Some(vote()),
        previous: at(6),
        committed: at(6),
        entries: vec![
            entry(7, peer::EntryKind::Blank, Bytes::new()),
            entry(8, peer::EntryKind::Commands, commands),
            entry(9, peer::EntryKind::Membership, membership),
        ],
    }
}

fn votes() -> Vec<Vec<u8>> {
    let last_log_id = Some(peer::LogId { term: 3, node: 1, index: 4 });
    let asked = peer::VoteRequest { vote: Some(vote()), last_log_id, ..Default::default() };
    let answer = peer::VoteResponse { vote: Some(vote()), granted: true, last_log_id };
    let head = peer::SnapshotHead { vote: Some(vote()), meta: Bytes::from_static(META) };
    let appended = peer::AppendResponse {
        log_id: last_log_id,
        disk_stage: peer::DiskStage::Ok.into(),
        disk_free_bytes: 1 << 30,
        ..Default::default()
    };
    let messages = [
        asked.encode_to_vec(),
        answer.encode_to_vec(),
        head.encode_to_vec(),
        appended.encode_to_vec(),
    ];
    (0..).zip(messages).map(|(kind, message)| [vec![kind], message].concat()).collect()
}

fn content_of(disk: &FaultyDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).expect("the file is there");
    let mut bytes = vec![0; usize::try_from(file.len().expect("a length")).expect("a small file")];
    file.read_exact_at(&mut bytes, 0).expect("a read");
    bytes
}

fn segment() -> Vec<u8> {
    let disk = FaultyDisk::new(1);
    let mut entries = entries();
    let entries = entries.iter_mut().map(|entry| LogEntry {
        position: entry.position,
        payload: Payload::Commands(codec::encode_entry(entry)),
    });
    let entries = entries.collect();
    in_runtime(async {
        let opened = Log::open(disk.shared(), Path::new("log"), log_options());
        let (log, _) = opened.expect("a new log");
        let (send, ended) = oneshot::channel();
        log.append(entries, Box::new(move |done| drop(send.send(done)))).expect("it takes them");
        ended.await.expect("it is called").expect("it is durable");
    });
    content_of(&disk, &first_segment())
}

/// What a checksum is of in the head of a segment, and the records without the zeros behind them.
fn record() -> Vec<u8> {
    let segment = segment();
    let end = segment.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    [&segment[..SEGMENT_HEAD], &segment[RECORDS..end.max(RECORDS)]].concat()
}

/// The state in the middle of the story, as its rows, those of every kind that it has.
fn whole_state() -> Vec<u8> {
    let mut all = Vec::new();
    for row in rows() {
        let (key, value) = row[1..].split_at(row[0].into());
        for part in [key, value] {
            all.extend((part.len() as u16).to_le_bytes());
            all.extend(part);
        }
    }
    all
}

/// Tables with the middle of the story in them.
fn with_store<T>(look: impl FnOnce(&FaultyDisk, &mut Store) -> T) -> T {
    let disk = FaultyDisk::new(1);
    in_runtime(async {
        let opened = Store::open(disk.shared(), Path::new("tables"), tables_options());
        let mut store = opened.expect("new tables");
        for entry in entries().iter().take(4) {
            store.apply(entry);
        }
        store.commit_now().expect("a commit");
        look(&disk, &mut store)
    })
}

fn snapshot() -> Vec<u8> {
    with_store(|_, store| {
        let (mut reader, mut stream) = (store.view().expect("a view").reader(), Vec::new());
        while let Some(chunk) = reader.next_chunk().expect("a chunk") {
            stream.extend_from_slice(&chunk.data);
        }
        stream
    })
}

fn pointer() -> Vec<u8> {
    with_store(|disk, _| content_of(disk, Path::new("tables/CURRENT")))
}

fn contents_rows() -> Vec<Vec<u8>> {
    let place = |low: u8| (u64::from(low), Place { segment: 1, offset: 64, len: 30 });
    let mut directory = Directory::default();
    directory.insert_all([0, 1, 63, 64, 255].map(place).into_iter());
    let rows = directory.take_dirty().into_iter();
    rows.filter_map(|(_, row)| row).chain([Group::default().encode()]).collect()
}

fn texts() -> Vec<Vec<u8>> {
    let (_, granted) = stocked();
    let token = PeekToken { priority: 4, untouched: Number(7), ..PeekToken::default() };
    let epoch = format!("3 east {:032x}", 7);
    [granted.id.to_string(), granted.receipt.to_string(), token.to_string(), epoch]
        .map(String::into_bytes)
        .into()
}

/// The first byte says of which kind each is.
fn files() -> Vec<Vec<u8>> {
    let trace =
        "t# a day in short\n0s 20ms - up\n\n10s 500ms 2MiB/s up\n12s 0s - down\n30s repeat\n";
    let node = LabNode {
        id: 1,
        region: "east".to_owned(),
        zone: "z1".to_owned(),
        grpc_port: 7401,
        peer_port: 7501,
        metrics_port: 0,
        args: vec!["serve".to_owned()],
        process: None,
    };
    let lab = Lab::new(PathBuf::from("lab"), "shop".to_owned(), vec![node]);
    let message = admin::TailMessage {
        queue: "orders".to_owned(),
        body: Bytes::from_static(b"a body"),
        inserted_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000 }),
        ..Default::default()
    };
    let lab = format!("l{}", lab.text().expect("a text"));
    let line = format!("e{}", exported(&message));
    [trace.to_owned(), lab, line].map(String::into_bytes).into()
}

fn body_record() -> Vec<u8> {
    let disk = FaultyDisk::new(1);
    let files = SegmentFiles::new(disk.shared(), PathBuf::from("bodies"));
    files.settle(&[]).expect("a folder");
    let to = Place { segment: 1, offset: 0, len: 0 };
    let placing = zoneq::storage::bodies::Placing { id: ContentId(9), content: content(b"x"), to };
    let flush = Flush { created: vec![1], new: [placing].into(), ..Flush::default() };
    files.write(&flush).expect("it is written");
    content_of(&disk, Path::new("bodies/0000000001.bodies"))
}

fn vote_file() -> Vec<u8> {
    let disk = FaultyDisk::new(1);
    disk.create_dir_all(Path::new("log")).expect("a folder");
    let mut file = VoteFile::open(&disk, Path::new("log")).expect("a new vote");
    for term in [3, 4] {
        file.save(VoteRecord { term, node: 1, committed: false }).expect("a vote");
    }
    content_of(&disk, Path::new("log/vote"))
}

fn identity() -> Vec<u8> {
    let disk = FaultyDisk::new(1);
    let identity = Identity {
        cluster_id: "shop".to_owned(),
        node_id: 3,
        region: "east".to_owned(),
        zone: "z3".to_owned(),
    };
    DataDir::open(&disk.shared(), Path::new("data"), identity).expect("a new folder");
    content_of(&disk, Path::new("data/identity.json"))
}
