//! What a lab's nodes say of themselves, gathered at once, and shown as a table or as JSON.
//!
//! Laws: each node is asked directly and for half a second at most, so that one that is paused
//! or cut off does not hold up the view of the others.

use std::io::{self, Write as _};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use futures::future::join_all;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::files::{Lab, LabNode};
use super::process::State;
use crate::cli::cluster::role_name;
use crate::proto::admin::v1 as pb;
use pb::cluster_service_client::ClusterServiceClient;
use pb::region_service_client::RegionServiceClient;

const PATIENCE: Duration = Duration::from_millis(500);

/// A connection to one node alone.
#[derive(Clone, Debug)]
pub struct Eye {
    pub id: u64,
    channel: Channel,
}

impl Eye {
    pub fn new(node: &LabNode) -> anyhow::Result<Eye> {
        let endpoint = Endpoint::from_shared(node.url())?.connect_timeout(PATIENCE);
        Ok(Eye { id: node.id, channel: endpoint.connect_lazy() })
    }

    /// One for each node.
    pub fn all(lab: &Lab) -> anyhow::Result<Vec<Eye>> {
        lab.file.nodes.iter().map(Eye::new).collect()
    }

    /// What the node knows; `None` when it does not answer.
    pub async fn status(&self) -> Option<pb::GetStatusResponse> {
        let mut service = ClusterServiceClient::new(self.channel.clone());
        let asked = service.get_status(pb::GetStatusRequest::default());
        let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?;
        answer.ok().map(tonic::Response::into_inner)
    }

    /// What the node's region says of itself; `None` when it does not answer.
    pub async fn region(&self) -> Option<pb::GetRegionResponse> {
        let mut service = RegionServiceClient::new(self.channel.clone());
        let asked = service.get_region(pb::GetRegionRequest {});
        let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?;
        answer.ok().map(tonic::Response::into_inner)
    }

    /// Whether the node's health is SERVING.
    pub async fn is_serving(&self) -> bool {
        let mut service = HealthClient::new(self.channel.clone());
        let asked = service.check(HealthCheckRequest { service: String::new() });
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        answer.is_ok_and(|answer| {
            answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
        })
    }

    /// Cuts the node off from these peers, and from no others.
    pub async fn set_faults(&self, cut_peers: Vec<u64>) -> anyhow::Result<()> {
        let mut service = ClusterServiceClient::new(self.channel.clone());
        let asked = service.set_faults(pb::SetFaultsRequest { cut_peers, disk_free_bytes: None });
        match tokio::time::timeout(PATIENCE * 4, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => anyhow::bail!("node {}: {}", self.id, status.message()),
            Err(_) => anyhow::bail!("node {} does not answer", self.id),
        }
    }
}

/// One node as it is now.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub node: LabNode,
    pub state: State,
    pub status: Option<pb::GetStatusResponse>,
}

impl NodeView {
    /// What the node says its own role is.
    #[must_use]
    pub fn role(&self) -> Option<&'static str> {
        let status = self.status.as_ref()?;
        let me = status.nodes.iter().find(|node| node.id == self.node.id)?;
        Some(role_name(me.role))
    }

    /// The leader that this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.status.as_ref().map(|status| status.leader_id).filter(|id| *id != 0)
    }
}

/// Asks every node at once.
pub async fn look(lab: &Lab, eyes: &[Eye]) -> Vec<NodeView> {
    let asked = lab.file.nodes.iter().map(|node| async move {
        let state = node.state();
        let eye = eyes.iter().find(|eye| eye.id == node.id);
        let status = match (state, eye) {
            (State::Running, Some(eye)) => eye.status().await,
            _ => None,
        };
        NodeView { node: node.clone(), state, status }
    });
    join_all(asked).await
}

/// A region's leader, by the word of the node that knows of the newest term.
#[must_use]
pub fn leader(views: &[NodeView], region: &str) -> Option<u64> {
    let known = views.iter().filter(|view| view.node.region == region).filter_map(|view| {
        view.leader().map(|leader| (view.status.as_ref().map_or(0, |s| s.term), leader))
    });
    known.max_by_key(|(term, _)| *term).map(|(_, leader)| leader)
}

/// The nodes as scripts read them.
#[must_use]
pub fn nodes_json(views: &[NodeView]) -> Value {
    let node = |view: &NodeView| {
        json!({
            "id": view.node.id,
            "region": view.node.region,
            "zone": view.node.zone,
            "pid": view.node.process.filter(|_| view.state != State::Down).map(|p| p.pid),
            "state": view.state.name(),
            "role": view.role(),
            "grpc": view.node.grpc(),
            "metrics": view.node.metrics(),
            "rest": null,
        })
    };
    views.iter().map(node).collect()
}

const HEAD: [&str; 10] =
    ["zone", "node", "state", "role", "term", "applied", "queues", "messages", "grpc", "metrics"];

/// Whether the nodes are of several regions, which are shown then.
fn are_apart(views: &[NodeView]) -> bool {
    views.windows(2).any(|pair| matches!(pair, [a, b] if a.node.region != b.node.region))
}

/// The names of the columns of [`rows`].
#[must_use]
pub fn head(views: &[NodeView]) -> Vec<&'static str> {
    let region = are_apart(views).then_some("region");
    region.into_iter().chain(HEAD).collect()
}

/// The nodes as people read them.
#[must_use]
pub fn rows(views: &[NodeView]) -> Vec<Vec<String>> {
    let apart = are_apart(views);
    let row = |view: &NodeView| {
        let told = |tell: &dyn Fn(&pb::GetStatusResponse) -> u64| {
            view.status.as_ref().map_or_else(|| "-".to_owned(), |s| tell(s).to_string())
        };
        let cells = [
            view.node.zone.clone(),
            view.node.id.to_string(),
            view.state.name().to_owned(),
            view.role().unwrap_or("-").to_owned(),
            told(&|s| s.term),
            told(&|s| s.applied_index),
            told(&|s| s.queues),
            told(&|s| s.messages),
            view.node.grpc(),
            view.node.metrics().unwrap_or_else(|| "-".to_owned()),
        ];
        apart.then(|| view.node.region.clone()).into_iter().chain(cells).collect()
    };
    views.iter().map(row).collect()
}

/// A table that is drawn over itself.
#[derive(Debug, Default)]
pub struct Live {
    lines: usize,
}

impl Live {
    /// Draws the nodes in the place of what was drawn before.
    pub fn draw(&mut self, views: &[NodeView], foot: &str) -> io::Result<()> {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(head(views));
        for row in rows(views) {
            table.add_row(row);
        }
        let text = format!("{table}\n{foot}");
        let mut out = io::stdout().lock();
        if self.lines > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        self.lines = text.lines().count();
        writeln!(out, "{text}")?;
        out.flush()
    }
}
