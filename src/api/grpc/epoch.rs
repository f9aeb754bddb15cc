//! Tells clients the epoch of the pair that this cluster is in: in the head of each answer, good or
//! bad, and of each stream.
//!
//! Laws: what is told is applied, so that no client knows an epoch which its region may forget; a
//! cluster that is in no pair tells nothing. While the epoch stays no text is made anew.

use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderValue, Response};
use tonic::body::Body;
use tower::util::MapResponseLayer;

use crate::consensus::group::Group;
use crate::proto::epoch::{self, KnownEpoch};

/// What is told, and its text.
#[derive(Clone, Debug)]
struct Told {
    known: KnownEpoch,
    text: HeaderValue,
}

/// The text that was told last.
#[derive(Debug, Default)]
struct Last(RwLock<Option<Told>>);

impl Last {
    fn text(&self, known: KnownEpoch) -> Option<HeaderValue> {
        let last = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = last.as_ref().filter(|told| told.known == known) {
            return Some(told.text.clone());
        }
        drop(last);
        let text = HeaderValue::from_str(&known.to_string()).ok()?;
        let told = Told { known, text: text.clone() };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(told);
        Some(text)
    }

    fn tell<B>(&self, known: Option<KnownEpoch>, mut answer: Response<B>) -> Response<B> {
        if let Some(text) = known.and_then(|known| self.text(known)) {
            answer.headers_mut().insert(epoch::HEADER, text);
        }
        answer
    }
}

/// The layer that does it, around all services for clients.
#[must_use]
pub fn told(
    group: Group,
) -> MapResponseLayer<impl Fn(Response<Body>) -> Response<Body> + Clone + Send + Sync + 'static> {
    let last = Arc::new(Last::default());
    MapResponseLayer::new(move |answer| last.tell(group.store().known_epoch(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_epoch_as_of_now_and_none_where_there_is_no_pair() {
        let last = Last::default();
        let told = |known| {
            let answer = last.tell(known, Response::new(()));
            answer.headers().get(epoch::HEADER).map(|text| text.to_str().expect("ASCII").to_owned())
        };
        assert_eq!(told(None), None);
        for epoch in [(1, "east"), (1, "east"), (2, "west")] {
            let known = KnownEpoch::new(epoch.0, epoch.1, 7).expect("an epoch");
            assert_eq!(told(Some(known)), Some(known.to_string()));
        }
        assert_eq!(told(None), None, "it stands alone again");
    }
}
