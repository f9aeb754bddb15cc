//! Who sends and who receives in a run: messages that carry their number and the time they were
//! sent, over the client library's streams or, asked for, one call at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use rand::{RngCore as _, SeedableRng as _};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::client::{
    Acks, Client, DeleteItem, DeleteOutcome, Message, NewMessage, ReceiveStream, StreamOptions,
};
use crate::clock::{Clock as _, SystemClock};
use crate::proto::queue::v1 as pb;
use pb::queue_service_client::QueueServiceClient;

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

/// How the workers of a run reach the cluster.
#[derive(Clone, Debug)]
pub struct Line {
    pub client: Client,
    pub queue: Arc<str>,
    /// One call at a time, over these connections; empty = streams.
    unary: Arc<[Channel]>,
}

impl Line {
    #[must_use]
    pub fn streams(client: Client, queue: &str) -> Line {
        Line { client, queue: queue.into(), unary: Arc::new([]) }
    }

    /// One call at a time to one node.
    pub fn unary(
        client: Client,
        queue: &str,
        address: &str,
        connections: usize,
    ) -> anyhow::Result<Line> {
        let address =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(address)?.tcp_nodelay(true);
        let unary = (0..connections).map(|_| endpoint.connect_lazy()).collect();
        Ok(Line { client, queue: queue.into(), unary })
    }

    fn service(&self, worker: usize) -> Option<QueueServiceClient<Channel>> {
        let channel = self.unary.get(worker % self.unary.len().max(1))?;
        Some(QueueServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20))
    }

    #[must_use]
    pub fn sender(&self, worker: usize) -> Sender {
        Sender { line: self.clone(), service: self.service(worker) }
    }

    pub fn receiver(&self, worker: usize, most: usize) -> Result<Receiver, String> {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let kind = match self.service(worker) {
            Some(service) => Kind::Unary(service),
            None => {
                let options =
                    StreamOptions { max_batch: most, credit: most, ..StreamOptions::default() };
                let stream = self.client.receive_stream(&self.queue, options);
                let stream = stream.map_err(|error| error.to_string())?;
                Kind::Stream { acks: stream.acks(), stream }
            }
        };
        Ok(Receiver { line: self.clone(), most, kind })
    }
}

/// One sender: the next send begins when the last was acknowledged.
#[derive(Debug)]
pub struct Sender {
    line: Line,
    service: Option<QueueServiceClient<Channel>>,
}

impl Sender {
    /// Returns once every payload is acknowledged.
    pub async fn send(&mut self, payloads: Vec<Bytes>) -> Result<(), String> {
        match &mut self.service {
            None => {
                let messages = payloads.into_iter().map(NewMessage::new).collect();
                let sent = self.line.client.send_batch(&self.line.queue, messages).await;
                sent.map(|_| ()).map_err(|error| error.to_string())
            }
            Some(service) => {
                let message = |body| pb::NewMessage { body, ..pb::NewMessage::default() };
                let request = pb::SendRequest {
                    account: self.line.client.account().to_owned(),
                    queue: self.line.queue.to_string(),
                    messages: payloads.into_iter().map(message).collect(),
                    session: None,
                };
                service.send(request).await.map(|_| ()).map_err(|status| status.to_string())
            }
        }
    }
}

/// One receiver: takes some messages, and deletes them when it has worked on them.
#[derive(Debug)]
pub struct Receiver {
    line: Line,
    most: u32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Stream { stream: ReceiveStream, acks: Acks },
    Unary(QueueServiceClient<Channel>),
}

/// A message in a receiver's hands.
#[derive(Debug)]
pub struct Delivery {
    pub body: Bytes,
    item: DeleteItem,
}

impl From<Message> for Delivery {
    fn from(message: Message) -> Delivery {
        let item = DeleteItem { id: message.id, pop_receipt: message.pop_receipt };
        Delivery { body: message.body, item }
    }
}

impl Receiver {
    /// Up to as many messages as it may take at once; none when none came in time.
    pub async fn receive(&mut self, wait: Duration) -> Result<Vec<Delivery>, String> {
        match &mut self.kind {
            Kind::Stream { stream, .. } => {
                let next = stream.next_batch(self.most as usize);
                let Ok(next) = tokio::time::timeout(wait, next).await else {
                    return Ok(Vec::new());
                };
                let taken = next.ok_or_else(|| "the stream has ended".to_owned())?;
                let taken = taken.map_err(|error| error.to_string())?;
                Ok(taken.into_iter().map(Delivery::from).collect())
            }
            Kind::Unary(service) => {
                let request = pb::ReceiveRequest {
                    account: self.line.client.account().to_owned(),
                    queue: self.line.queue.to_string(),
                    max_messages: self.most,
                    visibility_timeout: None,
                    wait: prost_types::Duration::try_from(wait).ok(),
                    session: None,
                };
                let answer = service.receive(request).await.map_err(|status| status.to_string())?;
                let delivery = |message: pb::Message| Delivery {
                    body: message.body,
                    item: DeleteItem { id: message.id, pop_receipt: message.pop_receipt },
                };
                Ok(answer.into_inner().messages.into_iter().map(delivery).collect())
            }
        }
    }

    /// Deletes them; returns once the server has answered for each.
    pub async fn delete(&mut self, deliveries: Vec<Delivery>) -> Result<(), String> {
        let items: Vec<DeleteItem> = deliveries.into_iter().map(|d| d.item).collect();
        let outcomes = match &mut self.kind {
            Kind::Stream { acks, .. } => {
                acks.delete_batch(items).await.map_err(|error| error.to_string())?.outcomes
            }
            Kind::Unary(service) => {
                let item = |item: DeleteItem| pb::DeleteItem {
                    id: item.id,
                    pop_receipt: item.pop_receipt,
                };
                let request = pb::DeleteRequest {
                    account: self.line.client.account().to_owned(),
                    queue: self.line.queue.to_string(),
                    items: items.into_iter().map(item).collect(),
                    session: None,
                };
                let answer = service.delete(request).await.map_err(|status| status.to_string())?;
                let outcome = |code| DeleteOutcome::try_from(code).unwrap_or_default();
                answer.into_inner().outcomes.into_iter().map(outcome).collect()
            }
        };
        match outcomes.iter().find(|outcome| **outcome != DeleteOutcome::Deleted) {
            None => Ok(()),
            Some(outcome) => Err(format!("a delete was answered with {}", outcome.as_str_name())),
        }
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
