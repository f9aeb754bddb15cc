//! openraft's own suite over the log and the store, and the laws that it does not cover.

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
use crate::storage::disk::FlushMode;
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
        let (pending, shared) = (Pending::default(), SharedStore::new(store, FlushMode::Inline));
        let machine = Machine::new(shared, pending.clone());
        Ok((disk, LogStore::new(log, pending), machine))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    // The suite's last step installs a pinned view as if it had come over the network, which
    // this machine refuses; `transport` has that journey. All before it must pass.
    let ended = scoped(1, Suite::test_all(Fresh)).await.unwrap_err();
    assert!(
        ended.to_string().contains("a snapshot of this node cannot be installed on it"),
        "{ended}"
    );
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
