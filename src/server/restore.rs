//! Fetches a snapshot before Raft starts, for tables that were lost, or that end before what is
//! missing in the log and in the logs of all others.
//!
//! The vote is good, and so is the log behind that place: the node keeps its id, for it forgets
//! neither a promise nor an entry it acknowledged. What is before is in other nodes' tables only.
//!
//! Laws: a peer gives what it has applied, so nothing that is not committed comes in; the tables
//! are replaced whole or not at all; the log goes on from the snapshot where it holds the
//! snapshot's last entry, and otherwise begins anew behind it. Tables that cannot be read are
//! put aside, never deleted.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ServerError;
use super::mend::BeforeRaft;
use crate::consensus::transport::{PeerClient, incoming_chunk};
use crate::proto::admin::v1::{GetMendingResponse, MendingTrouble};
use crate::queue::ids::Position;
use crate::storage::disk::{Disk, FlushMode};
use crate::storage::log::Log;
use crate::storage::mend::Trouble;
use crate::storage::snapshot::ReadySnapshot;
use crate::storage::store::{Store, StoreError, StoreOptions, noted_damage};

const PAUSE: Duration = Duration::from_secs(1);
/// How long a peer may take to make its tables durable, and for each chunk.
const ANSWER: Duration = Duration::from_secs(30);
const ASIDE: &str = "tables.lost";

type Failed = Box<dyn Error + Send + Sync>;

/// Opens the tables in `dir`; puts tables that cannot be read aside and begins anew when
/// `replaceable` says that their content can be had elsewhere.
pub(super) fn open_tables(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &StoreOptions,
    replaceable: bool,
) -> Result<Store, StoreError> {
    let tables = dir.join("tables");
    let opened = match noted_damage(disk, &tables).filter(|_| replaceable) {
        Some(damage) => Err(damage),
        None => Store::open(Arc::clone(disk), &tables, options.clone()),
    };
    match opened {
        Err(error) if replaceable && error.is_damage() => {
            let aside = dir.join(ASIDE);
            tracing::error!(%error, aside = %aside.display(),
                "the tables are damaged: they are put aside and built anew");
            let io = |source| StoreError::Io {
                doing: "put aside",
                path: tables.display().to_string(),
                source,
            };
            if disk.exists(&aside) {
                disk.remove_dir_all(&aside).map_err(io)?;
            }
            disk.rename(&tables, &aside).map_err(io)?;
            disk.sync_dir(dir).map_err(io)?;
            Store::open(Arc::clone(disk), &tables, options.clone())
        }
        opened => opened,
    }
}

/// The first entry that a snapshot must hold, where the log begins after what the tables hold, so
/// that it cannot be applied to them.
pub(super) fn is_needed(store: &Store, log: &Log) -> Option<u64> {
    let index = |position: Option<Position>| position.map(|at| at.index);
    index(log.last_purged()).filter(|purged| index(store.applied()) < Some(*purged))
}

/// The first entry that a snapshot must hold, so that the log may do without what is missing in
/// it; none, where the tables hold all that it did.
///
/// A hole that ends where the tables end and with another entry was never committed, but what
/// comes behind it in the log does not build on the tables either.
pub(super) fn is_needed_for(store: &Store, trouble: Trouble) -> Option<u64> {
    let last = trouble.hole()?.last;
    let enough = match (trouble, store.applied()) {
        (Trouble::Damage(_), applied) if applied == Some(last) => last.index,
        (Trouble::Damage(_), _) => last.index.saturating_add(1),
        _ => last.index,
    };
    (store.applied().map(|applied| applied.index) < Some(enough)).then_some(enough)
}

/// Installs a snapshot of a peer that holds entry `from` at least.
pub(super) async fn run(
    store: &mut Store,
    from: u64,
    before: &BeforeRaft,
    mode: FlushMode,
) -> Result<(), ServerError> {
    let failed = |error: Failed| ServerError::fatal("the lost tables cannot be fetched", error);
    tracing::warn!(from, "the tables hold less than the log builds on; asking the other nodes");
    if before.others.is_empty() {
        let why = format!(
            "the tables end before entry {from}, the log does not reach back to where they end, \
             and there is no other node to ask"
        );
        return Err(failed(why.into()));
    }
    before
        .mending
        .tell(GetMendingResponse { trouble: MendingTrouble::Tables.into(), ..Default::default() });
    let ready = 'asking: loop {
        for (id, address) in &before.others {
            let client = PeerClient::new(before.peers.clone(), *id, address);
            match fetch(store, client, from, mode).await {
                Ok(ready) => break 'asking ready,
                Err(error) => tracing::info!(node = id, %error, "a node gave no snapshot"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    };
    store.install(ready).map_err(|error| failed(error.into()))?;
    tracing::warn!(position = ?store.applied(), "the tables were built anew from a snapshot");
    Ok(())
}

async fn fetch(
    store: &mut Store,
    mut client: PeerClient,
    from: u64,
    mode: FlushMode,
) -> Result<ReadySnapshot, Failed> {
    let mut parts = client.read_snapshot(from, ANSWER).await?;
    let mut writer = store.begin_install()?;
    while let Some(part) = tokio::time::timeout(ANSWER, parts.message()).await?? {
        let chunk = incoming_chunk(part).ok_or("an answer without a chunk")?;
        writer = on_disk(mode, move || writer.push(&chunk).map(|()| writer)).await?;
    }
    let ready = on_disk(mode, move || writer.finish()).await?;
    match ready.position() {
        Some(position) if position.index >= from => Ok(ready),
        position => Err(format!("it ends at {position:?}, before entry {from}").into()),
    }
}

/// Lets the log begin anew behind the tables where it does not hold the entry that they end
/// with: what it has there was never committed.
pub(super) async fn align(store: &Store, log: &Log) -> Result<(), ServerError> {
    let failed = |error| ServerError::fatal("the log cannot be made to fit the tables", error);
    let (Some(applied), Some(last)) = (store.applied(), log.last()) else { return Ok(()) };
    let purged = log.last_purged();
    if last.index < applied.index || purged.is_some_and(|purged| purged.index >= applied.index) {
        // A log that ends before the tables goes on from there by itself.
        return Ok(());
    }
    let held = log.entry(applied.index).map_err(failed)?;
    if held.is_none_or(|entry| entry.position != applied) {
        tracing::warn!(?applied, "the log holds another entry there: it begins anew behind it");
        log.truncate_after(purged).await.map_err(failed)?;
        log.purge(applied).await.map_err(failed)?;
    }
    Ok(())
}

async fn on_disk<T: Send + 'static>(
    mode: FlushMode,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failed> {
    match mode {
        FlushMode::Inline => Ok(work()?),
        FlushMode::Threads => Ok(tokio::task::spawn_blocking(work).await??),
    }
}
