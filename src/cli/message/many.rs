//! `zoneq delete` and `zoneq release`: one message, or many in batches.
//!
//! Laws: of one message a refusal is an error, as of any call; of many each has its outcome, all
//! are tried, and the command failed if any was refused. No more than a batch is held in memory.
//! Lines that are there are not held back for those that may come: leases run.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, Stdin};

use super::BATCH;
use crate::cli::exit::{Exit, Usage};
use crate::cli::limits::ITEM_LINE_BYTES;
use crate::cli::output::{self, durability_json, durability_text, messages};
use crate::cli::{Context, parse_span};
use crate::client::{
    Client, ClientError, DeleteItem, DeleteOutcome, Durability, ReleaseAfter, ReleaseOutcome,
    ReleaseResult,
};

/// Bytes that are read ahead: about a batch of lines.
const READ_AHEAD: usize = 128 << 10;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq delete orders ID RECEIPT
  zoneq delete orders ID RECEIPT ID RECEIPT
  zoneq delete orders --lines < done.txt             ID RECEIPT a line

Of many messages each has its own outcome; the exit code is 1 if any was not deleted.")]
pub struct Delete {
    queue: String,
    /// The message's id and its pop receipt; a pair for each message
    #[arg(value_names = ["ID", "RECEIPT"], num_args = 1.., required_unless_present = "lines",
          conflicts_with = "lines")]
    items: Vec<String>,
    /// Read ID RECEIPT a line from standard input, in batches of at most 1000
    #[arg(long, env = "ZONEQ_DELETE_LINES", value_parser = FalseyValueParser::new())]
    lines: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq release orders ID RECEIPT                    give it back at once
  zoneq release orders ID RECEIPT --delay 5m
  zoneq release orders ID RECEIPT --back-off         as the settings of the queue say
  zoneq release orders --lines < failed.txt          ID RECEIPT a line

Of many messages each has its own outcome; the exit code is 1 if any was not released.")]
pub struct Release {
    queue: String,
    /// The message's id and its pop receipt; a pair for each message
    #[arg(value_names = ["ID", "RECEIPT"], num_args = 1.., required_unless_present = "lines",
          conflicts_with = "lines")]
    items: Vec<String>,
    /// Read ID RECEIPT a line from standard input, in batches of at most 1000
    #[arg(long, env = "ZONEQ_RELEASE_LINES", value_parser = FalseyValueParser::new())]
    lines: bool,
    /// Not visible before this has passed; at most 7d
    #[arg(long, env = "ZONEQ_RELEASE_DELAY", value_parser = parse_span)]
    delay: Option<Duration>,
    /// Wait as the back-off of the queue says, the longer the more often it was received
    #[arg(long, env = "ZONEQ_RELEASE_BACK_OFF", value_parser = FalseyValueParser::new(),
          conflicts_with = "delay")]
    back_off: bool,
}

impl Delete {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match source(self.items, self.lines)? {
            Source::One(item) => delete_one(context, &self.queue, &item).await,
            Source::Many(source) => many(context, &self.queue, Work::Delete, source).await,
        }
    }
}

impl Release {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let after = match self.delay {
            Some(delay) => ReleaseAfter::Delay(delay),
            None if self.back_off => ReleaseAfter::BackOff,
            None => ReleaseAfter::Now,
        };
        match source(self.items, self.lines)? {
            Source::One(item) => release_one(context, &self.queue, &item, after).await,
            Source::Many(source) => many(context, &self.queue, Work::Release(after), source).await,
        }
    }
}

async fn delete_one(context: &Context, queue: &str, item: &DeleteItem) -> anyhow::Result<Exit> {
    let client = context.client()?;
    let durability = client.delete(queue, &item.id, &item.pop_receipt).await?;
    let value = json!({ "ok": true, "id": item.id, "durability": durability_json(&durability) });
    let text = format!("message {} deleted; {}", item.id, durability_text(&durability));
    context.out.result(&value, &text)?;
    Ok(Exit::Done)
}

async fn release_one(
    context: &Context,
    queue: &str,
    item: &DeleteItem,
    after: ReleaseAfter,
) -> anyhow::Result<Exit> {
    let client = context.client()?;
    let released = client.release_one(queue, &item.id, &item.pop_receipt, after).await?;
    let value = json!({
        "ok": true,
        "id": item.id,
        "visible_at": released.0.map(|at| output::time(Some(at))),
        "durability": durability_json(&released.1),
    });
    let text = format!("message {} released, visible at {}", item.id, output::time(released.0));
    context.out.result(&value, &text)?;
    Ok(Exit::Done)
}

/// What is done with each message.
#[derive(Clone, Copy, Debug)]
enum Work {
    Delete,
    Release(ReleaseAfter),
}

impl Work {
    /// What became of a message for which it was done.
    fn done(self) -> &'static str {
        match self {
            Work::Delete => "deleted",
            Work::Release(_) => "released",
        }
    }

    async fn of(
        self,
        client: &Client,
        queue: &str,
        items: Vec<DeleteItem>,
    ) -> Result<(Vec<ReleaseResult>, Durability), ClientError> {
        match self {
            Work::Delete => {
                let deleted = client.delete_batch(queue, items).await?;
                let result = |outcome| ReleaseResult {
                    outcome: match outcome {
                        DeleteOutcome::Deleted => ReleaseOutcome::Released,
                        DeleteOutcome::MessageNotFound => ReleaseOutcome::MessageNotFound,
                        DeleteOutcome::ReceiptMismatch => ReleaseOutcome::ReceiptMismatch,
                        DeleteOutcome::Unspecified => ReleaseOutcome::Unspecified,
                    },
                    visible_at: None,
                };
                Ok((deleted.outcomes.into_iter().map(result).collect(), deleted.durability))
            }
            Work::Release(after) => {
                let released = client.release(queue, items, after).await?;
                Ok((released.results, released.durability))
            }
        }
    }
}

/// What became of the messages so far.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    not_found: u64,
    mismatched: u64,
    /// The answer does not say.
    unsaid: u64,
    durability: Option<Durability>,
}

impl Tally {
    /// Counts one message, and names what became of it.
    fn count(&mut self, work: Work, outcome: ReleaseOutcome) -> &'static str {
        let (count, name) = match outcome {
            ReleaseOutcome::Released => (&mut self.done, work.done()),
            ReleaseOutcome::MessageNotFound => (&mut self.not_found, "message_not_found"),
            ReleaseOutcome::ReceiptMismatch => (&mut self.mismatched, "receipt_mismatch"),
            ReleaseOutcome::Unspecified => (&mut self.unsaid, "unknown"),
        };
        *count += 1;
        name
    }

    fn exit(&self) -> Exit {
        if self.unsaid > 0 {
            Exit::Internal
        } else if self.not_found + self.mismatched > 0 {
            Exit::Failed
        } else {
            Exit::Done
        }
    }

    fn text(&self, work: Work) -> String {
        let mut text = format!("{} {}", messages(self.done), work.done());
        for (count, what) in [
            (self.not_found, "not in the queue"),
            (self.mismatched, "whose pop receipt is no longer valid"),
            (self.unsaid, "of which the answer says nothing"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if let Some(durability) = &self.durability {
            text.push_str(&format!("; {}", durability_text(durability)));
        }
        text
    }
}

async fn many(
    context: &Context,
    queue: &str,
    work: Work,
    mut source: Batches<Stdin>,
) -> anyhow::Result<Exit> {
    let client = context.client()?;
    let mut tally = Tally::default();
    loop {
        let before = || format!("{} were {} before", messages(tally.done), work.done());
        let items = source.next().await.with_context(before)?;
        if items.is_empty() {
            break;
        }
        let ids: Vec<String> = items.iter().map(|item| item.id.clone()).collect();
        let (results, durability) = work.of(&client, queue, items).await.with_context(before)?;
        tally.durability = Some(durability);
        let mut results = results.into_iter();
        for id in ids {
            let result = results.next().unwrap_or_default();
            let outcome = tally.count(work, result.outcome);
            let mut item = json!({ "id": id, "outcome": outcome });
            if let (Some(at), Some(fields)) = (result.visible_at, item.as_object_mut()) {
                fields.insert("visible_at".to_owned(), output::time(Some(at)).into());
            }
            context.out.item(&item)?;
            if result.outcome != ReleaseOutcome::Released {
                context.out.say(&format!("message {id}: {}", outcome.replace('_', " ")))?;
            }
        }
    }
    let exit = tally.exit();
    let value = json!({
        "ok": exit == Exit::Done,
        "queue": queue,
        work.done(): tally.done,
        "message_not_found": tally.not_found,
        "receipt_mismatch": tally.mismatched,
        "unknown": tally.unsaid,
        "durability": tally.durability.as_ref().map(durability_json),
    });
    context.out.result(&value, &tally.text(work))?;
    Ok(exit)
}

/// Which messages are meant.
enum Source {
    One(DeleteItem),
    Many(Batches<Stdin>),
}

/// Many messages, a batch at a time.
enum Batches<R> {
    Given(std::vec::IntoIter<DeleteItem>),
    Lines(Lines<R>),
}

struct Lines<R> {
    reader: BufReader<R>,
    /// Lines read so far.
    number: u64,
}

fn source(words: Vec<String>, lines: bool) -> anyhow::Result<Source> {
    if lines {
        return Ok(Source::Many(Batches::Lines(Lines::new(tokio::io::stdin()))));
    }
    let mut items = pairs_of(words)?.into_iter();
    Ok(match (items.len(), items.next()) {
        (1, Some(item)) => Source::One(item),
        (_, first) => {
            let items: Vec<DeleteItem> = first.into_iter().chain(items).collect();
            Source::Many(Batches::Given(items.into_iter()))
        }
    })
}

/// Reads ID RECEIPT ID RECEIPT.
fn pairs_of(words: Vec<String>) -> anyhow::Result<Vec<DeleteItem>> {
    let mut items = Vec::with_capacity(words.len() / 2);
    let mut words = words.into_iter();
    while let Some(id) = words.next() {
        let Some(pop_receipt) = words.next() else {
            let text = format!("{id:?} has no pop receipt: give ID RECEIPT for each message");
            return Err(Usage(text).into());
        };
        items.push(DeleteItem { id, pop_receipt });
    }
    Ok(items)
}

impl<R: AsyncRead + Unpin> Batches<R> {
    /// The next messages; none at the end.
    async fn next(&mut self) -> anyhow::Result<Vec<DeleteItem>> {
        match self {
            Batches::Given(items) => Ok(items.take(BATCH).collect()),
            Batches::Lines(lines) => lines.batch().await,
        }
    }
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R) -> Lines<R> {
        Lines { reader: BufReader::with_capacity(READ_AHEAD, reader), number: 0 }
    }

    /// Waits for the first line, and takes those that are here with it.
    async fn batch(&mut self) -> anyhow::Result<Vec<DeleteItem>> {
        let mut items = Vec::new();
        while items.len() < BATCH {
            if !items.is_empty() && !self.reader.buffer().contains(&b'\n') {
                break;
            }
            let mut line = Vec::new();
            let mut limited = (&mut self.reader).take(ITEM_LINE_BYTES + 1);
            let length = limited.read_until(b'\n', &mut line).await.context("reading the lines")?;
            if length == 0 {
                break;
            }
            self.number += 1;
            items.extend(self.item(&line)?);
        }
        Ok(items)
    }

    /// The message of one line; none of a line without words.
    fn item(&self, line: &[u8]) -> anyhow::Result<Option<DeleteItem>> {
        let wrong = |what: &str| {
            let text = format!("line {} {what}: write ID RECEIPT a line", self.number);
            anyhow::Error::from(Usage(text))
        };
        if line.len() as u64 > ITEM_LINE_BYTES {
            return Err(wrong(&format!("is longer than {ITEM_LINE_BYTES} bytes")));
        }
        let text = std::str::from_utf8(line).map_err(|_| wrong("is no text"))?;
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (None, ..) => Ok(None),
            (Some(id), None, _) => Err(wrong(&format!("names {id:?} without a pop receipt"))),
            (Some(id), Some(receipt), None) => {
                Ok(Some(DeleteItem { id: id.to_owned(), pop_receipt: receipt.to_owned() }))
            }
            (Some(_), Some(_), Some(word)) => {
                Err(wrong(&format!("has {word:?} behind the pop receipt")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::cli::Cli;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn receipts(items: &[DeleteItem]) -> Vec<&str> {
        items.iter().map(|item| item.pop_receipt.as_str()).collect()
    }

    #[test]
    fn words_are_pairs_and_one_without_a_receipt_is_named() {
        assert!(matches!(source(words("1 a"), false), Ok(Source::One(item)) if item.id == "1"));
        assert!(matches!(source(words("1 a 2 b"), false), Ok(Source::Many(_))));
        let items = pairs_of(words("1 a 2 b 3 c")).expect("pairs");
        assert_eq!(receipts(&items), ["a", "b", "c"]);
        let error = pairs_of(words("1 a 2")).expect_err("no receipt");
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("\"2\" has no pop receipt"), "{error}");
    }

    #[test]
    fn messages_are_named_on_the_command_line_or_on_lines_and_not_both() {
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        for verb in ["delete", "release"] {
            for good in ["1 a", "1 a 2 b", "--lines"] {
                assert!(parse(&format!("zoneq {verb} q {good}")).is_ok(), "{verb} {good}");
            }
            for bad in ["", "1 a --lines"] {
                assert!(parse(&format!("zoneq {verb} q {bad}")).is_err(), "{verb} {bad}");
            }
        }
        assert!(parse("zoneq release q 1 a 2 b --delay 5m").is_ok());
    }

    #[tokio::test]
    async fn given_messages_and_lines_come_in_batches() {
        let items = pairs_of(vec!["x".to_owned(); 2 * 1_500]).expect("pairs");
        let mut given: Batches<&[u8]> = Batches::Given(items.into_iter());
        let text = "1 a\r\n".repeat(1_500);
        let mut lines = Batches::Lines(Lines::new(text.as_bytes()));
        for count in [1_000, 500, 0] {
            assert_eq!(given.next().await.expect("items").len(), count);
            assert_eq!(lines.next().await.expect("lines").len(), count);
        }
    }

    #[tokio::test]
    async fn lines_that_are_here_do_not_wait_for_those_that_are_not() {
        let (mut writer, reader) = tokio::io::duplex(1_024);
        let mut lines = Lines::new(reader);
        writer.write_all(b"1 a\n\n  2\tb \n3 ").await.expect("written");
        assert_eq!(receipts(&lines.batch().await.expect("lines")), ["a", "b"]);
        writer.write_all(b"c").await.expect("written");
        drop(writer);
        assert_eq!(receipts(&lines.batch().await.expect("a last line without its end")), ["c"]);
        assert!(lines.batch().await.expect("the end").is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_no_pair_is_usage_and_is_named() {
        let long = "x".repeat(2_000);
        for (text, why) in [
            ("1 a\n2\n", "line 2 names \"2\" without a pop receipt"),
            ("1 a 2 b\n", "line 1 has \"2\" behind the pop receipt"),
            (long.as_str(), "line 1 is longer than 1024 bytes"),
        ] {
            let error = Lines::new(text.as_bytes()).batch().await.expect_err(why);
            assert_eq!(Exit::of(&error), Exit::Usage);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(Lines::new(&b"\xff a\n"[..]).batch().await.is_err(), "no text");
    }

    #[test]
    fn any_message_that_was_refused_fails_the_whole_and_is_counted() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(Work::Delete, ReleaseOutcome::Released), "deleted");
        assert_eq!(
            (tally.exit(), tally.text(Work::Delete).as_str()),
            (Exit::Done, "1 message deleted")
        );
        tally.count(Work::Delete, ReleaseOutcome::ReceiptMismatch);
        tally.count(Work::Delete, ReleaseOutcome::MessageNotFound);
        assert_eq!(tally.exit(), Exit::Failed);
        let text = "1 message deleted, 1 not in the queue, 1 whose pop receipt is no longer valid";
        assert_eq!(tally.text(Work::Delete), text);
        tally.count(Work::Delete, ReleaseOutcome::Unspecified);
        assert_eq!(tally.exit(), Exit::Internal);
    }
}
