//! What the nodes said of themselves, which verbs worked and what rotted, counted: a run in which no log was
//! ever mended and no snapshot installed says little about mending and snapshots, and one without
//! a verb of the API says nothing about that.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub type Counts = BTreeMap<String, u64>;

/// Counts the sentences of the nodes' events.
#[derive(Clone, Debug, Default)]
pub struct Coverage(Arc<Mutex<Counts>>);

struct Message(Option<String>);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

impl<S: Subscriber> Layer<S> for Coverage {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(None);
        event.record(&mut message);
        if let Some(sentence) = message.0 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(sentence).or_default() +=
                1;
        }
    }
}

impl Coverage {
    /// Begins to count, and to print what `RUST_LOG` asks for.
    pub fn begin() -> Coverage {
        let coverage = Coverage::default();
        let ours = Targets::new().with_target("zoneq", Level::INFO).with_default(LevelFilter::OFF);
        let asked = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
        let lines = tracing_subscriber::fmt::layer()
            .without_time()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .with_filter(asked);
        tracing_subscriber::registry().with(coverage.clone().with_filter(ours)).with(lines).init();
        coverage
    }

    pub fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sentences that are no news of a run.
const USUAL: [&str; 4] = [
    "listening without TLS on addresses that others reach: insecure_listen",
    "the node has started",
    "this node takes part",
    "a node did not answer",
];

/// The counts as lines, the rarest last.
pub fn lines(counts: &Counts) -> Vec<String> {
    let news = counts.iter().filter(|(sentence, _)| !USUAL.contains(&sentence.as_str()));
    let mut news: Vec<(&String, &u64)> = news.collect();
    news.sort_by_key(|(sentence, count)| (std::cmp::Reverse(**count), *sentence));
    news.iter().map(|(sentence, count)| format!("{count:>7}  {sentence}")).collect()
}

/// The verbs of the API that none of these calls was.
pub fn missing_verbs(answered: &Counts) -> Vec<&'static str> {
    let proto = include_str!("../../proto/zoneq/queue/v1/queue.proto");
    let lines = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
    let verbs = lines.filter_map(|line| line.split('(').next());
    verbs.filter(|verb| !answered.contains_key(*verb)).collect()
}
