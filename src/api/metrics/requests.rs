//! Calls of clients, counted as they pass: by service, verb and outcome, and how long they took.
//!
//! Laws: a call costs the search for its verb and two or three relaxed additions; a call whose
//! client went away is counted as such. Of a stream only its beginning counts, and no duration. A
//! call that is passed on counts where the client made it. What is no verb of ours is one `other`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use super::Sources;
use super::page::Page;
use crate::storage::timings::Timings;

/// Services whose callers are clients and operators, with their names on the page.
const SERVICES: [(&str, &str); 4] = [
    ("zoneq.queue.v1.QueueService", "queue"),
    ("zoneq.admin.v1.ClusterService", "cluster"),
    ("zoneq.admin.v1.RegionService", "region"),
    ("zoneq.admin.v1.MendService", "mend"),
];

/// How a call ended, as metrics tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// For good: the same call again ends the same.
    Rejected,
    Overloaded,
    NotNow,
    Unknown,
    Fatal,
    /// The client went away first.
    Cancelled,
}

const OUTCOMES: [(Outcome, &str); 7] = [
    (Outcome::Ok, "ok"),
    (Outcome::Rejected, "rejected"),
    (Outcome::Overloaded, "overloaded"),
    (Outcome::NotNow, "not_now"),
    (Outcome::Unknown, "unknown"),
    (Outcome::Fatal, "fatal"),
    (Outcome::Cancelled, "cancelled"),
];

/// What is counted of one verb.
#[derive(Debug)]
struct Verb {
    path: String,
    service: &'static str,
    name: String,
    streams: bool,
    outcomes: [AtomicU64; OUTCOMES.len()],
    took: Timings,
}

impl Verb {
    fn new(path: String, service: &'static str, name: String, streams: bool) -> Verb {
        let (outcomes, took) = (Default::default(), Timings::default());
        Verb { path, service, name, streams, outcomes, took }
    }

    fn count(&self, outcome: Outcome) {
        let counts = OUTCOMES.iter().zip(&self.outcomes);
        for (_, count) in counts.filter(|((known, _), _)| *known == outcome) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The counts of one node; a layer around its services. A clone is the same counts.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// By path.
    verbs: Vec<Verb>,
    other: Verb,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests::new()
    }
}

impl Requests {
    /// Nothing was called yet.
    #[must_use]
    pub fn new() -> Requests {
        // What was compiled in can be read; without it every verb would be `other`.
        let set = FileDescriptorSet::decode(crate::proto::DESCRIPTORS).unwrap_or_default();
        let mut verbs: Vec<Verb> = set.file.iter().flat_map(verbs_of).collect();
        verbs.sort_by(|a, b| a.path.cmp(&b.path));
        let other = Verb::new(String::new(), "other", "other".to_owned(), true);
        Requests(Arc::new(Counts { verbs, other }))
    }

    /// Begins a call.
    fn begin(&self, path: &str) -> Passing {
        let place = self.0.verbs.binary_search_by(|verb| verb.path.as_str().cmp(path)).ok();
        Passing { counts: Arc::clone(&self.0), place, begun: Instant::now(), ended: false }
    }
}

fn verbs_of(file: &prost_types::FileDescriptorProto) -> Vec<Verb> {
    let mut verbs = Vec::new();
    for service in &file.service {
        let full = format!("{}.{}", file.package(), service.name());
        let Some((_, short)) = SERVICES.iter().find(|(name, _)| *name == full) else { continue };
        let verb = |method: &MethodDescriptorProto| {
            let streams = method.client_streaming() || method.server_streaming();
            let path = format!("/{full}/{}", method.name());
            Verb::new(path, short, snake(method.name()), streams)
        };
        verbs.extend(service.method.iter().map(verb));
    }
    verbs
}

/// `SendStream` to `send_stream`.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// A call under way; dropped without an answer it was cancelled.
struct Passing {
    counts: Arc<Counts>,
    place: Option<usize>,
    begun: Instant,
    ended: bool,
}

impl Passing {
    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        let known = self.place.and_then(|place| self.counts.verbs.get(place));
        let verb = known.unwrap_or(&self.counts.other);
        verb.count(outcome);
        if !verb.streams && outcome != Outcome::Cancelled {
            let took = self.begun.elapsed().as_micros();
            verb.took.note(u64::try_from(took).unwrap_or(u64::MAX));
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Outcome::Cancelled);
        }
    }
}

/// The class of a failure, by what the one table of errors wrote into it.
fn class(status: &Status) -> Outcome {
    let Some(info) = status.get_details_error_info() else {
        return match status.code() {
            Code::Ok => Outcome::Ok,
            Code::Unavailable => Outcome::NotNow,
            Code::DeadlineExceeded | Code::Cancelled => Outcome::Unknown,
            Code::Internal | Code::Unknown | Code::DataLoss => Outcome::Fatal,
            _ => Outcome::Rejected,
        };
    };
    match info.reason.as_str() {
        "OVERLOADED" => Outcome::Overloaded,
        "FATAL" => Outcome::Fatal,
        _ if info.metadata.get("outcome").is_some_and(|it| it == "unknown") => Outcome::Unknown,
        "NOT_NOW" => Outcome::NotNow,
        _ => Outcome::Rejected,
    }
}

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut passing = self.requests.begin(request.uri().path());
        let answered = self.inner.call(request).map(move |answer| {
            passing.end(match &answer {
                // A failure before the first message is in the head; a success says nothing there.
                Ok(response) => Status::from_header_map(response.headers())
                    .map_or(Outcome::Ok, |status| class(&status)),
                Err(_) => Outcome::Fatal,
            });
            answer
        });
        answered.boxed()
    }
}

pub(super) fn fill(page: &mut Page, sources: &Sources) {
    let counts = &sources.requests.0;
    for verb in counts.verbs.iter().chain([&counts.other]) {
        let called = |count: &AtomicU64| count.load(Ordering::Relaxed) > 0;
        if !verb.outcomes.iter().any(called) {
            continue;
        }
        for ((_, outcome), count) in OUTCOMES.iter().zip(&verb.outcomes) {
            let labels = [("service", verb.service), ("verb", &verb.name), ("outcome", outcome)];
            let help = "Calls of clients that ended, by verb and outcome; streams that began.";
            let count = count.load(Ordering::Relaxed) as f64;
            page.counter_of("zoneq_api_requests_total", help, &labels, count);
        }
        if !verb.streams {
            let labels = [("service", verb.service), ("verb", verb.name.as_str())];
            let help = "How long calls of clients took, but for streams; a wait that was asked \
                        for is in it.";
            page.histogram_of("zoneq_api_request_seconds", help, &labels, &verb.took.seen());
        }
    }
    let used = sources.admission.used();
    let help = "Client calls and stream items in progress.";
    page.gauge("zoneq_api_requests_in_progress", help, used.requests as f64);
    let help = "Client calls and stream items that may be in progress.";
    page.gauge("zoneq_api_requests_in_progress_limit", help, used.most_requests as f64);
    let help = "Bytes of the client calls and stream items in progress.";
    page.gauge("zoneq_api_requests_in_progress_bytes", help, used.bytes as f64);
    let help = "Bytes of client calls and stream items that may be in progress.";
    page.gauge("zoneq_api_requests_in_progress_limit_bytes", help, used.most_bytes as f64);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::api::grpc::Refusal;
    use crate::consensus::error::Fate;

    fn count(requests: &Requests, path: &str, outcome: Outcome) -> u64 {
        let place = requests.0.verbs.iter().find(|verb| verb.path == path);
        let verb = place.unwrap_or(&requests.0.other);
        let at = OUTCOMES.iter().position(|(known, _)| *known == outcome).expect("an outcome");
        verb.outcomes[at].load(Ordering::Relaxed)
    }

    async fn call(requests: &Requests, path: &str, answer: Result<(), Refusal>) {
        let service = tower::service_fn(move |_: Request<()>| {
            let response = match answer.clone() {
                Ok(()) => Response::new(tonic::body::Body::empty()),
                Err(refusal) => Status::from(refusal).into_http(),
            };
            async move { Ok::<_, Infallible>(response) }
        });
        let request = Request::builder().uri(path).body(()).expect("a request");
        requests.layer(service).call(request).await.expect("an answer");
    }

    #[tokio::test]
    async fn calls_are_counted_by_verb_and_class() {
        const SEND: &str = "/zoneq.queue.v1.QueueService/Send";
        let requests = Requests::new();
        call(&requests, SEND, Ok(())).await;
        call(&requests, SEND, Ok(())).await;
        let not_now =
            |fate| Refusal::NotNow { why: "no leader".to_owned(), fate, retry_after: None };
        call(&requests, SEND, Err(not_now(Fate::NotApplied))).await;
        call(&requests, SEND, Err(not_now(Fate::Unknown))).await;
        call(&requests, SEND, Err(Refusal::Overloaded("full".to_owned()))).await;
        call(&requests, SEND, Err(Refusal::Fatal("it stops".to_owned()))).await;
        let late = Refusal::Late { why: "late".to_owned(), fate: Fate::NotApplied };
        call(&requests, SEND, Err(late)).await;
        call(&requests, "/zoneq.queue.v1.QueueService/Sned", Ok(())).await;
        for (outcome, expected) in [
            (Outcome::Ok, 2),
            (Outcome::NotNow, 2),
            (Outcome::Unknown, 1),
            (Outcome::Overloaded, 1),
            (Outcome::Fatal, 1),
            (Outcome::Cancelled, 0),
        ] {
            assert_eq!(count(&requests, SEND, outcome), expected, "{outcome:?}");
        }
        assert_eq!(count(&requests, "", Outcome::Ok), 1, "what is no verb is another");
        let send = requests.0.verbs.iter().find(|verb| verb.path == SEND).expect("a verb");
        assert_eq!((send.took.seen().count, send.name.as_str()), (7, "send"));
    }

    #[tokio::test]
    async fn a_call_whose_client_goes_away_is_cancelled() {
        const SEND: &str = "/zoneq.queue.v1.QueueService/Send";
        let requests = Requests::new();
        let service = tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<()>, Infallible>>()
        });
        let request = Request::builder().uri(SEND).body(()).expect("a request");
        drop(requests.layer(service).call(request));
        assert_eq!(count(&requests, SEND, Outcome::Cancelled), 1);
    }

    #[test]
    fn every_verb_of_every_service_has_its_place() {
        let requests = Requests::new();
        let services: std::collections::BTreeSet<&str> =
            requests.0.verbs.iter().map(|verb| verb.service).collect();
        assert_eq!(services.len(), SERVICES.len());
        assert!(requests.0.verbs.len() > 40, "{}", requests.0.verbs.len());
        let stream = requests.0.verbs.iter().find(|verb| verb.name == "send_stream");
        assert!(stream.expect("a verb").streams);
    }
}
