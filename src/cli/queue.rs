//! `zoneq queue`: create, delete, show, list and change queues.

use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::{Exit, Usage};
use super::output::{self, durability_json, durability_text, queue_json};
use super::{Context, pairs, parse_back_off, parse_pair, parse_span, parse_ttl};
use crate::client::{BackOff, DeadLetters, Durability, ListQueues, QueueSettings, Ttl};

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// Create a queue; an equal one that exists already is no error
    #[command(after_help = "Example:\n  zoneq queue create orders --ttl never --visibility 2m \
                            --metadata team=shop")]
    Create(Create),
    /// Delete a queue and all its messages; it can come back while its undelete window lasts
    #[command(after_help = "Example:\n  zoneq queue delete orders")]
    Delete(Name),
    /// Bring a deleted queue back, whole
    #[command(
        after_help = "Examples:\n  zoneq queue list --deleted\n  zoneq queue undelete orders \
                            --as orders-before"
    )]
    Undelete(Undelete),
    /// Show a queue's settings, metadata and exact counts
    #[command(after_help = "Example:\n  zoneq queue show orders --json")]
    Show(Show),
    /// List queues by name
    #[command(after_help = "Example:\n  zoneq queue list --prefix ord")]
    List(List),
    /// Replace a queue's metadata
    #[command(after_help = "Example:\n  zoneq queue set-metadata orders team=shop owner=ann")]
    SetMetadata(SetMetadata),
    /// Change a queue's settings; those not given stay as they are
    #[command(after_help = "Example:\n  zoneq queue set-settings orders --visibility 5m")]
    SetSettings(SetSettings),
    /// Stop receives: they find nothing until the queue is resumed; everything else works
    #[command(after_help = "Example:\n  zoneq queue pause orders")]
    Pause(Name),
    /// Let receives go on
    #[command(after_help = "Example:\n  zoneq queue resume orders")]
    Resume(Name),
}

#[derive(Debug, Args)]
pub struct Name {
    /// 3 to 63 of a-z, 0-9 and single hyphens
    queue: String,
}

#[derive(Debug, Args)]
pub struct Undelete {
    /// The name it had
    queue: String,
    /// The one of that name with this id [default: the one that was deleted last]
    #[arg(long, env = "ZONEQ_QUEUE_UNDELETE_ID")]
    id: Option<u64>,
    /// Under another name
    #[arg(long = "as", env = "ZONEQ_QUEUE_UNDELETE_AS", value_name = "QUEUE")]
    new_name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Create {
    queue: String,
    /// Metadata as NAME=VALUE; may be given more than once
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_METADATA", value_name = "NAME=VALUE",
          value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// Lifetime of messages that name none, or `never` [default: 7d]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_TTL", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// Lease of receives that name none [default: 30s]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_VISIBILITY", value_parser = parse_span)]
    visibility: Option<Duration>,
    /// Largest message, body and headers together, 1 to 1048576 bytes [default: 65536]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_MAX_MESSAGE_BYTES")]
    max_message_bytes: Option<u32>,
    /// The queue that takes messages which were given out too often
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_DEAD_LETTER_QUEUE", value_name = "QUEUE")]
    dead_letter_queue: Option<String>,
    /// How often a message is given out before it is a dead letter, 1 to 10000 [default: 10]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_MAX_DELIVERIES", requires = "dead_letter_queue")]
    max_deliveries: Option<u32>,
    /// Lifetime of messages that come here as dead letters, or `never` [default: never]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_DEAD_LETTER_TTL", value_parser = parse_ttl)]
    dead_letter_ttl: Option<Ttl>,
    /// Quota: messages the queue may hold [default: none]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_MAX_MESSAGES")]
    max_messages: Option<u64>,
    /// Quota: bytes of bodies and headers the queue may hold [default: none]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_MAX_BYTES")]
    max_bytes: Option<u64>,
    /// How long the queue can come back after it was deleted, 0s to 7d [default: 1h]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_UNDELETE_WINDOW", value_parser = parse_span)]
    undelete_window: Option<Duration>,
    /// How long a deduplication key counts, 1s to 7d [default: 10m]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_DEDUPLICATION_WINDOW", value_parser = parse_span)]
    deduplication_window: Option<Duration>,
    /// How long messages wait that are released by back-off [default: 1s,15m,2]
    #[arg(long, env = "ZONEQ_QUEUE_CREATE_BACK_OFF", value_name = "FIRST,MOST,FACTOR",
          value_parser = parse_back_off)]
    back_off: Option<BackOff>,
}

#[derive(Debug, Args)]
pub struct Show {
    queue: String,
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_QUEUE_SHOW_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only queues whose name begins so
    #[arg(long, env = "ZONEQ_QUEUE_LIST_PREFIX", default_value = "")]
    prefix: String,
    /// The deleted queues that can come back, instead of those that are there
    #[arg(long, env = "ZONEQ_QUEUE_LIST_DELETED", value_parser = FalseyValueParser::new())]
    deleted: bool,
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_QUEUE_LIST_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct SetMetadata {
    queue: String,
    /// The whole new metadata; none clears it
    #[arg(value_name = "NAME=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct SetSettings {
    queue: String,
    /// Lifetime of messages that name none, or `never`
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_TTL", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// Lease of receives that name none
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_VISIBILITY", value_parser = parse_span)]
    visibility: Option<Duration>,
    /// Largest message, body and headers together, 1 to 1048576 bytes
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_MAX_MESSAGE_BYTES")]
    max_message_bytes: Option<u32>,
    /// The queue that takes messages which were given out too often
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_DEAD_LETTER_QUEUE", value_name = "QUEUE")]
    dead_letter_queue: Option<String>,
    /// How often a message is given out before it is a dead letter, 1 to 10000
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_MAX_DELIVERIES")]
    max_deliveries: Option<u32>,
    /// Give messages out for ever
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_NO_DEAD_LETTERS",
          value_parser = FalseyValueParser::new(),
          conflicts_with_all = ["dead_letter_queue", "max_deliveries"])]
    no_dead_letters: bool,
    /// Lifetime of messages that come here as dead letters, or `never`
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_DEAD_LETTER_TTL", value_parser = parse_ttl)]
    dead_letter_ttl: Option<Ttl>,
    /// Quota: messages the queue may hold; 0 takes the quota away
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_MAX_MESSAGES")]
    max_messages: Option<u64>,
    /// Quota: bytes of bodies and headers the queue may hold; 0 takes the quota away
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_MAX_BYTES")]
    max_bytes: Option<u64>,
    /// How long the queue can come back after it was deleted, 0s to 7d
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_UNDELETE_WINDOW", value_parser = parse_span)]
    undelete_window: Option<Duration>,
    /// How long a deduplication key counts, 1s to 7d
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_DEDUPLICATION_WINDOW", value_parser = parse_span)]
    deduplication_window: Option<Duration>,
    /// How long messages wait that are released by back-off
    #[arg(long, env = "ZONEQ_QUEUE_SET_SETTINGS_BACK_OFF", value_name = "FIRST,MOST,FACTOR",
          value_parser = parse_back_off)]
    back_off: Option<BackOff>,
}

impl QueueVerb {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            QueueVerb::Create(verb) => verb.run(context).await,
            QueueVerb::Delete(Name { queue }) => {
                let durability = context.client()?.delete_queue(&queue).await?;
                done(context, &queue, "deleted", &durability)
            }
            QueueVerb::Undelete(Undelete { queue, id, new_name }) => {
                let (client, to) = (context.client()?, new_name.as_deref());
                let durability = client.undelete_queue(&queue, id, to).await?;
                done(context, to.unwrap_or(&queue), "brought back", &durability)
            }
            QueueVerb::Show(verb) => verb.run(context).await,
            QueueVerb::List(verb) => verb.run(context).await,
            QueueVerb::SetMetadata(SetMetadata { queue, metadata }) => {
                let client = context.client()?;
                let durability = client.set_metadata(&queue, pairs(metadata)?).await?;
                done(context, &queue, "given new metadata", &durability)
            }
            QueueVerb::SetSettings(verb) => verb.run(context).await,
            QueueVerb::Pause(Name { queue }) => {
                let durability = context.client()?.pause_queue(&queue).await?;
                done(context, &queue, "paused", &durability)
            }
            QueueVerb::Resume(Name { queue }) => {
                let durability = context.client()?.resume_queue(&queue).await?;
                done(context, &queue, "resumed", &durability)
            }
        }
    }
}

fn done(
    context: &Context,
    queue: &str,
    what: &str,
    durability: &Durability,
) -> anyhow::Result<Exit> {
    let value = json!({ "ok": true, "queue": queue, "durability": durability_json(durability) });
    let text = format!("queue {queue} {what}; {}", durability_text(durability));
    context.out.result(&value, &text)?;
    Ok(Exit::Done)
}

impl Create {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let settings = QueueSettings {
            default_ttl: self.ttl.unwrap_or_default(),
            default_visibility_timeout: self.visibility,
            max_message_bytes: self.max_message_bytes,
            dead_letters: self
                .dead_letter_queue
                .map(|queue| DeadLetters { queue, max_deliveries: self.max_deliveries }),
            dead_letter_ttl: self.dead_letter_ttl.and_then(span_of),
            back_off: self.back_off,
            deduplication_window: self.deduplication_window,
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            undelete_window: self.undelete_window,
        };
        let client = context.client()?;
        let made = client.create_queue(&self.queue, pairs(self.metadata)?, settings).await?;
        let value = json!({
            "ok": true,
            "created": made.created,
            "queue": queue_json(&made.queue),
            "durability": durability_json(&made.durability),
        });
        let text = if made.created {
            format!("queue {} created; {}", self.queue, durability_text(&made.durability))
        } else {
            format!("queue {} was there already, with equal settings", self.queue)
        };
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl Show {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let queue = context.client()?.queue_within(&self.queue, self.max_staleness).await?;
        context.out.table(&output::QUEUE_HEAD, vec![output::queue_row(&queue)])?;
        context.out.table(&["setting", "value"], output::queue_details(&queue))?;
        let value = json!({ "ok": true, "queue": queue_json(&queue) });
        let text = format!("queue {} holds {}", queue.name, output::messages(queue.counts.total));
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl List {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let mut token = None;
        let mut count = 0usize;
        loop {
            let page = client
                .list_queues(ListQueues {
                    prefix: self.prefix.clone(),
                    page_size: 1_000,
                    page_token: token,
                    max_staleness: self.max_staleness,
                    deleted: self.deleted,
                })
                .await?;
            count += page.queues.len();
            for queue in &page.queues {
                context.out.item(&queue_json(queue))?;
            }
            let queues = page.queues.iter();
            if self.deleted {
                let rows = queues.map(output::deleted_row).collect();
                context.out.table(&output::DELETED_HEAD, rows)?;
            } else {
                let rows = queues.map(output::queue_row).collect();
                context.out.table(&output::QUEUE_HEAD, rows)?;
            }
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        context.out.result(&json!({ "ok": true, "queues": count }), &format!("{count} queues"))?;
        Ok(Exit::Done)
    }
}

/// A lifetime as a span; none is for ever.
fn span_of(ttl: Ttl) -> Option<Duration> {
    match ttl {
        Ttl::After(span) => Some(span),
        Ttl::Default | Ttl::Never => None,
    }
}

impl SetSettings {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if !self.names_any() {
            let text = "nothing to change: give at least one setting";
            return Err(Usage(text.to_owned()).into());
        }
        let client = context.client()?;
        let queue = self.queue.clone();
        let settings = self.change(client.queue(&queue).await?.settings)?;
        let durability = client.set_settings(&queue, settings).await?;
        done(context, &queue, "given new settings", &durability)
    }

    fn names_any(&self) -> bool {
        self.ttl.is_some()
            || self.visibility.is_some()
            || self.max_message_bytes.is_some()
            || self.dead_letter_queue.is_some()
            || self.max_deliveries.is_some()
            || self.no_dead_letters
            || self.dead_letter_ttl.is_some()
            || self.back_off.is_some()
            || self.deduplication_window.is_some()
            || self.max_messages.is_some()
            || self.max_bytes.is_some()
            || self.undelete_window.is_some()
    }

    /// The settings with what was given in the place of what was so before.
    fn change(self, mut settings: QueueSettings) -> anyhow::Result<QueueSettings> {
        if let Some(ttl) = self.ttl {
            settings.default_ttl = ttl;
        }
        settings.default_visibility_timeout =
            self.visibility.or(settings.default_visibility_timeout);
        settings.max_message_bytes = self.max_message_bytes.or(settings.max_message_bytes);
        if self.no_dead_letters {
            settings.dead_letters = None;
        }
        if let Some(queue) = self.dead_letter_queue {
            let max_deliveries = settings.dead_letters.and_then(|before| before.max_deliveries);
            settings.dead_letters = Some(DeadLetters { queue, max_deliveries });
        }
        if let Some(most) = self.max_deliveries {
            let Some(target) = &mut settings.dead_letters else {
                let text = "--max-deliveries needs a --dead-letter-queue";
                return Err(Usage(text.to_owned()).into());
            };
            target.max_deliveries = Some(most);
        }
        if let Some(ttl) = self.dead_letter_ttl {
            settings.dead_letter_ttl = span_of(ttl);
        }
        settings.max_messages = self.max_messages.or(settings.max_messages);
        settings.max_bytes = self.max_bytes.or(settings.max_bytes);
        settings.undelete_window = self.undelete_window.or(settings.undelete_window);
        settings.back_off = self.back_off.or(settings.back_off);
        settings.deduplication_window = self.deduplication_window.or(settings.deduplication_window);
        Ok(settings)
    }
}
