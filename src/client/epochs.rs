//! The highest epoch of a pair of regions that a client was ever told, by any of its nodes.
//!
//! Laws: it goes with every call and every stream that is opened, so that a deposed primary which
//! has not heard of it asks before it acknowledges; clones share it. Of one lineage the highest
//! counts and is not forgotten for another one's sake, as long as few are told of; that of the
//! lineage which was told last is sent. What cannot be read was not said. Nothing is allocated for
//! a call while the nodes tell the same.
//!
//! Who makes calls of the generated services by himself wraps each of his channels in a [`Line`],
//! all with one [`Epochs`]; a [`Client`](super::Client) has them already.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::transport::{Channel, channel};
use tower::Service;

use crate::proto::epoch::{HEADER, KnownEpoch};

/// Lineages that are remembered: nodes of one pair are of one, or of two after they parted.
const LINEAGES: usize = 4;

#[derive(Clone, Debug)]
struct Known {
    epoch: KnownEpoch,
    text: HeaderValue,
}

/// What a client knows.
#[derive(Debug, Default)]
pub struct Epochs {
    /// The lineage that was told last is the first.
    known: RwLock<Vec<Known>>,
}

impl Epochs {
    /// The epoch that goes with calls; `None` before any node of a pair has answered.
    #[must_use]
    pub fn known(&self) -> Option<KnownEpoch> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.first().map(|known| known.epoch)
    }

    fn text(&self) -> Option<HeaderValue> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.first().map(|known| known.text.clone())
    }

    /// Takes in what the head of an answer tells.
    fn hear(&self, head: &HeaderMap) {
        let Some(text) = head.get(HEADER) else { return };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_same = known.first().is_some_and(|known| known.text == *text);
        drop(known);
        if is_same {
            return;
        }
        let Some(epoch) = KnownEpoch::read(text.as_bytes()) else { return };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|it| it.epoch.lineage() == epoch.lineage());
        let before = place.map(|place| known.remove(place));
        let highest = before.filter(|before| !epoch.is_above(&before.epoch));
        known.insert(0, highest.unwrap_or_else(|| Known { epoch, text: text.clone() }));
        known.truncate(LINEAGES);
    }
}

/// A connection whose calls say what the client knows, and whose answers are heard.
#[derive(Clone, Debug)]
pub struct Line {
    channel: Channel,
    epochs: Arc<Epochs>,
}

impl Line {
    /// Of one node; what it tells is known to all lines with the same `epochs`.
    #[must_use]
    pub fn new(channel: Channel, epochs: Arc<Epochs>) -> Line {
        Line { channel, epochs }
    }
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        if let Some(text) = self.epochs.text() {
            request.headers_mut().insert(HEADER, text);
        }
        Answer { coming: self.channel.call(request), epochs: Arc::clone(&self.epochs) }
    }
}

/// The answer of a call, to be heard when it comes.
#[derive(Debug)]
pub struct Answer {
    coming: channel::ResponseFuture,
    epochs: Arc<Epochs>,
}

impl Future for Answer {
    type Output = Result<Response<Body>, tonic::transport::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.coming).poll(cx));
        if let Ok(answer) = &answer {
            self.epochs.hear(answer.headers());
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(epochs: &Epochs, text: &str) {
        let mut head = HeaderMap::new();
        head.insert(HEADER, text.parse().expect("ASCII"));
        epochs.hear(&head);
    }

    fn says(epochs: &Epochs) -> Option<String> {
        epochs.text().map(|text| text.to_str().expect("ASCII").to_owned())
    }

    fn epoch(number: u64, region: &str, lineage: u128) -> String {
        KnownEpoch::new(number, region, lineage).expect("an epoch").to_string()
    }

    #[test]
    fn the_highest_epoch_of_a_lineage_is_remembered() {
        let epochs = Epochs::default();
        assert_eq!(says(&epochs), None);
        for (number, region, most) in [(1, "east", 1), (2, "west", 2), (1, "east", 2)] {
            tell(&epochs, &epoch(number, region, 7));
            let text = says(&epochs).expect("known");
            assert!(text.starts_with(&format!("{most} ")), "{text}");
        }
        epochs.hear(&HeaderMap::new());
        assert_eq!(says(&epochs), Some(epoch(2, "west", 7)), "who says nothing changes nothing");
    }

    #[test]
    fn what_cannot_be_read_was_not_said() {
        let epochs = Epochs::default();
        for bad in ["", "9", "9 west", "x west 7"] {
            tell(&epochs, bad);
            assert_eq!(says(&epochs), None, "{bad}");
        }
        tell(&epochs, &epoch(2, "west", 7));
        tell(&epochs, "9 west and so on");
        assert_eq!(says(&epochs), Some(epoch(2, "west", 7)));
    }

    #[test]
    fn another_lineage_makes_nobody_forget_and_few_are_remembered() {
        let epochs = Epochs::default();
        tell(&epochs, &epoch(5, "west", 7));
        tell(&epochs, &epoch(1, "north", 8));
        assert_eq!(says(&epochs), Some(epoch(1, "north", 8)), "the one that was told last");
        tell(&epochs, &epoch(4, "east", 7));
        assert_eq!(says(&epochs), Some(epoch(5, "west", 7)), "the highest of its lineage");
        for lineage in 100..200 {
            tell(&epochs, &epoch(1, "south", lineage));
        }
        assert_eq!(epochs.known.read().expect("known").len(), LINEAGES);
    }
}
