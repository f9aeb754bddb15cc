//! A disk in memory that loses power: of what was not synced, each block of 512 bytes survives
//! or does not, and each name in a folder does or does not, as the seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::storage::disk::{Disk, DiskFile, DiskLock, FlushMode, OpenMode};

#[derive(Clone, Debug, Default)]
struct Node {
    now: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Writes, syncs and name changes so far.
    steps: u64,
    /// The step that never happens, and after which nothing does.
    dies_at: Option<u64>,
}

/// Everything that a file system does for a store, and a plug to pull.
#[derive(Clone, Debug, Default)]
pub struct PlugDisk {
    inner: Arc<Mutex<Inner>>,
    threads: bool,
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl PlugDisk {
    /// One that lets commits run on a thread.
    pub fn with_threads() -> PlugDisk {
        PlugDisk { threads: true, ..PlugDisk::default() }
    }

    /// The `step`th step from now does not happen, nor anything after it.
    pub fn die_at(&self, step: u64) {
        let mut inner = self.lock();
        inner.dies_at = Some(inner.steps + step);
    }

    /// What is found when the power is back.
    pub fn after_power_cut(&self, seed: u64) -> PlugDisk {
        let mut rng = SmallRng::seed_from_u64(seed);
        let inner = self.lock();
        let mut nodes = inner.nodes.clone();
        for node in &mut nodes {
            let mut kept = node.durable.clone();
            if rng.random() {
                kept.resize(node.now.len(), 0);
            }
            for at in (0..kept.len()).step_by(512) {
                let end = (at + 512).min(kept.len()).min(node.now.len());
                if at < end && rng.random() {
                    kept[at..end].copy_from_slice(&node.now[at..end]);
                }
            }
            (node.now, node.durable) = (kept.clone(), kept);
        }
        let all: BTreeSet<_> = inner.names.keys().chain(inner.durable_names.keys()).collect();
        let mut names = BTreeMap::new();
        for path in all {
            let kept = if rng.random() { &inner.names } else { &inner.durable_names };
            let parent = path.parent().unwrap();
            if let Some(node) = kept.get(path)
                && (parent == Path::new("/") || names.contains_key(parent))
            {
                names.insert(path.clone(), *node);
            }
        }
        let durable_names = names.clone();
        let inner = Inner { nodes, names, durable_names, steps: 0, dies_at: None };
        PlugDisk { inner: Arc::new(Mutex::new(inner)), threads: self.threads }
    }

    /// Length of all files.
    pub fn used(&self) -> u64 {
        let inner = self.lock();
        inner.names.values().map(|node| inner.nodes[*node].now.len() as u64).sum()
    }

    pub fn flip_bit(&self, path: &Path, at: usize) {
        let mut inner = self.lock();
        let node = inner.names[path];
        inner.nodes[node].now[at] ^= 1;
        inner.nodes[node].durable[at] ^= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        if inner.dies_at.is_some_and(|at| inner.steps >= at) {
            return Err(gone());
        }
        inner.steps += 1;
        Ok(inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        match inner.dies_at {
            Some(at) if inner.steps >= at => Err(gone()),
            _ => Ok(inner),
        }
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} is not there", path.display()))
}

#[derive(Debug)]
struct PlugFile(PlugDisk, usize);

impl DiskFile for PlugFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.0.alive()?;
        let from = offset as usize;
        let bytes = inner.nodes[self.1].now.get(from..from + buf.len());
        buf.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.0.step()?;
        let now = &mut inner.nodes[self.1].now;
        let end = offset as usize + buf.len();
        if now.len() < end {
            now.resize(end, 0);
        }
        now[offset as usize..end].copy_from_slice(buf);
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_all_at(&bufs.concat(), offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.step()?.nodes[self.1].now.resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.alive()?.nodes[self.1].now.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.0.step()?;
        let node = &mut inner.nodes[self.1];
        node.durable.clone_from(&node.now);
        Ok(())
    }
}

#[derive(Debug)]
struct PlugLock;

impl DiskLock for PlugLock {}

impl Disk for PlugDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let found = self.alive()?.names.get(path).copied();
        let node = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (Some(node), _) => node,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(missing(path)),
            (None, OpenMode::CreateNew | OpenMode::OpenOrCreate) => {
                let mut inner = self.step()?;
                let parent = path.parent().unwrap();
                if !inner.names.contains_key(parent) && parent != Path::new("/") {
                    return Err(missing(parent));
                }
                inner.nodes.push(Node::default());
                let node = inner.nodes.len() - 1;
                inner.names.insert(path.to_path_buf(), node);
                node
            }
        };
        Ok(Arc::new(PlugFile(self.clone(), node)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let mut parents: Vec<_> = path.ancestors().filter(|p| *p != Path::new("/")).collect();
        parents.reverse();
        for parent in parents {
            if !inner.names.contains_key(parent) {
                inner.nodes.push(Node::default());
                let node = inner.nodes.len() - 1;
                inner.names.insert(parent.to_path_buf(), node);
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let inner = self.alive()?;
        Ok(inner.names.keys().filter(|p| p.parent() == Some(path)).cloned().collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.lock().names.contains_key(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let node = inner.names.remove(from).ok_or_else(|| missing(from))?;
        inner.names.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step()?.names.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step()?.names.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let here = |name: &PathBuf| name.parent() == Some(path);
        inner.durable_names.retain(|name, _| !here(name));
        let now: Vec<_> = inner
            .names
            .iter()
            .filter(|(name, _)| here(name))
            .map(|(a, b)| (a.clone(), *b))
            .collect();
        inner.durable_names.extend(now);
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn DiskLock>> {
        Ok(Box::new(PlugLock))
    }

    fn flush_mode(&self) -> FlushMode {
        if self.threads { FlushMode::Threads } else { FlushMode::Inline }
    }

    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}
