//! What is read from a disk: the log, the vote, the tables, the bodies, and snapshots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use zoneq::cli::inspect::decoded;
use zoneq::clock::ManualClock;
use zoneq::consensus::transport::convert;
use zoneq::consensus::types::{read_membership, read_snapshot_meta, read_stored_membership};
use zoneq::proto::peer::v1 as peer;
use zoneq::queue::LoadError;
use zoneq::queue::ids::{ContentId, Position};
use zoneq::queue::rows::Row;
use zoneq::queue::state::State;
use zoneq::storage::bodies::{Group, Place, SegmentFiles, decode_record, encode_record};
use zoneq::storage::codec;
use zoneq::storage::disk::faulty::FaultyDisk;
use zoneq::storage::disk::{Disk, OpenMode};
use zoneq::storage::format::read_identity;
use zoneq::storage::keys;
use zoneq::storage::log::{Log, LogEntry, LogOptions, Payload, inspect};
use zoneq::storage::snapshot::Chunk;
use zoneq::storage::store::{Store, StoreOptions, decode, read_pointer};
use zoneq::storage::vote::VoteFile;

use super::{assert_reloads, bytes, in_runtime};

/// Of a segment in these tests.
const SEGMENT_BYTES: u64 = 8 << 10;
/// Of the head of a segment, those that its checksum is of.
pub const SEGMENT_HEAD: usize = 104;
/// Where the records of a segment begin.
pub const RECORDS: usize = 4_096;
/// Chunks of a snapshot in these tests.
const CHUNK: usize = 61;

pub fn entry(data: &[u8]) -> bool {
    let position = Position { term: 3, node: 1, index: 9 };
    let payload = Payload::Commands(bytes(data));
    let (kind, _, _, _) = decoded(&LogEntry { position, payload });
    let Ok(mut read) = codec::decode_entry(position, bytes(data)) else {
        assert_eq!(kind, "unreadable");
        return false;
    };
    assert_eq!(kind, "commands");
    let written = codec::encode_entry(&mut read);
    let again = codec::decode_entry(position, written).expect("what was written is read");
    assert_eq!(again, read);
    true
}

/// Entries with their lengths in front, applied one after another: whatever was committed, the
/// state goes on, and is read back from its rows as it is.
pub fn apply(mut data: &[u8]) -> bool {
    let mut state = State::new();
    for index in 1..=16 {
        let Some(one) = framed(&mut data) else { break };
        let position = Position { term: 1, node: 1, index };
        let Ok(read) = codec::decode_entry(position, bytes(one)) else { continue };
        state.apply(&read);
    }
    assert_reloads(&state);
    true
}

/// What stands behind a length of two bytes.
fn framed<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = data.split_first_chunk::<2>()?;
    let (one, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    *data = rest;
    Some(one)
}

/// The length of the key in one byte, the key, the value.
pub fn row(data: &[u8]) -> bool {
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

/// Keys and values in turn with their lengths in front, as the rows of one state. Where only the
/// digest is wrong it is made right: it is to be got past.
pub fn state_rows(mut data: &[u8]) -> bool {
    let mut rows = Vec::new();
    while let Some(key) = framed(&mut data) {
        let Some(value) = framed(&mut data) else { break };
        let Ok(row) = decode(key, value) else { return false };
        rows.push(row);
    }
    let mut loaded = State::load(rows.clone());
    if let (Err(LoadError::WrongDigest { computed, .. }), Some(Row::Counters(counters))) =
        (&loaded, rows.first_mut())
    {
        counters.digest = *computed;
        loaded = State::load(rows);
    }
    let Ok(state) = loaded else { return false };
    assert_reloads(&state);
    true
}

pub fn mark(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_mark(data) else { return false };
    let again = codec::decode_mark(&codec::encode_mark(&read));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

/// A membership as an entry, the tables and the head of a snapshot hold it.
pub fn membership(data: &[u8]) -> bool {
    let position = Position { term: 3, node: 1, index: 9 };
    let _ = decoded(&LogEntry { position, payload: Payload::Membership(bytes(data)) });
    if let Ok(stored) = read_stored_membership(data) {
        assert!(stored.voter_ids().all(|id| stored.get_node(&id).is_some()));
    }
    if let Ok(meta) = read_snapshot_meta(data) {
        let members = &meta.last_membership;
        assert!(members.voter_ids().all(|id| members.get_node(&id).is_some()));
    }
    let Ok(read) = read_membership(data) else { return false };
    assert!(read.voter_ids().all(|id| read.get_node(&id).is_some()));
    let entry = peer::LogEntry {
        id: Some(peer::LogId { term: 3, node: 1, index: 9 }),
        kind: peer::EntryKind::Membership.into(),
        payload: bytes(data),
    };
    let vote = Some(peer::Vote { term: 3, node: 1, committed: true });
    let request = peer::AppendRequest { vote, entries: vec![entry], ..Default::default() };
    let taken = convert::append_in(request).expect("it was read");
    let given = convert::append_out(taken).expect("what was read is written");
    let again = read_membership(&given.entries[0].payload).expect("what was written is read");
    assert_eq!(again, read);
    true
}

pub fn snapshot_part(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_part(bytes(data)) else { return false };
    let mut written = BytesMut::new();
    codec::encode_part(read.clone(), &mut written);
    let again = codec::decode_part(written.freeze().slice(4..));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

/// A snapshot as it arrives, chunk by chunk: what is whole becomes the tables, and they are read.
pub fn snapshot_stream(data: &[u8]) -> bool {
    in_runtime(async {
        let disk = FaultyDisk::new(1);
        let open = || Store::open(disk.shared(), Path::new("tables"), tables_options());
        let mut store = open().expect("new tables");
        let mut writer = store.begin_install().expect("a folder beside them");
        for part in data.chunks(CHUNK) {
            let chunk = Chunk::new(writer.offset(), bytes(part));
            if writer.push(&chunk).is_err() {
                return false;
            }
        }
        let Ok(ready) = writer.finish() else { return false };
        let position = ready.position();
        store.install(ready).expect("it is whole");
        let digest = store.state().digest();
        drop(store);
        let again = open().expect("what was installed is read");
        assert_eq!((again.applied(), again.state().digest()), (position, digest));
        true
    })
}

#[must_use]
pub fn tables_options() -> StoreOptions {
    StoreOptions::new(Arc::new(ManualClock::at(1)))
}

pub fn headers(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_headers(bytes(data)) else { return false };
    let mut written = Vec::new();
    codec::put_headers(&read, &mut written);
    assert_eq!(written.len(), codec::headers_len(&read));
    assert_eq!(codec::decode_headers(written.into()).expect("what was written is read"), read);
    true
}

pub fn contents_row(data: &[u8]) -> bool {
    let Ok(group) = Group::decode(data) else { return false };
    assert_eq!(group.encode(), data);
    assert!(group.iter().map(|(low, _)| low).is_sorted());
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

/// The first segment of a log, walked as by `zoneq inspect`, opened as at a start, and read.
pub fn log_segment(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, &first_segment(), data);
    let walked = inspect(&disk, Path::new("log")).is_ok();
    in_runtime(async {
        let opened = Log::open(disk.shared(), Path::new("log"), log_options());
        let Ok((log, _)) = opened else { return false };
        assert!(walked, "what can be opened can be walked");
        let Some(first) = log.first() else { return false };
        log.read(first, u64::MAX, 1 << 20).is_ok_and(|entries| !entries.is_empty())
    })
}

/// The head of a segment and its records. Their checksums, and what chains one to the next, are
/// made right: they are to be got past.
pub fn log_record(data: &[u8]) -> bool {
    let Some((head, records)) = data.split_at_checked(SEGMENT_HEAD) else { return false };
    let mut segment = head.to_vec();
    segment.extend(crc32c::crc32c(head).to_le_bytes());
    segment.resize(RECORDS, 0);
    segment.extend(records);
    seal(&mut segment);
    log_segment(&segment)
}

fn seal(segment: &mut [u8]) {
    const HEADER: usize = 144;
    const TRAILER: usize = 16;
    let (name, records) = segment.split_at_mut(RECORDS);
    let (number, generation) = (&name[16..24], &name[24..32]);
    let mut seed = crc32c::crc32c_append(crc32c::crc32c(generation), number);
    let mut at = 0;
    while let Some(record) = records.get_mut(at..).filter(|left| left.len() >= HEADER) {
        record[8..16].copy_from_slice(number);
        record[16..24].copy_from_slice(generation);
        record[24..28].copy_from_slice(&seed.to_le_bytes());
        let header_sum = crc32c::crc32c(&record[..136]).to_le_bytes();
        record[136..140].copy_from_slice(&header_sum);
        let payload: [u8; 4] = record[32..36].try_into().expect("four bytes");
        let trailer = HEADER + (u32::from_le_bytes(payload) as usize).next_multiple_of(16);
        if record.len() < trailer + TRAILER {
            return;
        }
        seed = crc32c::crc32c_append(seed, &record[..trailer]);
        record[trailer..trailer + 4].copy_from_slice(&seed.to_le_bytes());
        record[trailer + 4..trailer + 8].copy_from_slice(&0x3154_515a_u32.to_le_bytes());
        record[trailer + 8..trailer + 12].copy_from_slice(&payload);
        record[trailer + 12..trailer + 16].copy_from_slice(&header_sum);
        at += trailer + TRAILER;
    }
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

/// As it is, and with its checksum made right.
pub fn body_record(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, Path::new("bodies/0000000001.bodies"), data);
    let files = SegmentFiles::new(disk.shared(), PathBuf::from("bodies"));
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let read = files.read(ContentId(9), Place { segment: 1, offset: 0, len }).is_ok();
    let sealed = sealed_record(data);
    assert!(!read || sealed, "what is right as it is, is right");
    read || sealed
}

/// A record of which the checksum is made right. What was read of it is written and read again.
pub fn sealed_record(data: &[u8]) -> bool {
    let Some((_, rest)) = data.split_at_checked(4) else { return false };
    let record = [&crc32c::crc32c(rest).to_le_bytes(), rest].concat().into();
    let Ok(read) = decode_record(ContentId(9), &record) else { return false };
    let again = decode_record(ContentId(9), &encode_record(ContentId(9), &read));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

pub fn vote_file(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, Path::new("log/vote"), data);
    let Ok(file) = VoteFile::open(&disk, Path::new("log")) else { return false };
    let seen = VoteFile::peek(&disk, Path::new("log"));
    assert_eq!(seen.expect("it was opened"), file.vote());
    file.vote().is_some()
}

pub fn identity(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(1);
    write(&disk, Path::new("data/identity.json"), data);
    read_identity(&disk, Path::new("data")).is_ok_and(|identity| identity.is_some())
}

/// As it is, and with its checksum made right.
pub fn tables_pointer(data: &[u8]) -> bool {
    let read = |data: &[u8]| {
        let disk = FaultyDisk::new(1);
        write(&disk, Path::new("tables/CURRENT"), data);
        read_pointer(&disk.shared(), Path::new("tables")).ok().flatten()
    };
    let as_it_is = read(data);
    let Some(named) = data.get(..9) else { return as_it_is.is_some() };
    let sealed = read(&[named, &crc32c::crc32c(named).to_le_bytes()].concat());
    assert!(as_it_is.is_none() || as_it_is == sealed);
    let number: [u8; 8] = named[1..].try_into().expect("eight bytes");
    assert!(sealed.is_none_or(|read| read == u64::from_le_bytes(number)));
    sealed.is_some()
}
