//! Where a receive stream's messages lie until the reader takes them.
//!
//! Laws: messages come out in the order they came; those that lie here count against the
//! stream's credit, which bounds them; what came before the end is still handed out, then the
//! error once, then nothing. One reader. A reader who wants no more may still take what came.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::error::ClientError;
use super::types::Message;

#[derive(Debug, Default)]
struct Shelf {
    held: Mutex<Held>,
    arrived: Notify,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Held {
    messages: VecDeque<Message>,
    /// Why there will be no more, until the reader was told.
    error: Option<ClientError>,
    /// Nothing more comes.
    ended: bool,
    /// The reader wants no more than what is on its way.
    closing: bool,
    /// Nobody reads any more.
    abandoned: bool,
}

impl Shelf {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream's side. The shelf ends when the last clone is gone.
#[derive(Clone, Debug)]
pub(super) struct Stock(Arc<Ending>);

/// Ends the shelf when it is dropped.
#[derive(Debug)]
struct Ending(Arc<Shelf>);

/// The reader's side.
#[derive(Debug)]
pub(super) struct Reader(Arc<Shelf>);

/// An empty shelf.
pub(super) fn new() -> (Stock, Reader) {
    let shelf = Arc::new(Shelf::default());
    (Stock(Arc::new(Ending(shelf.clone()))), Reader(shelf))
}

impl Stock {
    fn shelf(&self) -> &Shelf {
        &self.0.0
    }

    pub(super) fn add(&self, messages: impl IntoIterator<Item = Message>) {
        self.shelf().held().messages.extend(messages);
        self.shelf().arrived.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        self.shelf().held().messages.len()
    }

    /// Nothing more comes, and why.
    pub(super) fn end(&self, error: ClientError) {
        let mut held = self.shelf().held();
        // Who has all that was wanted is not told of what came after.
        if !held.ended {
            held.error = Some(error);
        }
    }

    /// Nothing more comes: the reader has all that it wanted.
    pub(super) fn complete(&self) {
        self.shelf().held().ended = true;
        self.shelf().arrived.notify_one();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.shelf().held().abandoned
    }

    /// Whether the reader wants no more than what is on its way.
    pub(super) fn is_closing(&self) -> bool {
        self.shelf().held().closing
    }

    /// Waits until the reader has taken something, wants no more, or has gone away since the last
    /// call.
    pub(super) async fn taken(&self) {
        self.shelf().taken.notified().await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.held().ended = true;
        self.0.arrived.notify_one();
    }
}

impl Reader {
    /// The next message; at the end the error, if there was one, and then `None`.
    pub(super) async fn next(&mut self) -> Option<Result<Message, ClientError>> {
        loop {
            {
                let mut held = self.0.held();
                if let Some(message) = held.messages.pop_front() {
                    drop(held);
                    self.0.taken.notify_one();
                    return Some(Ok(message));
                }
                if held.ended {
                    return held.error.take().map(Err);
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// Moves up to `most` messages that are here into `into`.
    pub(super) fn take(&mut self, most: usize, into: &mut Vec<Message>) {
        let mut held = self.0.held();
        let count = most.min(held.messages.len());
        into.extend(held.messages.drain(..count));
        drop(held);
        self.0.taken.notify_one();
    }

    /// Says that no more is wanted than what is on its way.
    pub(super) fn close(&mut self) {
        self.0.held().closing = true;
        self.0.taken.notify_one();
    }

    /// Waits until nothing more comes.
    pub(super) async fn ended(&mut self) {
        while !self.0.held().ended {
            self.0.arrived.notified().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.held().abandoned = true;
        self.0.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::queue::v1 as pb;

    fn message(id: &str) -> Message {
        Message::from(pb::Message { id: id.to_owned(), ..Default::default() })
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_handed_out_and_then_the_error_once() {
        let (stock, mut reader) = new();
        stock.add([message("1"), message("2"), message("3")]);
        stock.end(ClientError::not_now("over"));
        drop(stock);
        assert_eq!(reader.next().await.expect("one").expect("a message").id, "1");
        let mut taken = Vec::new();
        reader.take(10, &mut taken);
        assert_eq!(taken.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["2", "3"]);
        assert!(reader.next().await.expect("the end").is_err());
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_who_wants_no_more_takes_what_came_until_the_end() {
        let (stock, mut reader) = new();
        assert!(!stock.is_closing());
        reader.close();
        stock.taken().await;
        assert!(stock.is_closing() && !stock.is_abandoned());
        stock.add([message("1")]);
        stock.complete();
        stock.end(ClientError::not_now("later"));
        reader.ended().await;
        assert_eq!(reader.next().await.expect("one").expect("a message").id, "1");
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn the_stream_learns_that_messages_were_taken_and_that_nobody_reads() {
        let (stock, mut reader) = new();
        stock.add([message("1")]);
        reader.next().await.expect("one").expect("a message");
        stock.taken().await;
        assert_eq!(stock.len(), 0);
        drop(reader);
        stock.taken().await;
        assert!(stock.is_abandoned());
    }
}
