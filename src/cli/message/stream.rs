//! `zoneq receive --stream`: messages are printed as they come, until the end that was asked for.
//!
//! Laws: a message is deleted once it was printed and flushed, and the next is printed once that
//! is answered: who reads only the first ones through a pipe finds the others in the queue. What
//! is held at the end and was not printed is released. An end that was asked for is no failure,
//! nor is it when nobody reads any more.

use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde_json::json;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::BATCH;
use crate::cli::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{self, message_json, message_row, messages};
use crate::client::{
    Client, ClientError, DeleteItem, Message, Reason, ReceiveStream, ReleaseAfter, ReleaseOutcome,
    StreamOptions,
};

/// What is asked of a stream.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) queue: String,
    pub(super) options: StreamOptions,
    /// It ends when no message came for so long.
    pub(super) wait: Option<Duration>,
    pub(super) delete: bool,
    pub(super) raw: bool,
}

/// How it ended.
enum End {
    Asked,
    /// Nobody reads what is printed.
    Unread,
    Failed(anyhow::Error),
}

#[derive(Default)]
struct Tally {
    received: u64,
    deleted: u64,
}

impl Flow {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let mut signals = Signals::new()?;
        let mut stream = client.receive_stream(&self.queue, self.options)?;
        let (mut tally, mut held) = (Tally::default(), Vec::new());
        let end = self.print(context, &mut stream, &mut signals, &mut tally, &mut held).await;
        held.extend(stream.finish().await);
        let released = tokio::select! {
            released = release(&client, &self.queue, &held) => released,
            // Asked twice: at once.
            () = signals.next() => 0,
        };
        if released < held.len() {
            let text = format!(
                "{} could not be released: their leases have to run out",
                messages((held.len() - released) as u64)
            );
            let _ = writeln!(io::stderr(), "{text}");
        }
        let Tally { received, deleted } = tally;
        // Printed and not deleted: its lease had run out, so it will be delivered again.
        let exit = if self.delete && deleted < received { Exit::Failed } else { Exit::Done };
        match end {
            End::Failed(error) => return Err(error),
            End::Unread => return Ok(exit),
            End::Asked if self.raw => return Ok(exit),
            End::Asked => {}
        }
        let value = json!({ "ok": exit == Exit::Done, "received": received, "deleted": deleted,
            "released": released });
        let mut text = format!("received {}", messages(received));
        if self.delete {
            text.push_str(&format!(", deleted {deleted}"));
        }
        if released > 0 {
            text.push_str(&format!(", released {released} that were not printed"));
        }
        context.out.result(&value, &text)?;
        Ok(exit)
    }

    /// Prints until the end. A message that could not be printed is put into `held`.
    async fn print(
        &self,
        context: &Context,
        stream: &mut ReceiveStream,
        signals: &mut Signals,
        tally: &mut Tally,
        held: &mut Vec<Message>,
    ) -> End {
        let unread = unread();
        tokio::pin!(unread);
        loop {
            // A delete is not broken off by an end that is asked for: it has one of its own.
            let next = tokio::select! {
                biased;
                () = signals.next() => return End::Asked,
                () = &mut unread => return End::Unread,
                next = stream.next() => next,
                () = idle(self.wait) => return End::Asked,
            };
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(error)) => return End::Failed(error.into()),
                None => return End::Asked,
            };
            if let Err(error) = self.show(context, &message) {
                held.push(message);
                return match error.kind() {
                    ErrorKind::BrokenPipe => End::Unread,
                    _ => End::Failed(error.into()),
                };
            }
            tally.received += 1;
            if !self.delete {
                continue;
            }
            match stream.delete(&message).await {
                Ok(()) => tally.deleted += 1,
                Err(error) if is_lost(&error) => {}
                Err(error) => return End::Failed(error.into()),
            }
        }
    }

    fn show(&self, context: &Context, message: &Message) -> io::Result<()> {
        if self.raw {
            return output::raw(&message.body);
        }
        context.out.item(&message_json(message))?;
        context.out.say(&message_row(message).join("  "))
    }
}

/// Whether the message was not held any more: the others may well be.
fn is_lost(error: &ClientError) -> bool {
    matches!(error.reason(), Some(Reason::MessageNotFound | Reason::ReceiptMismatch))
}

async fn idle(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Waits until nobody reads standard output any more; for ever where that cannot be seen, as of a
/// file.
async fn unread() {
    let output = io::stdout().as_fd().try_clone_to_owned();
    // It is watched only, and so need not be a pipe, nor one that does not block.
    let watched = output.and_then(Sender::from_owned_fd_unchecked);
    if let Ok(watched) = watched
        && watched.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// How many of the messages were given back. One whose lease had run out needs it no more.
async fn release(client: &Client, queue: &str, held: &[Message]) -> usize {
    let mut given = 0;
    for batch in held.chunks(BATCH) {
        let items = batch.iter().map(DeleteItem::from).collect();
        let Ok(released) = client.release(queue, items, ReleaseAfter::Now).await else { break };
        let back = |outcome| !matches!(outcome, ReleaseOutcome::Unspecified);
        given += released.results.iter().filter(|result| back(result.outcome)).count();
    }
    given
}

/// The signals that ask for an end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Signals { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
