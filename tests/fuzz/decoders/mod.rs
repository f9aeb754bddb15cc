//! What reads bytes that it did not write: every decoder of the disk, of peers, of clients, of
//! operators and of the other region, as a function of bytes.
//!
//! Laws: whatever the bytes are, a decoder answers, with a value or with a refusal. It does not
//! panic, it asks for no more memory than [`MOST_BYTES`] at once, whatever lengths the bytes claim,
//! and what it read it writes and reads again as the same.
//!
//! The targets, and what they cover:
//!
//! * Disk: entries of the log, what each does to the state, and as `zoneq inspect` shows them:
//!   `entry`, `apply`. Segments of the log, at a start and as `inspect` walks them: `log-segment`;
//!   with their checksums made right: `log-record`. The vote: `vote-file`. Whose folder it is:
//!   `identity`. The pointer to the tables: `tables-pointer`. Rows and their keys: `row`, `mark`;
//!   many, as one state: `state-rows`. Where contents lie: `contents-row`; the contents:
//!   `body-record`, `headers`. Memberships, which log, tables, entries and snapshots hold:
//!   `membership`.
//! * Peers: every message of `zoneq.peer.v1`: `peer-message`; more of the first ones:
//!   `peer-append`, `peer-vote`. A snapshot: `snapshot-part`, and whole: `snapshot-stream`.
//! * The other region: every message of `zoneq.geo.v1`: `geo-message`; what they carry:
//!   `shipped-batch`, `seed-step`, `ledger-line`, `tail-part`.
//! * Clients: what requests come to in the log: `client-request`; what they ask of the state, page
//!   tokens too: `client-question`. Ids, receipts, tokens and epochs as text: `text`.
//! * Operators: what requests come to: `operator-request`; every message of them:
//!   `operator-message`.
//! * Answers of nodes, in the client library and the command line: `answer`.
//! * Files of people: a configuration: `config-file`; a trace, `lab.json`, a line of an exported
//!   tail: `files`.
//!
//! That no message of an rpc is missing is a test of its own, in `coverage.rs`.
//!
//! Not here: the pages of the engine and PEM files, which are read by redb and rustls; frames and
//! headers of HTTP and the details of a status, by hyper, tonic and tonic-types, and what is read
//! of those here (`grpc-timeout`, the names of cluster and nodes) has unit tests in its room;
//! `/proc`, which the system writes.

mod clients;
mod files;
mod peers;
mod regions;
mod stored;

use bytes::Bytes;
use prost::Message;
use zoneq::queue::authority::command::{Actor, Attach, RegionCommand, RegionVerb};
use zoneq::queue::authority::{LedgerLine, RegionEpoch};
use zoneq::queue::command::{Command, Entry, Envelope, NewMessage, Receive};
use zoneq::queue::ids::{Epoch, LogTime, Position};
use zoneq::queue::outcome::{Granted, Reply};
use zoneq::queue::state::State;
use zoneq::storage::codec;

pub use clients::{ANSWERS, OPERATORS};
pub use peers::{PEERS, milestones};
pub use regions::REGIONS;
pub use stored::{RECORDS, SEGMENT_HEAD, first_segment, log_options, tables_options};

/// One decoder under a name.
pub struct Decoder {
    pub name: &'static str,
    /// Whether the bytes were read; false = they were refused.
    pub read: fn(&[u8]) -> bool,
    /// About how many tries of a light decoder one of this takes.
    pub cost: u32,
}

const fn light(name: &'static str, read: fn(&[u8]) -> bool) -> Decoder {
    Decoder { name, read, cost: 1 }
}

pub const ALL: [Decoder; 32] = [
    light("entry", stored::entry),
    light("apply", stored::apply),
    light("row", stored::row),
    light("state-rows", stored::state_rows),
    light("mark", stored::mark),
    light("membership", stored::membership),
    light("snapshot-part", stored::snapshot_part),
    Decoder { name: "snapshot-stream", read: stored::snapshot_stream, cost: 40 },
    light("headers", stored::headers),
    light("contents-row", stored::contents_row),
    light("log-segment", stored::log_segment),
    light("log-record", stored::log_record),
    light("body-record", stored::body_record),
    light("vote-file", stored::vote_file),
    light("identity", stored::identity),
    light("tables-pointer", stored::tables_pointer),
    light("shipped-batch", regions::shipped_batch),
    light("seed-step", regions::seed_step),
    light("ledger-line", regions::ledger_line),
    light("tail-part", regions::tail_part),
    light("geo-message", regions::geo_message),
    light("peer-append", peers::peer_append),
    light("peer-vote", peers::peer_vote),
    light("peer-message", peers::peer_message),
    light("client-request", clients::client_request),
    light("client-question", clients::client_question),
    light("operator-request", clients::operator_request),
    light("operator-message", clients::operator_message),
    light("answer", clients::answer),
    light("text", files::text),
    light("config-file", files::config_file),
    light("files", files::files),
];

/// No decoder asks for more memory at once in these tests: inputs are of some kilobytes, and the
/// engine of the tables takes a few megabytes whatever there is.
pub const MOST_BYTES: usize = 16 << 20;

/// A message of the wire under its name without `zoneq` and `v1`, and what reads it.
pub struct Kind {
    pub message: &'static str,
    pub read: fn(&[u8]) -> bool,
}

/// A list of kinds: `package.Message`, and what is made of one beside the message itself. The first
/// byte of an input is a place in such a list: what is new goes to its end.
macro_rules! kinds {
    ($(#[$doc:meta])* $list:ident: $($package:ident.$message:ident $(=> $read:expr)?,)*) => {
        $(#[$doc])*
        pub const $list: &[$crate::decoders::Kind] = &[$($crate::decoders::Kind {
            message: concat!(stringify!($package), ".", stringify!($message)),
            read: |data| $crate::decoders::message::<$package::$message>(
                data,
                $crate::decoders::kinds!(@read $($read)?),
            ),
        }),*];
    };
    (@read) => { |_| true };
    (@read $read:expr) => { $read };
}
use kinds;

/// Reads a message, which must be the same once it was written, and asks what is made of it.
pub fn message<M: Message + Default + PartialEq + std::fmt::Debug>(
    data: &[u8],
    read: impl FnOnce(M) -> bool,
) -> bool {
    let Ok(found) = M::decode(data) else { return false };
    let again = M::decode(found.encode_to_vec().as_slice()).expect("what was written is read");
    assert_eq!(again, found);
    read(found)
}

/// The first byte says which of the list follows.
pub fn of_kind(list: &[Kind], data: &[u8]) -> bool {
    let Some((number, rest)) = data.split_first() else { return false };
    list.get(usize::from(*number)).is_some_and(|kind| (kind.read)(rest))
}

pub fn bytes(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(data)
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

/// What both regions of these tests are of, and how they are attached.
pub const LINEAGE: u128 = 0x0707_0707_0707_0707_0707_0707_0707_0707;
pub const ATTACHMENT: u128 = LINEAGE;

/// The first line of the ledger of region `east`.
#[must_use]
pub fn first_line() -> LedgerLine {
    let epoch = RegionEpoch { number: Epoch(1), region: "east".to_owned() };
    LedgerLine { epoch, ..LedgerLine::default() }
}

/// The state of region `west`, an empty cluster that follows region `east`.
#[must_use]
pub fn secondary() -> State {
    let attach = Attach {
        region: "west".to_owned(),
        lineage: LINEAGE,
        attachment: ATTACHMENT,
        ledger: vec![first_line()],
        ..Attach::default()
    };
    let mut state = State::new();
    state.apply(&entry_of(1, vec![region(RegionVerb::Attach(attach), String::new())]));
    state
}

/// A command about the authority of a cluster.
#[must_use]
pub fn region(verb: RegionVerb, who: String) -> Envelope {
    let by = Actor { who, at_us: 7 };
    let command = Command::Region(Box::new(RegionCommand { by, verb }));
    Envelope { session: None, account: String::new(), command }
}

fn entry_of(index: u64, commands: Vec<Envelope>) -> Entry {
    let position = Position { term: 1, node: 1, index };
    Entry { position, stamp: LogTime(1_000_000 * index), epoch: Epoch(1), commands }
}

/// What was asked for enters the log, is read again from there as it is, and is applied; the state
/// that comes of it is read back from its rows.
pub fn commit(mut state: State, commands: Vec<Envelope>) -> State {
    let mut asked = entry_of(2, commands);
    let written = codec::encode_entry(&mut asked);
    let again = codec::decode_entry(asked.position, written).expect("what was written is read");
    assert_eq!(again, asked);
    state.apply(&again);
    assert_reloads(&state);
    state
}

/// The state is what its rows say.
fn assert_reloads(state: &State) {
    let rows = state.row_keys().into_iter().filter_map(|key| state.row(&key));
    let again = State::load(rows.collect::<Vec<_>>()).expect("its rows are read");
    assert_eq!(again.digest(), state.digest());
}

pub fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(work)
}
