//! The node itself, its part in the group, and its disk.

use super::page::Page;
use super::{Identity, Sources};
use crate::consensus::group::{Lead, Measures, Role, Status};
use crate::queue::ids::LogTime;
use crate::storage::reserve::Stage;

const READY: &str = "zoneq_server_ready";
const READY_HELP: &str =
    "1 where the node can be used: it has caught up, a leader is known, and it does not drain.";

pub(super) fn identity(page: &mut Page, identity: &Identity) {
    let node = identity.node.to_string();
    let labels = [
        ("cluster", identity.cluster_id.as_str()),
        ("node", &node),
        ("region", &identity.region),
        ("zone", &identity.zone),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    let help = "Always 1; the labels say which node this is, and the version of its binary.";
    page.gauge_of("zoneq_server_info", help, &labels, 1.0);
}

/// Of a node that does not take part yet.
pub(super) fn not_ready(page: &mut Page) {
    page.flag(READY, READY_HELP, false);
}

pub(super) fn fill(page: &mut Page, sources: &Sources) {
    page.flag(READY, READY_HELP, *sources.ready.borrow());
    let (status, measures) = (sources.group.status(), sources.group.measures());
    let help = "1 while the node hands leadership over and refuses new work.";
    page.flag("zoneq_server_draining", help, status.draining);
    part(page, &status);
    log(page, &status);
    if let Some(lead) = &measures.lead {
        leading(page, &status, lead);
        compared(page, sources);
    }
    disk(page, &measures);
}

fn part(page: &mut Page, status: &Status) {
    let own = status.nodes.iter().find(|node| node.id == status.node);
    let role = match own.map(|own| own.role) {
        Some(Role::Leader) => "leader",
        Some(Role::Follower) => "follower",
        Some(Role::Candidate) => "candidate",
        Some(Role::Learner) => "learner",
        None => "",
    };
    let words = ["leader", "follower", "candidate", "learner"];
    let help = "What the node does in its group: 1 for the role that it has.";
    page.one_of("zoneq_consensus_role", help, "role", &words, role);
    let help = "1 on the node that leads its group.";
    page.flag("zoneq_consensus_leader", help, role == "leader");
    let help = "1 while the node hears of a leader.";
    page.flag("zoneq_consensus_leader_known", help, status.leader.is_some());
    page.gauge("zoneq_consensus_term", "The term of Raft.", status.term as f64);
    let voters = status.nodes.iter().filter(|node| node.voter).count();
    page.gauge("zoneq_consensus_voters", "Members that vote.", voters as f64);
    let learners = (status.nodes.len() - voters) as f64;
    page.gauge("zoneq_consensus_learners", "Members that do not vote.", learners);
}

fn log(page: &mut Page, status: &Status) {
    for (name, help, index) in [
        ("zoneq_consensus_last_log_index", "The last entry of this node's log.", status.last_log),
        (
            "zoneq_consensus_committed_index",
            "The last entry that this node knows to be committed.",
            status.committed,
        ),
        ("zoneq_consensus_applied_index", "The last entry applied here.", status.applied),
        (
            "zoneq_storage_durable_index",
            "The last entry that the tables hold durably; the log holds what comes after it.",
            status.durable,
        ),
        ("zoneq_storage_purged_index", "The last entry that the log let go.", status.purged),
    ] {
        page.gauge(name, help, index as f64);
    }
    if status.log_time > LogTime::default() {
        let help = "The log time of this node's state, in seconds since 1970.";
        let seconds = status.log_time.0 as f64 / 1e6;
        page.gauge("zoneq_consensus_log_timestamp_seconds", help, seconds);
    }
}

/// What the leader alone knows.
fn leading(page: &mut Page, status: &Status, lead: &Lead) {
    let help = "Voters that answered the leader lately, itself among them; told by the leader.";
    let reachable = lead.reachable.len() as f64;
    page.gauge("zoneq_consensus_voters_reachable", help, reachable);
    let help = "1 while any one zone more may be lost, those gone already counted; told by the \
                leader.";
    page.flag("zoneq_consensus_zone_redundant", help, lead.survives_a_zone);
    let help = "Bytes of commands that were proposed and not yet applied; told by the leader.";
    page.gauge("zoneq_consensus_proposed_bytes", help, lead.bytes_in_flight as f64);
    if let Some(ahead_us) = lead.wall_ahead_us {
        let help = "How far the leader's wall clock is ahead of log time as it runs, in seconds; \
                    below 0 it is behind; told by the leader.";
        page.gauge("zoneq_consensus_clock_step_seconds", help, ahead_us as f64 / 1e6);
    }
    for node in status.nodes.iter().filter(|node| node.id != status.node) {
        let Some(matched) = node.matched else { continue };
        let (id, help) = (node.id.to_string(), "Entries that a member lacks; told by the leader.");
        let labels = [("member", id.as_str()), ("zone", &node.member.zone)];
        let lacks = status.last_log.saturating_sub(matched) as f64;
        page.gauge_of("zoneq_consensus_member_behind_entries", help, &labels, lacks);
    }
}

fn compared(page: &mut Page, sources: &Sources) {
    for (with, agreement) in sources.group.agreed() {
        let labels = [("with", with.as_str())];
        let help = "The newest entry after which the data were compared with another replica's; told by \
                    the leader.";
        page.gauge_of("zoneq_consensus_compared_index", help, &labels, agreement.index as f64);
        let help =
            "1 while the data were seen to differ from another replica's; told by the leader.";
        let differs = if agreement.differs.is_empty() { 0.0 } else { 1.0 };
        page.gauge_of("zoneq_consensus_data_differs", help, &labels, differs);
    }
}

fn disk(page: &mut Page, measures: &Measures) {
    let help = "Bytes of the log's segments on the disk.";
    page.gauge("zoneq_storage_log_bytes", help, measures.log_bytes as f64);
    let help = "How long groups of log entries took to be written and fsynced.";
    page.histogram_of("zoneq_storage_flush_seconds", help, &[], &measures.flushes);
    let help = "How long the flush of the log that runs now has been running; 0 where none runs.";
    page.gauge("zoneq_storage_flush_stalled_seconds", help, measures.stalled_for.as_secs_f64());
    let help = "Bytes of message bodies in memory that wait for a table commit.";
    page.gauge("zoneq_storage_unsaved_bytes", help, measures.unsaved_bytes as f64);
    let (live, files) = measures.bodies;
    let help = "Bytes of message bodies in their files that still live.";
    page.gauge("zoneq_storage_bodies_live_bytes", help, live as f64);
    let help = "Bytes of the files of message bodies.";
    page.gauge("zoneq_storage_bodies_file_bytes", help, files as f64);
    let Some(disk) = measures.disk else { return };
    let help = "Free bytes of the disk that holds the data.";
    page.gauge("zoneq_storage_disk_free_bytes", help, disk.free_bytes as f64);
    let help = "What the node refuses because its disk is full: 1 for the stage that holds.";
    let words = Stage::ALL.map(Stage::word);
    page.one_of("zoneq_storage_disk_stage", help, "stage", &words, disk.stage.word());
}
