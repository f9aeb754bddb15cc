//! What is done to a host itself while the cluster lives: its disk rots, and an operator puts in
//! another, seats a node, or starts it again.

use std::path::Path;

use zoneq::storage::disk::Disk as _;

use super::{Host, World};
use crate::flips::Flip;
use crate::seats::Wish;

/// What a node notes when its tables are damaged, before it stops.
const DAMAGED: &str = "/data/tables/DAMAGED";
/// What a node has once it was started for the first time.
const IDENTITY: &str = "/data/identity.json";

impl Host {
    /// Whether its node may stop by itself with these words, to be started again, though nothing was
    /// done to its disk just now. Tables that rotted end it at a commit, which it notes
    /// (`docs/operating/damage.md`); and one that never ran finds no room for its identity on a
    /// disk that is full.
    pub(super) fn may_stop(&self, why: &str) -> bool {
        let disk = self.disk();
        let has_rotted = self.seats.is_hurt(self.id) && disk.exists(Path::new(DAMAGED));
        let is_full = why.contains("no space left") && !disk.exists(Path::new(IDENTITY));
        has_rotted || is_full
    }
}

impl World {
    /// Cuts the power of a node that may be hurt, and rots its disk.
    pub fn rot(&mut self, flip: Flip) {
        let weak = self.seats.weak();
        let at = flip.roll as usize % weak.len().max(1);
        let Some(host) = weak.get(at).and_then(|id| self.host(*id)) else { return };
        self.power_off(host.id, false);
        self.rotten = Some(host.id);
        let Some(what) = host.rot(flip) else { return };
        self.seats.hurt(host.id);
        self.note(format_args!("of host {}: {what}", host.id));
        *self.history.lock().verbs.entry(flip.name()).or_default() += 1;
    }

    /// The node whose disk rotted has its power again.
    pub fn end_rot(&mut self) {
        if let Some(id) = self.rotten.take() {
            self.power_on(id);
        }
    }

    /// Does what an operator wishes to be done to hosts.
    pub fn grant_wishes(&mut self) {
        while let Some(wish) = self.seats.take_wish() {
            self.note(format_args!("the operator does {wish:?}"));
            let (Wish::Sit(id, _) | Wish::Leave(id) | Wish::Wipe(id) | Wish::Restart(id)) = wish;
            let Some(host) = self.host(id) else { continue };
            self.restarts.retain(|(_, other)| *other != id);
            self.take_down(&host, true);
            if !matches!(wish, Wish::Restart(_)) {
                host.clear_disk();
            }
            if !self.held_down.contains(&id) {
                self.bring_up(id);
            }
        }
    }
}
