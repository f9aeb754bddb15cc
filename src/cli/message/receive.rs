//! `zoneq receive`: one call, or with `--stream` messages as they come.

use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;

use super::stream::Flow;
use crate::cli::exit::{Exit, Usage};
use crate::cli::output::{self, message_json, message_row, messages};
use crate::cli::{Context, parse_span};
use crate::client::{DeleteItem, DeleteOutcome, ReceiveOptions, StreamOptions};

/// Messages that a stream has under way where nothing is said.
const CREDIT: u32 = 10;
/// Messages that come to a stream at once.
const MOST_BATCH: u32 = 100;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq receive orders --max 10 --visibility 2m --wait 20s
  zoneq receive orders --delete --raw       print the body, then delete the message
  zoneq receive orders --stream --delete    print each as it comes, then delete it

A stream leases messages ahead, as many as --credit says. It ends at --max, at --wait, at Ctrl-C,
or when nobody reads its output any more. Messages that it holds then and has not printed are
released, and can be received at once; their dequeue counts stay. One that was being given out in
that moment can be received when its lease has run out. Only what was printed is deleted.")]
pub struct Receive {
    queue: String,
    /// At most this many messages, 1 to 1000 [default: 1]; a stream ends after so many [default:
    /// never]
    #[arg(long, env = "ZONEQ_RECEIVE_MAX")]
    max: Option<u32>,
    /// The lease, 0 to 7d [default: the queue's]
    #[arg(long, env = "ZONEQ_RECEIVE_VISIBILITY", value_parser = parse_span)]
    visibility: Option<Duration>,
    /// Wait so long for the first message; at most 60s [default: 0s]; a stream ends when none came
    /// for so long [default: never]
    #[arg(long, env = "ZONEQ_RECEIVE_WAIT", value_parser = parse_span)]
    wait: Option<Duration>,
    /// Delete the messages after they have been printed
    #[arg(long, env = "ZONEQ_RECEIVE_DELETE", value_parser = FalseyValueParser::new())]
    delete: bool,
    /// Print bodies only, one a line
    #[arg(long, env = "ZONEQ_RECEIVE_RAW", value_parser = FalseyValueParser::new(),
          conflicts_with = "json")]
    raw: bool,
    /// Print messages as they come, one after the other
    #[arg(long, env = "ZONEQ_RECEIVE_STREAM", value_parser = FalseyValueParser::new())]
    stream: bool,
    /// Messages that a stream may have under way, 1 to 10000 [default: 10]
    #[arg(long, env = "ZONEQ_RECEIVE_CREDIT", requires = "stream",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    credit: Option<u32>,
}

impl Receive {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if self.stream {
            return self.flow()?.run(context).await;
        }
        let client = context.client()?;
        let options = ReceiveOptions {
            max_messages: self.max.unwrap_or(1),
            visibility_timeout: self.visibility,
            wait: self.wait.unwrap_or_default(),
        };
        let spinner = context.out.progress(None, "waiting for a message");
        let received = client.receive(&self.queue, options).await;
        spinner.finish_and_clear();
        let received = received?;
        for message in &received.messages {
            if self.raw {
                output::raw(&message.body)?;
            }
            context.out.item(&message_json(message))?;
        }
        if !self.raw {
            let rows = received.messages.iter().map(message_row).collect();
            context.out.table(&output::MESSAGE_HEAD, rows)?;
        }
        let count = received.messages.len();
        let mut deleted = 0;
        if self.delete && count > 0 {
            let items = received.messages.iter().map(DeleteItem::from).collect();
            let outcomes = client.delete_batch(&self.queue, items).await?.outcomes;
            deleted = outcomes.iter().filter(|o| **o == DeleteOutcome::Deleted).count();
        }
        let value =
            json!({ "ok": true, "received": count, "deleted": deleted, "more": received.more });
        if !self.raw {
            let tail = if self.delete { format!(", deleted {deleted}") } else { String::new() };
            context.out.result(&value, &format!("received {}{tail}", messages(count as u64)))?;
        }
        // Printed and not deleted: its lease had run out, so it will be delivered again.
        Ok(if self.delete && deleted < count { Exit::Failed } else { Exit::Done })
    }

    /// What `--stream` asks for.
    fn flow(self) -> anyhow::Result<Flow> {
        if self.max == Some(0) || self.wait == Some(Duration::ZERO) {
            let text = "a stream that ends before its first message: --max and --wait are above 0";
            return Err(Usage(text.to_owned()).into());
        }
        let credit = self.credit.unwrap_or(CREDIT);
        let options = StreamOptions {
            visibility_timeout: self.visibility,
            max_batch: credit.min(MOST_BATCH),
            credit,
            limit: self.max.map(u64::from),
        };
        let (queue, wait, delete, raw) = (self.queue, self.wait, self.delete, self.raw);
        Ok(Flow { queue, options, wait, delete, raw })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn receive(flags: &str) -> anyhow::Result<Receive> {
        let line = format!("zoneq receive q {flags}");
        match Cli::try_parse_from(line.split_whitespace())?.verb {
            Verb::Receive(verb) => Ok(verb),
            other => panic!("it is a receive: {other:?}"),
        }
    }

    #[test]
    fn a_stream_takes_its_credit_and_ends_where_it_is_told() {
        let flow = |flags: &str| receive(flags).and_then(Receive::flow);
        let usual = flow("--stream").expect("good flags");
        assert_eq!((usual.options.credit, usual.options.max_batch), (10, 10));
        assert_eq!((usual.options.limit, usual.wait), (None, None), "without end");
        let told = flow("--stream --credit 10000 --max 3 --wait 2m").expect("good flags");
        assert_eq!((told.options.credit, told.options.max_batch), (10_000, 100));
        assert_eq!((told.options.limit, told.wait), (Some(3), Some(Duration::from_secs(120))));
        for bad in ["--stream --max 0", "--stream --wait 0s"] {
            assert_eq!(Exit::of(&flow(bad).expect_err(bad)), Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn credit_is_for_a_stream_and_has_a_most() {
        for bad in ["--credit 5", "--stream --credit 0", "--stream --credit 10001"] {
            assert!(receive(bad).is_err(), "{bad}");
        }
    }
}
