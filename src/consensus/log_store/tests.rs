//! openraft's own suite over the log and the store, step by step, and the laws that it does not
//! cover.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError as RaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::super::machine::{Machine, SharedStore};
use super::super::types::scoped;
use super::*;
use crate::clock::{ManualClock, SharedClock};
use crate::queue::ids::Position;
use crate::storage::disk::faulty::FaultyDisk;
use crate::storage::log::LogOptions;
use crate::storage::store::{Store, StoreOptions};

fn clock() -> SharedClock {
    Arc::new(ManualClock::at(1_000_000))
}

fn open_log(disk: &FaultyDisk, segment_bytes: u64, cache_bytes: usize) -> Log {
    let options =
        LogOptions { segment_bytes, cache_bytes, spares: 1, ..LogOptions::new(1, clock()) };
    let (log, state) = Log::open(disk.shared(), Path::new("/node/log"), options).unwrap();
    assert!(state.trouble.is_empty(), "{state:?}");
    log
}

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, Machine, FaultyDisk> for Fresh {
    async fn build(&self) -> Result<(FaultyDisk, LogStore, Machine), RaftStorageError<TypeConfig>> {
        let disk = FaultyDisk::new(7);
        let log = open_log(&disk, 1 << 20, 1 << 20);
        let store =
            Store::open(disk.shared(), Path::new("/node/store"), StoreOptions::new(clock()))
                .unwrap();
        let (pending, shared) = (Pending::default(), SharedStore::new(store));
        let machine = Machine::new(shared, pending.clone());
        Ok((disk, LogStore::new(log, pending), machine))
    }
}

type OwnSuite = Suite<TypeConfig, LogStore, Machine, Fresh, FaultyDisk>;

/// One test for each step of the suite, so that a failure names it.
macro_rules! openrafts_own_suite {
    ($($step:ident,)*) => {$(
        #[tokio::test]
        async fn $step() {
            let (_disk, log, machine) = Fresh.build().await.unwrap();
            scoped(1, OwnSuite::$step(log, machine)).await.unwrap();
        }
    )*};
}

openrafts_own_suite! {
    last_membership_in_log_initial,
    last_membership_in_log,
    last_membership_in_log_multi_step,
    get_membership_initial,
    get_membership_from_log_and_empty_sm,
    get_membership_from_empty_log_and_sm,
    get_membership_from_log_le_sm_last_applied,
    get_membership_from_log_gt_sm_last_applied_1,
    get_membership_from_log_gt_sm_last_applied_2,
    get_initial_state_without_init,
    get_initial_state_membership_from_empty_log_and_sm,
    get_initial_state_membership_from_sm_inlog_is_smaller,
    get_initial_state_membership_from_log_insm_is_smaller,
    get_initial_state_with_state,
    get_initial_state_last_log_gt_sm,
    get_initial_state_last_log_lt_sm,
    get_initial_state_inverted_log_order,
    get_initial_state_conflict_at_same_index,
    get_initial_state_re_apply_committed,
    save_vote,
    get_log_entries,
    limited_get_log_entries,
    leader_bounded_stream,
    entries_stream,
    try_get_log_entry,
    log_reader_reads_new_entries,
    initial_logs,
    get_log_state,
    get_log_id,
    last_id_in_log,
    last_applied_state,
    purge_logs_upto_0,
    purge_logs_upto_5,
    purge_logs_upto_20,
    delete_logs_after_11,
    delete_logs_after_5,
    delete_logs_after_0,
    delete_logs_after_none,
    append_to_log,
    snapshot_meta,
    snapshot_meta_optional,
    apply_single,
    apply_multiple,
}

#[tokio::test]
async fn a_log_that_is_purged_beyond_empty_tables_is_not_taken_for_whole() {
    // This step of the suite wants an empty snapshot there. Here it means that the tables were
    // lost, and what was purged is nowhere else.
    let (_disk, log, machine) = Fresh.build().await.unwrap();
    let ended = scoped(1, OwnSuite::get_initial_state_log_ids(log, machine)).await.unwrap_err();
    assert!(ended.to_string().contains("nothing is committed to the tables yet"), "{ended}");
}

#[tokio::test]
async fn a_view_of_this_node_cannot_be_installed_on_it() {
    // The suite's last step installs a pinned view as if it had come over the network, which
    // this machine refuses; `transport` has that journey. All before it must pass.
    let ended = scoped(1, OwnSuite::transfer_snapshot(&Fresh)).await.unwrap_err();
    let refusal = "a snapshot of this node cannot be installed on it";
    assert!(ended.to_string().contains(refusal), "{ended}");
}

fn commands(index: u64, proposal: Proposal) -> RaftEntry {
    let at = Position { term: 1, node: 1, index };
    RaftEntry { log_id: log_id(&at), payload: EntryPayload::Normal(proposal) }
}

async fn append(store: &mut LogStore, entries: Vec<RaftEntry>) {
    store.append(entries, IOFlushed::noop()).await.unwrap();
    let flushed = store.log.flush();
    tokio::time::timeout(Duration::from_secs(10), flushed).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_read_over_many_segments_is_whole() {
    let disk = FaultyDisk::new(7);
    // Nothing is kept in memory, and a segment holds a few entries only.
    let mut store = LogStore::new(open_log(&disk, 64 << 10, 0), Pending::default());
    for index in 0..40 {
        let body = Bytes::from(vec![index as u8; 10 << 10]);
        append(&mut store, vec![commands(index, Proposal::encoded(body))]).await;
    }
    let read = store.try_get_log_entries(3..40).await.unwrap();
    let indexes: Vec<u64> = read.iter().map(|entry| entry.log_id.index()).collect();
    assert_eq!(indexes, (3..40).collect::<Vec<_>>());
    let limited = store.limited_get_log_entries(3, 40).await.unwrap();
    assert!(!limited.is_empty() && limited.len() <= 37);
}

#[tokio::test]
async fn an_old_leadership_that_asks_for_what_a_snapshot_replaced_gets_nothing_and_no_error() {
    let disk = FaultyDisk::new(7);
    let mut store = LogStore::new(open_log(&disk, 64 << 10, 0), Pending::default());
    for index in 0..9 {
        append(&mut store, vec![commands(index, Proposal::encoded(Bytes::from("x")))]).await;
    }
    // Beyond the end, as the install of a snapshot does.
    let at = Position { term: 2, node: 2, index: 30 };
    store.purge(log_id(&at)).await.unwrap();
    assert_eq!(store.limited_get_log_entries(5, 9).await.unwrap(), vec![]);
    assert_eq!(store.limited_get_log_entries(31, 40).await.unwrap(), vec![]);
}
