//! Who sends and who receives in a run: messages that carry their number and the time they were
//! sent, over the client library's streams or, asked for, by unary calls of the same client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use rand::{RngCore as _, SeedableRng as _};
use tokio::time::Instant;

use crate::client::{
    Client, DeleteItem, DeleteOutcome, Message, NewMessage, ReceiveOptions, ReceiveStream,
    StreamOptions,
};
use crate::clock::{Clock as _, SystemClock};

/// Number, time and mark at the head of each payload.
const HEAD: usize = 24;
const POOL: usize = 1 << 20;

/// Makes payloads: number, send time, the run's mark, then bytes that do not compress.
#[derive(Debug)]
pub struct Maker {
    size: usize,
    next: AtomicU64,
    mark: u64,
    begun: Instant,
    pool: Vec<u8>,
}

impl Maker {
    #[must_use]
    pub fn new(size: usize) -> Arc<Maker> {
        let mark = SystemClock::default().wall_us();
        let size = size.max(HEAD);
        let mut pool = vec![0; POOL + size];
        rand::rngs::SmallRng::seed_from_u64(mark).fill_bytes(&mut pool);
        Arc::new(Maker { size, next: AtomicU64::new(0), mark, begun: Instant::now(), pool })
    }

    /// Nanoseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Messages made so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// A payload with the next number.
    #[must_use]
    pub fn make(&self, sent: u64) -> (u64, Bytes) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut payload = BytesMut::with_capacity(self.size);
        payload.put_u64_le(number);
        payload.put_u64_le(sent);
        payload.put_u64_le(self.mark);
        let from = (number.wrapping_mul(7_919) as usize) % POOL;
        payload.extend_from_slice(self.pool.get(from..from + self.size - HEAD).unwrap_or_default());
        (number, payload.freeze())
    }

    /// Some payloads sent at this time.
    #[must_use]
    pub fn batch(&self, count: usize, sent: u64) -> Vec<Bytes> {
        (0..count).map(|_| self.make(sent).1).collect()
    }

    /// Number and send time of one of this run's payloads.
    #[must_use]
    pub fn read(&self, payload: &[u8]) -> Option<(u64, u64)> {
        let word = |at: usize| {
            let bytes = payload.get(at..at + 8)?;
            bytes.try_into().ok().map(u64::from_le_bytes)
        };
        (word(16)? == self.mark).then_some((word(0)?, word(8)?))
    }
}

/// What carries a run's sends, receives and deletes, over the connections of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// The client library's shared streams.
    Streams,
    /// Each a unary call of its own.
    Unary,
}

impl Calls {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Calls::Streams => "streams",
            Calls::Unary => "unary",
        }
    }
}

/// How the workers of a run reach the cluster.
#[derive(Clone, Debug)]
pub struct Line {
    pub client: Client,
    pub queue: Arc<str>,
    pub calls: Calls,
}

impl Line {
    /// Sends to the run's queue; returns once every payload is acknowledged.
    pub async fn send(&self, payloads: Vec<Bytes>) -> Result<(), String> {
        self.send_to(&self.queue, payloads).await
    }

    /// The same to any queue.
    pub async fn send_to(&self, queue: &str, payloads: Vec<Bytes>) -> Result<(), String> {
        let messages = payloads.into_iter().map(NewMessage::new).collect();
        let sent = match self.calls {
            Calls::Streams => self.client.send_batch(queue, messages).await,
            Calls::Unary => self.client.send_batch_unary(queue, messages).await,
        };
        sent.map(|_| ()).map_err(|error| error.to_string())
    }

    /// A receiver that takes up to `most` messages at once.
    pub fn receiver(&self, most: usize) -> Result<Receiver, String> {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let options = StreamOptions { max_batch: most, credit: most, ..StreamOptions::default() };
        let stream = match self.calls {
            Calls::Streams => Some(self.client.receive_stream(&self.queue, options)),
            Calls::Unary => None,
        };
        let stream = stream.transpose().map_err(|error| error.to_string())?;
        Ok(Receiver { line: self.clone(), most, stream })
    }
}

/// One receiver: takes some messages, and deletes them when it has worked on them.
#[derive(Debug)]
pub struct Receiver {
    line: Line,
    most: u32,
    /// None where each receive is a call.
    stream: Option<ReceiveStream>,
}

/// A message in a receiver's hands.
#[derive(Debug)]
pub struct Delivery {
    pub body: Bytes,
    /// How often it was given out, this time included: 1 is its first lease.
    pub lease: u32,
    item: DeleteItem,
}

impl From<Message> for Delivery {
    fn from(message: Message) -> Delivery {
        let item = DeleteItem { id: message.id, pop_receipt: message.pop_receipt };
        Delivery { body: message.body, lease: message.dequeue_count, item }
    }
}

impl Receiver {
    /// Up to as many messages as it may take at once; none when none came in time.
    pub async fn receive(&mut self, wait: Duration) -> Result<Vec<Delivery>, String> {
        let taken = match &mut self.stream {
            Some(stream) => {
                let next = stream.next_batch(self.most as usize);
                let Ok(next) = tokio::time::timeout(wait, next).await else {
                    return Ok(Vec::new());
                };
                next.ok_or_else(|| "the stream has ended".to_owned())?
            }
            None => {
                let options =
                    ReceiveOptions { max_messages: self.most, wait, ..ReceiveOptions::default() };
                let received = self.line.client.receive(&self.line.queue, options).await;
                received.map(|received| received.messages)
            }
        };
        let taken = taken.map_err(|error| error.to_string())?;
        Ok(taken.into_iter().map(Delivery::from).collect())
    }

    /// Deletes them; answers what became of each, in order.
    pub async fn delete(
        &mut self,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeleteOutcome>, String> {
        let items = deliveries.into_iter().map(|delivery| delivery.item).collect();
        let deleted = match &self.stream {
            Some(stream) => stream.acks().delete_batch(items).await,
            None => self.line.client.delete_batch(&self.line.queue, items).await,
        };
        Ok(deleted.map_err(|error| error.to_string())?.outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_what_it_is_and_does_not_compress() {
        let maker = Maker::new(1_024);
        let (number, payload) = maker.make(77);
        assert_eq!((payload.len(), maker.read(&payload)), (1_024, Some((number, 77))));
        let other = Maker {
            mark: maker.mark + 1,
            pool: Vec::new(),
            ..Arc::into_inner(Maker::new(1_024)).expect("alone")
        };
        assert_eq!(other.read(&payload), None, "another run's");
        assert_eq!(maker.read(b"short"), None);
        let mut seen = [0u32; 256];
        payload[HEAD..].iter().for_each(|byte| seen[usize::from(*byte)] += 1);
        assert!(seen.iter().all(|count| *count < 30), "no byte stands out");
        assert_eq!(maker.batch(3, 0).len(), 3);
        assert_eq!(maker.made(), 4);
    }
}
