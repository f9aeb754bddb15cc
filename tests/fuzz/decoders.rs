//! What reads bytes that it did not write: every decoder of the disk, of peers, of clients and of
//! the other region, as a function of bytes.
//!
//! Law: whatever the bytes are, a decoder answers, with a value or with a refusal. It does not
//! panic, and what it read it writes and reads again as the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use zoneq::api::grpc::requests;
use zoneq::clock::ManualClock;
use zoneq::consensus::transport::convert;
use zoneq::proto::geo::v1 as geo;
use zoneq::proto::log::v1 as log;
use zoneq::proto::peer::v1 as peer;
use zoneq::queue::command::{Command, Entry, Envelope, NewMessage, Receive};
use zoneq::queue::ids::{ContentId, Epoch, LogTime, Position};
use zoneq::queue::outcome::{Granted, Reply};
use zoneq::queue::state::State;
use zoneq::storage::bodies::{Place, SegmentFiles};
use zoneq::storage::codec;
use zoneq::storage::disk::faulty::FaultyDisk;
use zoneq::storage::disk::{Disk, OpenMode};
use zoneq::storage::format::read_identity;
use zoneq::storage::keys;
use zoneq::storage::log::{Log, LogOptions};
use zoneq::storage::vote::VoteFile;

/// Of a segment in these tests.
pub const SEGMENT_BYTES: u64 = 8 << 10;

/// One decoder under a name.
pub struct Decoder {
    pub name: &'static str,
    /// Whether the bytes were read; false = they were refused.
    pub read: fn(&[u8]) -> bool,
}

pub const ALL: [Decoder; 17] = [
    Decoder { name: "entry", read: entry },
    Decoder { name: "apply", read: apply },
    Decoder { name: "row", read: row },
    Decoder { name: "mark", read: mark },
    Decoder { name: "snapshot-part", read: snapshot_part },
    Decoder { name: "headers", read: headers },
    Decoder { name: "shipped-batch", read: shipped_batch },
    Decoder { name: "seed-step", read: seed_step },
    Decoder { name: "ledger-line", read: ledger_line },
    Decoder { name: "tail-part", read: tail_part },
    Decoder { name: "peer-append", read: peer_append },
    Decoder { name: "peer-vote", read: peer_vote },
    Decoder { name: "client-request", read: client_request },
    Decoder { name: "log-segment", read: log_segment },
    Decoder { name: "body-record", read: body_record },
    Decoder { name: "vote-file", read: vote_file },
    Decoder { name: "identity", read: identity },
];

fn bytes(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(data)
}

fn entry(data: &[u8]) -> bool {
    let position = Position { term: 3, node: 1, index: 9 };
    let Ok(mut read) = codec::decode_entry(position, bytes(data)) else { return false };
    let written = codec::encode_entry(&mut read);
    let again = codec::decode_entry(position, written).expect("what was written is read");
    assert_eq!(again, read);
    true
}

/// Entries with their lengths in front, applied one after another: whatever was committed, the
/// state goes on, and is read back from its rows as it is.
fn apply(mut data: &[u8]) -> bool {
    let mut state = State::new();
    for index in 1..=16 {
        let Some((len, rest)) = data.split_first_chunk::<2>() else { break };
        let Some((one, rest)) = rest.split_at_checked(u16::from_le_bytes(*len).into()) else {
            break;
        };
        data = rest;
        let position = Position { term: 1, node: 1, index };
        let Ok(read) = codec::decode_entry(position, bytes(one)) else { continue };
        state.apply(&read);
    }
    let rows = state.row_keys().into_iter().filter_map(|key| state.row(&key));
    let again = State::load(rows.collect::<Vec<_>>()).expect("its rows are read");
    assert_eq!(again.digest(), state.digest());
    true
}

/// The length of the key in one byte, the key, the value.
fn row(data: &[u8]) -> bool {
    let Some((len, rest)) = data.split_first() else { return false };
    let Some((key, value)) = rest.split_at_checked((*len).into()) else { return false };
    let Some(key) = keys::parse_row(key) else { return false };
    let Ok(read) = codec::decode_row(&key, value) else { return false };
    let again = codec::decode_row(&key, &codec::encode_row(&read));
    assert_eq!(again.expect("what was written is read"), read);
    let known = keys::parse_row(&keys::row(&key)).expect("what was written is read");
    assert_eq!(known, key);
    true
}

fn mark(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_mark(data) else { return false };
    let again = codec::decode_mark(&codec::encode_mark(&read));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

fn snapshot_part(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_part(bytes(data)) else { return false };
    let mut written = BytesMut::new();
    codec::encode_part(read.clone(), &mut written);
    let again = codec::decode_part(written.freeze().slice(4..));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

fn headers(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_headers(bytes(data)) else { return false };
    let mut written = Vec::new();
    codec::put_headers(&read, &mut written);
    assert_eq!(written.len(), codec::headers_len(&read));
    assert_eq!(codec::decode_headers(written.into()).expect("what was written is read"), read);
    true
}

fn shipped_batch(data: &[u8]) -> bool {
    // The checksum is made right: it is to be got past.
    let batch = geo::Batch { crc32c: crc32c::crc32c(data), content: bytes(data) };
    let Ok(read) = zoneq::geo::wire::opened(batch) else { return false };
    let written = codec::batch_to(&read).encode_to_vec();
    let again = log::ApplyShipped::decode(Bytes::from(written)).expect("it is a message");
    assert_eq!(codec::batch_from(again).expect("what was written is read"), read);
    true
}

fn seed_step(data: &[u8]) -> bool {
    let Ok(request) = geo::SeedRequest::decode(data) else { return false };
    let Some(step) = request.step else { return false };
    let Ok(read) = codec::seed_from(zoneq::geo::wire::seed_step(step)) else { return false };
    assert_eq!(codec::seed_from(codec::seed_to(&read)).expect("what was written is read"), read);
    true
}

fn ledger_line(data: &[u8]) -> bool {
    let Ok(line) = log::LedgerLine::decode(data) else { return false };
    let Ok(read) = codec::line_from(line) else { return false };
    assert_eq!(codec::line_from(codec::line_to(&read)).expect("what was written is read"), read);
    true
}

fn tail_part(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_replay(bytes(data)) else { return false };
    let again = codec::decode_replay(codec::encode_replay(&read));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

fn peer_append(data: &[u8]) -> bool {
    let Ok(request) = peer::AppendRequest::decode(data) else { return false };
    let Ok(read) = convert::append_in(request) else { return false };
    let written = convert::append_out(read).expect("what was read is written");
    convert::append_in(written).expect("what was written is read");
    true
}

/// The first byte says which message follows.
fn peer_vote(data: &[u8]) -> bool {
    let Some((kind, data)) = data.split_first() else { return false };
    match kind % 4 {
        0 => peer::VoteRequest::decode(data).is_ok_and(|it| convert::vote_request_in(it).is_ok()),
        1 => peer::VoteResponse::decode(data).is_ok_and(|it| convert::vote_response_in(it).is_ok()),
        2 => peer::SnapshotHead::decode(data).is_ok_and(|it| convert::head_in(it).is_ok()),
        _ => peer::AppendResponse::decode(data).is_ok_and(|it| convert::disk_in(&it).is_some()),
    }
}

/// A state in which the account of those who name none has the queue `orders` with two messages,
/// and the first of them is given out; what was answered for that.
#[must_use]
pub fn stocked() -> (State, Granted) {
    let queue = || "orders".to_owned();
    let message = || NewMessage { priority: 4, ..NewMessage::default() };
    let receive = Receive { queue: queue(), max_messages: 1, max_bytes: 1 << 20, visibility: None };
    let commands = [
        Command::CreateQueue {
            name: queue(),
            metadata: Default::default(),
            settings: Default::default(),
        },
        Command::Send { queue: queue(), messages: vec![message(), message()] },
        Command::Receive(receive),
    ];
    let account = || "default".to_owned();
    let envelope = |command| Envelope { session: None, account: account(), command };
    let mut state = State::new();
    let mut applied = state.apply(&entry_of(1, commands.map(envelope).to_vec()));
    match applied.outcomes.pop() {
        Some(Ok(Reply::Received { mut messages, .. })) => (state, messages.remove(0)),
        other => panic!("nothing was received: {other:?}"),
    }
}

fn entry_of(index: u64, commands: Vec<Envelope>) -> Entry {
    let position = Position { term: 1, node: 1, index };
    Entry { position, stamp: LogTime(1_000_000 * index), epoch: Epoch(1), commands }
}

/// What a client may ask enters the log, is read again from there as it is, and is applied; the
/// state is read back from its rows.
fn client_request(data: &[u8]) -> bool {
    let Some(read) = requests::read(&bytes(data)) else { return false };
    let (mut state, _) = stocked();
    let mut asked = entry_of(2, vec![read]);
    let written = codec::encode_entry(&mut asked);
    let again = codec::decode_entry(asked.position, written).expect("what was written is read");
    assert_eq!(again, asked);
    state.apply(&again);
    let rows = state.row_keys().into_iter().filter_map(|key| state.row(&key));
    let loaded = State::load(rows.collect::<Vec<_>>()).expect("its rows are read");
    assert_eq!(loaded.digest(), state.digest());
    true
}

fn write(disk: &FaultyDisk, path: &Path, data: &[u8]) {
    let folder = path.parent().expect("a folder");
    disk.create_dir_all(folder).expect("a folder");
    let file = disk.open(path, OpenMode::CreateNew).expect("a file");
    file.write_all_at(data, 0).expect("a write");
    file.sync_data().expect("a sync");
    disk.sync_dir(folder).expect("a sync");
}

/// The first segment of a log, opened as at a start, and read.
fn log_segment(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, &first_segment(), data);
    in_runtime(async {
        let opened = Log::open(disk.shared(), Path::new("log"), log_options());
        let Ok((log, _)) = opened else { return false };
        let Some(first) = log.first() else { return false };
        log.read(first, u64::MAX, 1 << 20).is_ok_and(|entries| !entries.is_empty())
    })
}

#[must_use]
pub fn first_segment() -> PathBuf {
    PathBuf::from("log/0000000000000001.log")
}

#[must_use]
pub fn log_options() -> LogOptions {
    let clock = Arc::new(ManualClock::at(1));
    LogOptions { segment_bytes: SEGMENT_BYTES, spares: 0, ..LogOptions::new(7, clock) }
}

pub fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(work)
}

fn body_record(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, Path::new("bodies/0000000001.bodies"), data);
    let files = SegmentFiles::new(disk.shared(), PathBuf::from("bodies"));
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    files.read(ContentId(9), Place { segment: 1, offset: 0, len }).is_ok()
}

fn vote_file(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, Path::new("log/vote"), data);
    let Ok(file) = VoteFile::open(&disk, Path::new("log")) else { return false };
    let seen = VoteFile::peek(&disk, Path::new("log"));
    assert_eq!(seen.expect("it was opened"), file.vote());
    file.vote().is_some()
}

fn identity(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, Path::new("data/identity.json"), data);
    read_identity(&disk, Path::new("data")).is_ok_and(|identity| identity.is_some())
}
