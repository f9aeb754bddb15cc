//! `zoneq cluster mend`: a node that makes its data whole, and a loss that is accepted by name.

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};

use super::Context;
use super::exit::{Exit, Usage};
use crate::client::Admin;
use crate::proto::admin::v1::{GetMendingResponse, MendingTrouble};

#[derive(Debug, Args)]
pub struct Mend {
    /// Cut the record in doubt although a node that may hold it does not answer
    #[arg(long, env = "ZONEQ_CLUSTER_MEND_ACCEPT", value_parser = FalseyValueParser::new())]
    accept: bool,
}

impl Mend {
    pub(super) async fn run(
        self,
        context: &Context,
        admin: &Admin,
    ) -> anyhow::Result<(Value, String, Exit)> {
        let [address] = context.global.endpoint.as_slice() else {
            let text = "mend is for one node: give exactly one --endpoint";
            return Err(Usage(text.to_owned()).into());
        };
        let missing = admin.mending().await?;
        let whole = missing.trouble() == MendingTrouble::None;
        if self.accept {
            admin.accept_loss(missing.first_index, missing.last_index).await?;
        }
        let value = json!({
            "ok": whole || self.accept,
            "endpoint": address,
            "node": missing.node_id,
            "trouble": word(missing.trouble()),
            "first_index": missing.first_index,
            "last_index": missing.last_index,
            "silent_nodes": missing.silent_nodes,
            "lacking_nodes": missing.lacking_nodes,
            "accepted": self.accept,
        });
        let exit = if whole || self.accept { Exit::Done } else { Exit::Failed };
        Ok((value, sentence(&missing, self.accept), exit))
    }
}

fn word(trouble: MendingTrouble) -> &'static str {
    match trouble {
        MendingTrouble::Unspecified => "starting",
        MendingTrouble::Doubt => "doubt",
        MendingTrouble::Damage => "damage",
        MendingTrouble::Tables => "tables",
        MendingTrouble::None => "none",
    }
}

fn sentence(missing: &GetMendingResponse, accepted: bool) -> String {
    let GetMendingResponse { node_id, first_index, last_index, silent_nodes, .. } = missing;
    match missing.trouble() {
        MendingTrouble::Unspecified => format!("node {node_id} has not asked the others yet"),
        MendingTrouble::None => format!("node {node_id} takes part: it has nothing to mend"),
        MendingTrouble::Tables => {
            format!("node {node_id} has lost its tables and fetches a snapshot from the others")
        }
        MendingTrouble::Damage => format!(
            "entries {first_index} to {last_index} of node {node_id} are damaged; they are fetched \
             from the first node that answers and has them; no answer from {silent_nodes:?}"
        ),
        MendingTrouble::Doubt if accepted => format!(
            "node {node_id} cuts entries {first_index} to {last_index}; lost is what only it and \
             nodes {silent_nodes:?} had acknowledged of them"
        ),
        MendingTrouble::Doubt => format!(
            "entries {first_index} to {last_index} of node {node_id} are in doubt, and nodes \
             {silent_nodes:?}, which may hold them, do not answer; --accept cuts them, and loses \
             what only those nodes and this one had acknowledged"
        ),
    }
}
