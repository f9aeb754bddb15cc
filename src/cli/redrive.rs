//! `zoneq redrive`: send dead letters back, and look after the jobs that do.

use std::time::{Duration, UNIX_EPOCH};

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::exit::Exit;
use super::output::{self, durability_json, durability_text, messages, time_json};
use super::{Context, parse_span};
use crate::client::{
    Client, ClientError, DeadLetterReason, Reason, Redrive, RedriveFilter, RedriveOptions,
    RedriveState,
};
use crate::clock::{Clock as _, SystemClock};

/// How often a watched job is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum RedriveVerb {
    /// Send the dead letters of a queue back, as new messages; an equal job that runs is no error
    #[command(after_help = "Examples:
  zoneq redrive start orders-dead --dry-run           count, and move nothing
  zoneq redrive start orders-dead --watch
  zoneq redrive start orders-dead --to orders --rate 50 --dead-for 1h")]
    Start(Box<Start>),
    /// List the running job of a queue and those that ended last
    #[command(after_help = "Example:\n  zoneq redrive list orders-dead")]
    List(List),
    /// Wait until a job has ended
    #[command(after_help = "Example:\n  zoneq redrive watch orders-dead")]
    Watch(Watch),
    /// End a job where it is
    #[command(
        after_help = "Example:\n  zoneq redrive cancel orders-dead 00000001-0000-8000-8000-..."
    )]
    Cancel(Cancel),
}

#[derive(Debug, Args)]
pub struct List {
    /// The dead-letter queue
    queue: String,
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_REDRIVE_LIST_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Start {
    /// The dead-letter queue
    queue: String,
    /// Where they go [default: each to the queue it came from]
    #[arg(long, env = "ZONEQ_REDRIVE_START_TO", value_name = "QUEUE")]
    to: Option<String>,
    /// At most so many messages a second, 1 to 100000 [default: no limit]
    #[arg(long, env = "ZONEQ_REDRIVE_START_RATE")]
    rate: Option<u32>,
    /// Only those that came from this queue
    #[arg(long, env = "ZONEQ_REDRIVE_START_SOURCE", value_name = "QUEUE")]
    source: Option<String>,
    /// Only those that died of this
    #[arg(long, env = "ZONEQ_REDRIVE_START_REASON", value_enum)]
    reason: Option<Died>,
    /// Only those of this group
    #[arg(long, env = "ZONEQ_REDRIVE_START_GROUP")]
    group: Option<String>,
    /// Only those that died this long ago or longer
    #[arg(long, env = "ZONEQ_REDRIVE_START_DEAD_FOR", value_parser = parse_span)]
    dead_for: Option<Duration>,
    /// Only those that died within this time
    #[arg(long, env = "ZONEQ_REDRIVE_START_DEAD_WITHIN", value_parser = parse_span)]
    dead_within: Option<Duration>,
    /// Only these messages, at most 1000; may be given more than once
    #[arg(long, env = "ZONEQ_REDRIVE_START_ID", value_delimiter = ',')]
    id: Vec<String>,
    /// Count what would be sent back, and move nothing
    #[arg(long, env = "ZONEQ_REDRIVE_START_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,
    /// Wait until the job has ended
    #[arg(long, env = "ZONEQ_REDRIVE_START_WATCH", value_parser = FalseyValueParser::new(),
          conflicts_with = "dry_run")]
    watch: bool,
}

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Died {
    /// Given out as often as its queue allows, and not deleted
    MaxDeliveries,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// The dead-letter queue
    queue: String,
    /// The job [default: the newest]
    id: Option<String>,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The dead-letter queue
    queue: String,
    /// The job
    id: String,
}

impl RedriveVerb {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            RedriveVerb::Start(verb) => verb.run(context).await,
            RedriveVerb::List(verb) => verb.run(context).await,
            RedriveVerb::Watch(Watch { queue, id }) => {
                watch(context, &context.client()?, &queue, id.as_deref()).await
            }
            RedriveVerb::Cancel(Cancel { queue, id }) => {
                let (cancelled, durability) = context.client()?.cancel_redrive(&queue, &id).await?;
                let value = json!({
                    "ok": true, "id": id, "cancelled": cancelled,
                    "durability": durability_json(&durability),
                });
                let what = if cancelled { "cancelled" } else { "had ended before" };
                let text = format!("redrive {id} {what}; {}", durability_text(&durability));
                context.out.result(&value, &text)?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Start {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let now = UNIX_EPOCH + Duration::from_micros(SystemClock::default().wall_us());
        let ago = |span: Duration| now.checked_sub(span);
        let options = RedriveOptions {
            target: self.to,
            max_messages_per_second: self.rate,
            filter: RedriveFilter {
                source: self.source,
                reason: self.reason.map(|Died::MaxDeliveries| DeadLetterReason::MaxDeliveries),
                dead_since: self.dead_within.and_then(ago),
                dead_before: self.dead_for.and_then(ago),
                group: self.group,
                ids: self.id.into_iter().filter(|id| !id.is_empty()).collect(),
            },
        };
        if self.dry_run {
            let seen = client.preview_redrive(&self.queue, options).await?;
            let value = json!({
                "ok": true, "matching": seen.matching, "held": seen.held, "more": seen.more,
            });
            let at_least = if seen.more { "at least " } else { "" };
            let text = format!(
                "{at_least}{} would be sent back; held by receivers: {}",
                messages(seen.matching),
                seen.held
            );
            context.out.result(&value, &text)?;
            return Ok(Exit::Done);
        }
        let made = client.start_redrive(&self.queue, options).await?;
        if self.watch {
            return watch(context, &client, &self.queue, Some(&made.redrive.id)).await;
        }
        let value = json!({
            "ok": true, "started": made.started, "redrive": redrive_json(&made.redrive),
            "durability": durability_json(&made.durability),
        });
        let what = if made.started { "started" } else { "was running already" };
        let text = format!(
            "redrive {} of queue {} {what}; {}",
            made.redrive.id,
            self.queue,
            durability_text(&made.durability)
        );
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl List {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let redrives = context.client()?.redrives(&self.queue, self.max_staleness).await?;
        for redrive in &redrives {
            context.out.item(&redrive_json(redrive))?;
        }
        let head = ["redrive", "state", "moved", "held", "refused", "started at", "ended at"];
        context.out.table(&head, redrives.iter().map(row).collect())?;
        let value = json!({ "ok": true, "redrives": redrives.len() });
        context.out.result(&value, &format!("{} redrives", redrives.len()))?;
        Ok(Exit::Done)
    }
}

/// Looks at a job until it has ended. The cluster does the work, whoever watches.
async fn watch(
    context: &Context,
    client: &Client,
    queue: &str,
    id: Option<&str>,
) -> anyhow::Result<Exit> {
    let bar = context.out.progress(None, &format!("redrive of queue {queue}"));
    let mut id = id.map(str::to_owned);
    loop {
        let redrives = client.redrives(queue, None).await?;
        let is_it = |redrive: &Redrive| id.as_ref().is_none_or(|id| *id == redrive.id);
        let Some(redrive) = redrives.into_iter().find(is_it) else {
            let which = id.map_or_else(|| "no redrive".to_owned(), |id| format!("no redrive {id}"));
            let message = format!("queue {queue:?} knows {which}");
            return Err(ClientError::Rejected {
                reason: Reason::RedriveNotFound,
                message,
                retry_after: None,
            }
            .into());
        };
        bar.set_message(format!("redrive of queue {queue}: {} messages", redrive.moved));
        if redrive.state != RedriveState::Running {
            bar.finish_and_clear();
            let value = json!({ "ok": true, "redrive": redrive_json(&redrive) });
            let text = format!(
                "redrive {} {}: {} sent back, {} held by receivers, {} refused by their target",
                redrive.id,
                state(redrive.state),
                messages(redrive.moved),
                redrive.held,
                redrive.refused
            );
            context.out.result(&value, &text)?;
            return Ok(Exit::Done);
        }
        id = Some(redrive.id);
        tokio::time::sleep(LOOK).await;
    }
}

fn state(state: RedriveState) -> &'static str {
    match state {
        RedriveState::Running => "running",
        RedriveState::Done => "done",
        RedriveState::Cancelled => "cancelled",
        RedriveState::Unspecified => "unknown",
    }
}

fn row(redrive: &Redrive) -> Vec<String> {
    vec![
        redrive.id.clone(),
        state(redrive.state).to_owned(),
        redrive.moved.to_string(),
        redrive.held.to_string(),
        redrive.refused.to_string(),
        output::time(redrive.started_at),
        output::time(redrive.ended_at),
    ]
}

fn redrive_json(redrive: &Redrive) -> Value {
    let (options, filter) = (&redrive.options, &redrive.options.filter);
    json!({
        "id": redrive.id,
        "queue": redrive.queue,
        "target": options.target,
        "max_messages_per_second": options.max_messages_per_second,
        "filter": {
            "source": filter.source,
            "reason": filter.reason.map(output::dead_letter_reason),
            "group": filter.group,
            "dead_since": time_json(filter.dead_since),
            "dead_before": time_json(filter.dead_before),
            "ids": filter.ids,
        },
        "state": state(redrive.state),
        "started_at": time_json(redrive.started_at),
        "ended_at": time_json(redrive.ended_at),
        "moved": redrive.moved,
        "held": redrive.held,
        "refused": redrive.refused,
    })
}
