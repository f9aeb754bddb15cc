//! What one file of the faulty disk holds: as read now, and as a crash would leave it.
//!
//! Pages of zeros take no memory, so a preallocated segment costs nothing.

use std::collections::BTreeMap;
use std::io;

use super::Dice;

const PAGE: u64 = 4096;
/// What a disk writes or does not write as a whole.
const BLOCK: u64 = 512;

#[derive(Debug, Default, Clone)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

/// Of at most a page. A log lays out its segments with zeros: to look at each byte by itself took a
/// twentieth of a simulation.
fn is_zero(some: &[u8]) -> bool {
    const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    ZEROS.get(..some.len()) == Some(some)
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    now: Content,
    durable: Content,
    unsynced: Vec<Change>,
    pub(super) handles: usize,
}

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let start = (at % PAGE) as usize;
            let (some, after) = rest.split_at(rest.len().min(PAGE as usize - start));
            let number = at / PAGE;
            if self.pages.contains_key(&number) || !is_zero(some) {
                let page = self.pages.entry(number).or_insert_with(|| vec![0; PAGE as usize]);
                if let Some(place) = page.get_mut(start..start + some.len()) {
                    place.copy_from_slice(some);
                }
            }
            at += some.len() as u64;
            rest = after;
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|number, _| number * PAGE < len);
            if let Some(page) = self.pages.get_mut(&(len / PAGE))
                && let Some(cut) = page.get_mut((len % PAGE) as usize..)
            {
                cut.fill(0);
            }
        }
        self.len = len;
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buf.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = (at % PAGE) as usize;
            let (some, after) = {
                let length = rest.len().min(PAGE as usize - start);
                rest.split_at_mut(length)
            };
            match self.pages.get(&(at / PAGE)).and_then(|page| page.get(start..start + some.len()))
            {
                Some(page) => some.copy_from_slice(page),
                None => some.fill(0),
            }
            at += some.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.now.len
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.now.read(buf, offset)
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) {
        self.now.write(offset, &data);
        self.unsynced.push(Change::Write(offset, data));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.now.set_len(len);
        self.unsynced.push(Change::Length(len));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write(offset, data) => self.durable.write(offset, &data),
                Change::Length(len) => self.durable.set_len(len),
            }
        }
    }

    /// A failed sync: the data is neither durable nor ever written again.
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
    }

    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        for content in [&mut self.now, &mut self.durable] {
            let mut byte = [0];
            if content.read(&mut byte, offset).is_ok() {
                content.write(offset, &[byte[0] ^ (1 << (bit % 8))]);
            }
        }
        if offset < self.now.len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Decides what of the unsynced changes reached the platter.
    pub(super) fn crash(&mut self, dice: &mut Dice) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Length(len) => {
                    if dice.below(2) == 0 {
                        self.durable.set_len(len);
                    }
                }
                Change::Write(offset, data) => self.tear(offset, &data, dice),
            }
        }
        self.now = self.durable.clone();
        self.handles = 0;
    }

    /// All, nothing, or each block for itself.
    fn tear(&mut self, offset: u64, data: &[u8], dice: &mut Dice) {
        let fate = dice.below(4);
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let length = rest.len().min((BLOCK - at % BLOCK) as usize);
            let (some, after) = rest.split_at(length);
            if fate == 0 || (fate != 1 && dice.below(2) == 0) {
                self.durable.write(at, some);
            }
            at += length as u64;
            rest = after;
        }
    }
}
