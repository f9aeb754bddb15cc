//! `zoneq cluster`: status, members, leadership, snapshots, digests.

use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::exit::{Exit, Usage};
use super::mend::Mend;
use super::redundancy::Redundancy;
use crate::client::Admin;
use crate::proto::admin::v1::{
    AddLearnerRequest, GetStatusResponse, NodeDigest, NodeRole, VerifyDigestsResponse,
};

/// Catching up a new node takes its time.
const USUAL: Duration = Duration::from_secs(600);

#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Show who is in the group, who leads, how far each node is
    #[command(after_help = "Example:\n  zoneq cluster status --json")]
    Status,
    /// Add a node that copies the log and does not vote; waits until it has caught up
    #[command(after_help = "Example:\n  zoneq cluster add 4 --zone z2 --peer 10.0.0.4:7501 \
                            --grpc 10.0.0.4:7401")]
    Add(Add),
    /// Make these nodes the voters, in one step
    #[command(after_help = "Example:\n  zoneq cluster voters 1 2 4")]
    Voters(Voters),
    /// Show what the cluster survives, by name, or change the voters so that it survives that
    #[command(after_help = "Examples:\n  zoneq cluster redundancy\n  \
                            zoneq cluster redundancy zrs --dry-run\n  \
                            zoneq cluster redundancy zrs")]
    Redundancy(Redundancy),
    /// Put a caught-up node in the place of a voter
    #[command(after_help = "Example:\n  zoneq cluster replace 3 4")]
    Replace(Replace),
    /// Remove a node
    #[command(after_help = "Example:\n  zoneq cluster remove 3")]
    Remove(Remove),
    /// Let log time follow the leader's wall clock while its term lasts, where no majority of the
    /// voters agrees with that clock; shows first how far the others' are from it
    #[command(after_help = "Example:\n  zoneq cluster accept-clock")]
    AcceptClock,
    /// Hand leadership over
    #[command(after_help = "Example:\n  zoneq cluster transfer --to 2")]
    Transfer(Transfer),
    /// Make the tables durable now and let the log below them go
    #[command(after_help = "Example:\n  zoneq cluster snapshot")]
    Snapshot,
    /// Hand leadership over and refuse new work, on the one node that --endpoint names
    #[command(after_help = "Example:\n  zoneq cluster drain -e http://10.0.0.1:7401")]
    Drain(Drain),
    /// Show what a node misses before it takes part, and give up a record that is in doubt; on the
    /// one node that --endpoint names
    #[command(after_help = "Examples:\n  zoneq cluster mend -e http://10.0.0.3:7401\n  \
                            zoneq cluster mend -e http://10.0.0.3:7401 --accept")]
    Mend(Mend),
    /// Compare the data digest of all nodes at one position; exits 1 when they differ
    #[command(after_help = "Example:\n  zoneq cluster verify")]
    Verify,
}

#[derive(Debug, Args)]
pub struct Add {
    id: u64,
    /// The zone of the node
    #[arg(long, env = "ZONEQ_CLUSTER_ADD_ZONE")]
    zone: String,
    /// HOST:PORT where the other nodes reach it
    #[arg(long, env = "ZONEQ_CLUSTER_ADD_PEER")]
    peer: String,
    /// HOST:PORT where clients reach it
    #[arg(long, env = "ZONEQ_CLUSTER_ADD_GRPC")]
    grpc: String,
}

#[derive(Debug, Args)]
pub struct Voters {
    #[arg(required = true)]
    ids: Vec<u64>,
    /// Allow a layout that does not survive the loss of a zone
    #[arg(long, env = "ZONEQ_CLUSTER_VOTERS_DEGRADED", value_parser = FalseyValueParser::new())]
    degraded: bool,
}

#[derive(Debug, Args)]
pub struct Replace {
    old: u64,
    new: u64,
}

#[derive(Debug, Args)]
pub struct Remove {
    id: u64,
    /// Allow a layout that does not survive the loss of a zone
    #[arg(long, env = "ZONEQ_CLUSTER_REMOVE_DEGRADED", value_parser = FalseyValueParser::new())]
    degraded: bool,
}

#[derive(Debug, Args)]
pub struct Transfer {
    /// The node to lead [default: the most caught-up voter of another zone]
    #[arg(long, env = "ZONEQ_CLUSTER_TRANSFER_TO", default_value_t = 0, hide_default_value = true)]
    to: u64,
}

#[derive(Debug, Args)]
pub struct Drain {
    /// End the drain
    #[arg(long, env = "ZONEQ_CLUSTER_DRAIN_OFF", value_parser = FalseyValueParser::new())]
    off: bool,
}

impl ClusterVerb {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if matches!(self, ClusterVerb::Status) {
            let status = context.client()?.admin().status().await?;
            return show(context, &status);
        }
        if matches!(self, ClusterVerb::AcceptClock) {
            return super::clock::accept(context).await;
        }
        let admin = context.client_within(USUAL)?.admin().by(super::region::who());
        if let ClusterVerb::Redundancy(verb) = self {
            return verb.run(context, &admin).await;
        }
        let spinner = context.out.progress(None, "waiting for the cluster");
        let ended = self.change(context, &admin).await;
        spinner.finish_and_clear();
        let (value, text, exit) = ended?;
        context.out.result(&value, &text)?;
        Ok(exit)
    }

    /// Makes the change; answers the result for machines and for people.
    async fn change(
        self,
        context: &Context,
        admin: &Admin,
    ) -> anyhow::Result<(Value, String, Exit)> {
        let done = |value, text| Ok((value, text, Exit::Done));
        match self {
            ClusterVerb::Status
            | ClusterVerb::AcceptClock
            | ClusterVerb::Redundancy(_)
            | ClusterVerb::Verify => verify(context, admin).await,
            ClusterVerb::Add(add) => {
                let request = AddLearnerRequest {
                    id: add.id,
                    zone: add.zone,
                    peer_address: add.peer,
                    grpc_address: add.grpc,
                    ..AddLearnerRequest::default()
                };
                admin.add_learner(request).await?;
                let text = format!("node {} has caught up; it does not vote yet", add.id);
                done(json!({ "ok": true, "added": add.id }), text)
            }
            ClusterVerb::Voters(Voters { ids, degraded }) => {
                admin.change_voters(ids.clone(), degraded).await?;
                let text = format!("the voters are {ids:?}");
                done(json!({ "ok": true, "voters": ids }), text)
            }
            ClusterVerb::Replace(Replace { old, new }) => {
                admin.replace_node(old, new).await?;
                let text = format!("node {new} votes in the place of node {old}");
                done(json!({ "ok": true, "old": old, "new": new }), text)
            }
            ClusterVerb::Remove(Remove { id, degraded }) => {
                admin.remove_node(id, degraded).await?;
                done(json!({ "ok": true, "removed": id }), format!("node {id} removed"))
            }
            ClusterVerb::Transfer(Transfer { to }) => {
                let leader = admin.transfer_leader(to).await?;
                done(json!({ "ok": true, "leader": leader }), format!("node {leader} leads"))
            }
            ClusterVerb::Snapshot => {
                let index = admin.take_snapshot().await?;
                let text = format!("the tables are durable up to log index {index}");
                done(json!({ "ok": true, "durable_index": index }), text)
            }
            ClusterVerb::Drain(Drain { off }) => drain(context, admin, !off).await,
            ClusterVerb::Mend(mend) => mend.run(context, admin).await,
        }
    }
}

async fn drain(
    context: &Context,
    admin: &Admin,
    on: bool,
) -> anyhow::Result<(Value, String, Exit)> {
    let [address] = context.global.endpoint.as_slice() else {
        let text = "drain is for one node: give exactly one --endpoint";
        return Err(Usage(text.to_owned()).into());
    };
    admin.drain(on).await?;
    let text = if on { "takes no new work" } else { "takes work again" };
    let value = json!({ "ok": true, "endpoint": address, "draining": on });
    Ok((value, format!("{address} {text}"), Exit::Done))
}

async fn verify(context: &Context, admin: &Admin) -> anyhow::Result<(Value, String, Exit)> {
    let answer = admin.verify_digests().await?;
    let mut rows = Vec::new();
    for node in &answer.nodes {
        context.out.item(&json!({
            "node": node.node_id,
            "index": node.index,
            "digest": node.digest,
            "error": (!node.error.is_empty()).then_some(&node.error),
            "differs": node.differs,
        }))?;
        let digest = if node.error.is_empty() { &node.digest } else { &node.error };
        rows.push(vec![node.node_id.to_string(), node.index.to_string(), digest.clone()]);
    }
    context.out.table(&["node", "log index", "digest"], rows)?;
    let value = json!({ "ok": answer.equal, "equal": answer.equal, "index": answer.index,
        "nodes": answer.nodes.len() });
    let text = if answer.equal {
        format!("{} nodes hold the same data at log index {}", answer.nodes.len(), answer.index)
    } else {
        not_equal(&answer)
    };
    Ok((value, text, if answer.equal { Exit::Done } else { Exit::Failed }))
}

/// What is wrong: data that differs, or only nodes that did not say what they hold.
fn not_equal(answer: &VerifyDigestsResponse) -> String {
    let (said, silent): (Vec<_>, Vec<_>) =
        answer.nodes.iter().partition(|node| node.error.is_empty());
    let index = answer.index;
    let other = |node: &&NodeDigest| {
        said.iter().any(|it| it.index == node.index && it.digest != node.digest)
    };
    if said.iter().any(|node| other(node) || !node.differs.is_empty()) {
        let what = said.iter().filter(|node| !node.differs.is_empty());
        let what = what.map(|node| format!("of node {} {}", node.node_id, node.differs.join("; ")));
        let what: String = what.map(|what| format!("; {what} differs")).collect();
        return format!("the nodes do not all hold the same data at log index {index}{what}");
    }
    let names: Vec<String> = silent.iter().map(|node| node.node_id.to_string()).collect();
    format!(
        "{} of {} nodes hold the same data at log index {index}; of the others nothing is known: \
         node {} did not say",
        said.len(),
        answer.nodes.len(),
        names.join(", node ")
    )
}

/// The word for a role.
#[must_use]
pub fn role_name(role: i32) -> &'static str {
    match NodeRole::try_from(role).unwrap_or_default() {
        NodeRole::Leader => "leader",
        NodeRole::Follower => "follower",
        NodeRole::Learner => "learner",
        NodeRole::Candidate => "candidate",
        NodeRole::Unspecified => "unknown",
    }
}

/// What the cluster survives with its second region; a node of an earlier version says it without.
fn overall(status: &GetStatusResponse) -> &str {
    match status.overall_redundancy.as_str() {
        "" => &status.redundancy,
        name => name,
    }
}

/// A status as the JSON that scripts read.
#[must_use]
pub fn status_json(status: &GetStatusResponse) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id,
                "zone": node.zone,
                "region": node.region,
                "role": role_name(node.role),
                "voter": node.voter,
                "grpc": node.grpc_address,
                "peer": node.peer_address,
                "matched_index": node.matched_index,
                "disk": (!node.disk.is_empty()).then_some(&node.disk),
                "disk_free_bytes": (!node.disk.is_empty()).then_some(node.disk_free_bytes),
                "clock_ahead_us": node.clock_ahead_us,
            })
        })
        .collect();
    json!({
        "ok": status.leader_id != 0,
        "cluster_id": status.cluster_id,
        "answered_by": status.node_id,
        "leader": (status.leader_id != 0).then_some(status.leader_id),
        "term": status.term,
        "last_log_index": status.last_log_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "durable_index": status.durable_index,
        "purged_index": status.purged_index,
        "log_time": status.log_time.map(|time| time.to_string()),
        "redundancy": status.redundancy,
        "overall_redundancy": overall(status),
        "queues": status.queues,
        "messages": status.messages,
        "bytes": status.bytes,
        "draining": status.draining,
        "version": status.version,
        "clock": (!status.clock.is_empty()).then_some(&status.clock),
        "nodes": nodes,
    })
}

/// What is to be said of the clock, where it is not as it should be.
fn clock_trouble(clock: &str) -> &'static str {
    match clock {
        "accepted" => "; log time follows the leader's clock by an operator's word alone",
        "runs on" => {
            "; no majority agrees with the leader's clock: log time runs on without a clock"
        }
        "no time" => {
            "; the cluster has no time yet: nothing is written until a majority's clocks agree"
        }
        _ => "",
    }
}

fn show(context: &Context, status: &GetStatusResponse) -> anyhow::Result<Exit> {
    let rows = status
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.id.to_string(),
                node.zone.clone(),
                node.region.clone(),
                role_name(node.role).to_owned(),
                if node.voter { "yes" } else { "no" }.to_owned(),
                node.grpc_address.clone(),
                node.matched_index.to_string(),
            ]
        })
        .collect();
    let head = ["node", "zone", "region", "role", "votes", "grpc", "matched"];
    context.out.table(&head, rows)?;
    let leader = match status.leader_id {
        0 => "nobody leads".to_owned(),
        id => format!("node {id} leads term {}", status.term),
    };
    let text = format!(
        "{} ({}): {leader}; applied {}, durable {}; {} queues, {} messages, {} bytes",
        status.cluster_id,
        overall(status),
        status.applied_index,
        status.durable_index,
        status.queues,
        status.messages,
        status.bytes
    );
    let short = status.nodes.iter().filter(|node| !matches!(node.disk.as_str(), "" | "ok"));
    let short: String = short
        .map(|node| format!("; the disk of node {} is nearly full: it {}", node.id, node.disk))
        .collect();
    let clock = clock_trouble(&status.clock);
    context.out.result(&status_json(status), &(text + &short + clock))?;
    Ok(if status.leader_id == 0 { Exit::NotNow } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_did_not_answer_is_not_said_to_hold_other_data() {
        let node = |node_id: u64, digest: &str, error: &str| NodeDigest {
            node_id,
            index: 7,
            digest: digest.to_owned(),
            error: error.to_owned(),
            differs: Vec::new(),
        };
        let told = |nodes| not_equal(&VerifyDigestsResponse { equal: false, index: 7, nodes });
        let silent = told(vec![node(1, "a", ""), node(2, "", "no answer"), node(3, "a", "")]);
        assert!(silent.starts_with("2 of 3 nodes hold the same data at log index 7"), "{silent}");
        assert!(silent.ends_with("node 2 did not say"), "{silent}");
        let other = told(vec![node(1, "a", ""), node(2, "", "no answer"), node(3, "b", "")]);
        assert_eq!(other, "the nodes do not all hold the same data at log index 7");
        let named = NodeDigest { differs: vec!["queue \"orders\"".to_owned()], ..node(3, "b", "") };
        let other = told(vec![node(1, "a", ""), named]);
        assert!(other.ends_with("log index 7; of node 3 queue \"orders\" differs"), "{other}");
    }
}
