//! What is measured of a node beside its status, gathered when somebody asks: nothing here is kept
//! up to date meanwhile, but for the durations of flushes.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::{Instant as _, WatchReceiver as _};

use super::super::types::NodeId;
use super::super::zones;
use super::{Group, SILENCE};
use crate::storage::space::Seen;
use crate::storage::timings::Timed;

/// The measures of one moment.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Bytes of the log's segments on the disk.
    pub log_bytes: u64,
    /// How long groups of entries took to be written and fsynced.
    pub flushes: Timed,
    /// How long the flush that runs now has been running.
    pub stalled_for: Duration,
    /// Bytes of bodies that wait in memory for a table commit.
    pub unsaved_bytes: u64,
    /// Live bytes in the files of bodies, and bytes of those files.
    pub bodies: (u64, u64),
    /// `None` = the disk was not looked at, or its space is not counted.
    pub disk: Option<Seen>,
    /// Of the node that leads.
    pub lead: Option<Lead>,
}

/// What only the node that leads knows.
#[derive(Clone, Debug)]
pub struct Lead {
    /// The voters that answered lately; it is one of them.
    pub reachable: BTreeSet<NodeId>,
    /// With those, any one zone more may be lost.
    pub survives_a_zone: bool,
    /// Bytes of commands that were proposed and not yet applied.
    pub bytes_in_flight: u64,
    /// How far its wall clock is ahead of T as it runs, in microseconds.
    pub wall_ahead_us: Option<i64>,
}

impl Group {
    /// What is measured of this node now.
    #[must_use]
    pub fn measures(&self) -> Measures {
        let log = &self.inner.log;
        let store = self.inner.store.read();
        let (unsaved_bytes, bodies) = (store.dirty_bytes() as u64, store.space());
        let disk = store.disk_space().seen();
        drop(store);
        Measures {
            log_bytes: log.disk_bytes(),
            flushes: log.flushes(),
            stalled_for: log.stalled_for(),
            unsaved_bytes,
            bodies,
            disk,
            lead: self.lead(),
        }
    }

    /// The members that answered this node lately, itself among them; of others only the leader
    /// knows.
    #[must_use]
    pub fn answering(&self) -> BTreeSet<NodeId> {
        let bound = (self.inner.config.election.1 * 2).max(SILENCE);
        let watched = self.inner.raft.metrics();
        let metrics = watched.borrow_watched();
        let heard = metrics.heartbeat.iter().flatten();
        let lately = heard.filter(|(_, at)| at.is_some_and(|at| at.elapsed() <= bound));
        lately.map(|(id, _)| *id).chain([metrics.id]).collect()
    }

    fn lead(&self) -> Option<Lead> {
        if !self.inner.leadership.borrow().is_me {
            return None;
        }
        let answering = self.answering();
        let answered = |id: NodeId| answering.contains(&id);
        let watched = self.inner.raft.metrics();
        let metrics = watched.borrow_watched();
        let members = &metrics.membership_config;
        let voters = members.voter_ids();
        let zone_of = |id: &NodeId| members.get_node(id).map_or("", |member| &member.zone);
        // During a change of voters both sets count.
        let survives_a_zone = members
            .get_joint_config()
            .iter()
            .all(|set| zones::survives(set.iter().map(|id| (zone_of(id), answered(*id)))));
        Some(Lead {
            reachable: voters.filter(|id| answered(*id)).collect(),
            survives_a_zone,
            bytes_in_flight: self.inner.proposer.bytes_in_flight(),
            wall_ahead_us: self.wall_ahead_us(),
        })
    }
}
