//! `zoneq transact`: deletes and sends that happen together or not at all.
//!
//! Laws: flags about messages are those of `send`, and hold for every message of the transaction.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::{key_is_for_one, open, read_body};
use crate::cli::exit::{Exit, Usage};
use crate::cli::output::{durability_json, durability_text, messages, sent_json};
use crate::cli::{Context, pairs, parse_pair, parse_span, parse_ttl};
use crate::client::{DeleteItem, NewMessage, Transaction, Ttl};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq transact --delete orders/ID/RECEIPT --send bills='bill 7' --send mails='mail 7'
  zoneq transact --delete orders/ID/RECEIPT --send-file bills=bill.json --header kind=bill")]
pub struct Transact {
    /// A received message as QUEUE/ID/RECEIPT; may be given more than once
    #[arg(long, env = "ZONEQ_TRANSACT_DELETE", value_name = "QUEUE/ID/RECEIPT",
          value_parser = parse_item)]
    delete: Vec<(String, DeleteItem)>,
    /// A message as QUEUE=BODY; may be given more than once
    #[arg(long, env = "ZONEQ_TRANSACT_SEND", value_name = "QUEUE=BODY", value_parser = parse_pair)]
    send: Vec<(String, String)>,
    /// A message whose body is read from a file; may be given more than once, and comes after
    /// those of --send
    #[arg(long, env = "ZONEQ_TRANSACT_SEND_FILE", value_name = "QUEUE=PATH",
          value_parser = parse_pair)]
    send_file: Vec<(String, String)>,
    /// A header of every message sent, as NAME=VALUE; may be given more than once
    #[arg(long, env = "ZONEQ_TRANSACT_HEADER", value_name = "NAME=VALUE",
          value_parser = parse_pair)]
    header: Vec<(String, String)>,
    /// Messages sent are not visible before this has passed; at most 7d
    #[arg(long, env = "ZONEQ_TRANSACT_DELAY", value_parser = parse_span)]
    delay: Option<Duration>,
    /// Lifetime of messages sent, or `never` [default: their queue's]
    #[arg(long, env = "ZONEQ_TRANSACT_TTL", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// Of messages sent: 0 is given out first, 9 last [default: 4]
    #[arg(long, env = "ZONEQ_TRANSACT_PRIORITY",
          value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Send nothing if a message with this key was sent inside the queue's window; for one message
    #[arg(long, env = "ZONEQ_TRANSACT_KEY", value_name = "KEY")]
    key: Option<String>,
    /// Of messages sent give out only the first of this group at a time, in the order of sending
    #[arg(long, env = "ZONEQ_TRANSACT_GROUP")]
    group: Option<String>,
}

/// Reads `queue/id/receipt`.
fn parse_item(text: &str) -> Result<(String, DeleteItem), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [queue, id, pop_receipt] = parts.as_slice() else {
        return Err(format!("{text:?} is no message; write QUEUE/ID/RECEIPT"));
    };
    let item = DeleteItem { id: (*id).to_owned(), pop_receipt: (*pop_receipt).to_owned() };
    Ok(((*queue).to_owned(), item))
}

impl Transact {
    pub async fn run(mut self, context: &Context) -> anyhow::Result<Exit> {
        let transaction = self.transaction().await?;
        let deleted = transaction.deletes.len();
        let done = context.client()?.transact(transaction).await?;
        for message in &done.messages {
            context.out.item(&sent_json(message))?;
        }
        let sent = done.messages.len();
        let value = json!({ "ok": true, "deleted": deleted, "sent": sent,
            "durability": durability_json(&done.durability) });
        let durable = durability_text(&done.durability);
        let sent = messages(sent as u64);
        let text = format!("deleted {deleted} and sent {sent} in one step; {durable}");
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }

    async fn transaction(&mut self) -> anyhow::Result<Transaction> {
        let form = self.form()?;
        let sends = self.send.len() + self.send_file.len();
        if self.delete.is_empty() && sends == 0 {
            let text = "nothing to do: give --delete, --send or --send-file";
            return Err(Usage(text.to_owned()).into());
        }
        if sends == 0 && form != NewMessage::default() {
            let text = "flags about messages to send, and none is sent: give --send or --send-file";
            return Err(Usage(text.to_owned()).into());
        }
        key_is_for_one(&form, sends)?;
        let deletes = std::mem::take(&mut self.delete);
        let mut transaction = Transaction { deletes, ..Transaction::default() };
        for (queue, body) in std::mem::take(&mut self.send) {
            transaction = transaction.send(queue, form.with_body(body));
        }
        for (queue, path) in std::mem::take(&mut self.send_file) {
            let body = read_body(open("--send-file", Path::new(&path)).await?, &path).await?;
            transaction = transaction.send(queue, form.with_body(body));
        }
        Ok(transaction)
    }

    /// What the flags say of every message that is sent.
    fn form(&mut self) -> anyhow::Result<NewMessage> {
        Ok(NewMessage {
            body: Bytes::new(),
            headers: pairs(std::mem::take(&mut self.header))?,
            delay: self.delay,
            ttl: self.ttl.unwrap_or_default(),
            priority: self.priority,
            deduplication_key: self.key.take(),
            group: self.group.take(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    async fn transaction(flags: &str) -> anyhow::Result<Transaction> {
        let line = format!("zoneq transact {flags}");
        let Verb::Transact(mut verb) = Cli::try_parse_from(line.split_whitespace())?.verb else {
            panic!("it is a transact");
        };
        verb.transaction().await
    }

    #[tokio::test]
    async fn what_is_said_of_messages_holds_for_each_that_is_sent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("body");
        std::fs::write(&path, "of a file").expect("written");
        let flags = format!(
            "--delete a/1/r --send-file q={} --send q=one --send p=two --delay 5s --ttl never \
             --priority 0 --group g --header kind=bill",
            path.display()
        );
        let made = transaction(&flags).await.expect("good flags");
        assert_eq!((made.deletes.len(), made.sends.len()), (1, 2));
        let bodies: Vec<&[u8]> = made.sends["q"].iter().map(|m| m.body.as_ref()).collect();
        assert_eq!(bodies, [&b"one"[..], &b"of a file"[..]]);
        for message in made.sends.values().flatten() {
            let form = NewMessage::new("")
                .delay(Duration::from_secs(5))
                .ttl(Ttl::Never)
                .priority(0)
                .group("g")
                .header("kind", "bill");
            assert_eq!(form.with_body(message.body.clone()), *message);
        }
    }

    #[tokio::test]
    async fn a_key_is_for_one_message_and_flags_about_messages_need_one() {
        let made = transaction("--delete a/1/r --send q=one --key k").await.expect("good flags");
        assert_eq!(made.sends["q"][0].deduplication_key.as_deref(), Some("k"));
        for flags in [
            "",
            "--send q=one --send q=two --key k",
            "--delete a/1/r --key k",
            "--delete a/1/r --delay 5s",
            "--send-file q=/there/is/no/such/file",
            "--send q=one --header a=1 --header a=2",
        ] {
            let error = transaction(flags).await.expect_err(flags);
            assert_eq!(Exit::of(&error), Exit::Usage, "{flags}: {error}");
        }
        assert!(transaction("--delete a/1 --send q=one").await.is_err(), "no receipt");
        assert!(transaction("--send q=one --priority 10").await.is_err());
    }
}
