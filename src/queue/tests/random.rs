//! Random runs: the state, the naive model and a state rebuilt from the table must agree after
//! every entry.

use bytes::Bytes;
use proptest::prelude::*;

use super::model::Model;
use super::stage::{ACCOUNT, Stage, next_visible, plain, secs};
use crate::queue::command::{
    AccountQuota, Command, Content, DeadLetters, Envelope, NewMessage, Quota, Receive, Redrive,
    RedriveFilter, ReleaseAfter, SessionTag, Settings, StringMap, TimeToLive, Transact, Update,
};
use crate::queue::ids::{LogTime, MessageId, Receipt, Span};
use crate::queue::outcome::{Outcome, Reply, Shown, Standing};
use crate::queue::{AccountView, Held};

const QUEUES: [&str; 3] = ["queue-a", "queue-b", "queue-c"];
/// Kinds of settings.
const VARIANTS: u8 = 10;
const SPANS: [u64; 6] = [0, 1, 3, 30, 600, 3_000];

/// A command before it knows which messages there are: indexes into what was answered so far.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create { queue: usize, variant: u8 },
    DeleteQueue { queue: usize },
    SetMetadata { queue: usize, variant: u8 },
    SetSettings { queue: usize, variant: u8 },
    SetPaused { queue: usize, paused: bool },
    Send { queue: usize, messages: Vec<Fresh> },
    Receive { queue: usize, max: u32, bytes: u32, span: usize },
    Update { queue: usize, pick: usize, span: usize, size: usize },
    Delete { queue: usize, picks: Vec<usize> },
    Transact { deletes: Vec<(usize, usize)>, sends: Vec<(usize, Vec<Fresh>)> },
    Release { queue: usize, picks: Vec<usize>, after: usize },
    Clear { queue: usize },
    Undelete { queue: usize, to: usize },
    Redrive { queue: usize, kind: u8 },
    CancelRedrive { queue: usize, back: usize },
    Quota { kind: u8 },
    Pulse,
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || 0..QUEUES.len();
    let span = || 0..SPANS.len();
    // Most have the usual priority, so that orders within one are met too.
    let priority = prop_oneof![2 => Just(4_u8), 1 => 0..10_u8];
    let key = prop::option::weighted(0.3, 0..4_u128);
    let group = prop::option::weighted(0.4, 0..3_u8);
    let message = (0..20_usize, span(), span(), priority, key, group);
    prop_oneof![
        3 => (queue(), 0..4_u8).prop_map(|(queue, variant)| Step::Create { queue, variant }),
        1 => queue().prop_map(|queue| Step::DeleteQueue { queue }),
        1 => (queue(), 0..3_u8).prop_map(|(queue, variant)| Step::SetMetadata { queue, variant }),
        2 => (queue(), 0..VARIANTS).prop_map(|(queue, variant)| Step::SetSettings { queue, variant }),
        1 => (queue(), prop::bool::weighted(0.3))
            .prop_map(|(queue, paused)| Step::SetPaused { queue, paused }),
        8 => (queue(), prop::collection::vec(message.clone(), 1..8))
            .prop_map(|(queue, messages)| Step::Send { queue, messages }),
        8 => (queue(), 1..6_u32, 0..60_u32, span())
            .prop_map(|(queue, max, bytes, span)| Step::Receive { queue, max, bytes, span }),
        5 => (queue(), 0..64_usize, span(), 0..9_usize)
            .prop_map(|(queue, pick, span, size)| Step::Update { queue, pick, span, size }),
        5 => (queue(), prop::collection::vec(0..64_usize, 1..4))
            .prop_map(|(queue, picks)| Step::Delete { queue, picks }),
        4 => (
            prop::collection::vec((queue(), 0..12_usize), 0..3),
            prop::collection::vec((queue(), prop::collection::vec(message.clone(), 1..3)), 0..3),
        )
            .prop_map(|(deletes, sends)| Step::Transact { deletes, sends }),
        5 => (queue(), prop::collection::vec(0..64_usize, 1..4), 0..SPANS.len() + 2)
            .prop_map(|(queue, picks, after)| Step::Release { queue, picks, after }),
        1 => queue().prop_map(|queue| Step::Clear { queue }),
        2 => (queue(), queue()).prop_map(|(queue, to)| Step::Undelete { queue, to }),
        3 => (queue(), 0..8_u8).prop_map(|(queue, kind)| Step::Redrive { queue, kind }),
        1 => (queue(), 0..3_usize).prop_map(|(queue, back)| Step::CancelRedrive { queue, back }),
        1 => (0..6_u8).prop_map(|kind| Step::Quota { kind }),
        4 => Just(Step::Pulse),
    ]
}

/// Size, delay, time to live, priority, key and group of a message.
pub(super) type Fresh = (usize, usize, usize, u8, Option<u128>, Option<u8>);

/// (step, client and how many sequences it steps forward and leaves unanswered)
pub(super) type Sent = (Step, Option<(u128, u64, u64)>);

pub(super) fn entry() -> impl Strategy<Value = (usize, Vec<Sent>)> {
    let session = prop::option::weighted(0.4, (0..3_u128, 0..2_u64, 0..4_u64));
    (0..SPANS.len(), prop::collection::vec((step(), session), 1..4))
}

/// Turns steps into commands, remembering ids, receipts and sequences.
#[derive(Default)]
pub(super) struct Player {
    issued: Vec<(MessageId, Receipt)>,
    jobs: Vec<MessageId>,
    sequences: [u64; 3],
}

impl Player {
    pub(super) fn envelope(&mut self, (step, session): &Sent) -> Envelope {
        let tag = session.map(|(client, forward, open)| {
            let last = &mut self.sequences[client as usize];
            *last = (*last + forward).max(1);
            let lowest_unanswered = last.saturating_sub(open);
            SessionTag { client, sequence: *last, lowest_unanswered }
        });
        Envelope { session: tag, ..plain(self.command(step)) }
    }

    fn command(&self, step: &Step) -> Command {
        let name = |queue: &usize| QUEUES[*queue].to_owned();
        match step {
            Step::Create { queue, variant } => Command::CreateQueue {
                name: name(queue),
                metadata: StringMap::new(),
                settings: Box::new(settings(if *variant < 2 { *variant } else { 6 + *variant })),
            },
            Step::DeleteQueue { queue } => Command::DeleteQueue { name: name(queue) },
            Step::SetMetadata { queue, variant } => {
                let metadata = StringMap::from([("v".to_owned(), variant.to_string())]);
                Command::SetMetadata { name: name(queue), metadata }
            }
            Step::SetSettings { queue, variant } => {
                Command::SetSettings { name: name(queue), settings: Box::new(settings(*variant)) }
            }
            Step::SetPaused { queue, paused } => {
                Command::SetPaused { name: name(queue), paused: *paused }
            }
            Step::Send { queue, messages } => {
                let messages = messages.iter().map(new_message).collect();
                Command::Send { queue: name(queue), messages }
            }
            Step::Receive { queue, max, bytes, span } => Command::Receive(Receive {
                queue: name(queue),
                max_messages: *max,
                max_bytes: *bytes,
                visibility: (*span > 0).then(|| Span::from_secs(SPANS[*span - 1])),
            }),
            Step::Update { queue, pick, span, size } => {
                let (id, receipt) = self.pick(*pick);
                Command::Update(Update {
                    queue: name(queue),
                    id,
                    receipt,
                    visibility: (*span > 0).then(|| Span::from_secs(SPANS[*span - 1])),
                    content: (*size > 0).then(|| content(*size)),
                })
            }
            Step::Delete { queue, picks } => {
                let items = picks.iter().map(|pick| self.pick(*pick)).collect();
                Command::Delete { queue: name(queue), items }
            }
            Step::Transact { deletes, sends } => {
                let delete = |(queue, pick): &(usize, usize)| {
                    let (id, receipt) = self.pick(*pick);
                    (name(queue), id, receipt)
                };
                let send = |(queue, messages): &(usize, Vec<Fresh>)| {
                    (name(queue), messages.iter().map(new_message).collect())
                };
                Command::Transact(Transact {
                    deletes: deletes.iter().map(delete).collect(),
                    sends: sends.iter().map(send).collect(),
                })
            }
            Step::Release { queue, picks, after } => {
                let items = picks.iter().map(|pick| self.pick(*pick)).collect();
                let after = match SPANS.get(*after) {
                    Some(secs) => ReleaseAfter::Delay(Span::from_secs(*secs)),
                    None if *after == SPANS.len() => ReleaseAfter::Now,
                    None => ReleaseAfter::BackOff,
                };
                Command::Release { queue: name(queue), items, after }
            }
            Step::Clear { queue } => Command::Clear { queue: name(queue) },
            Step::Undelete { queue, to } => Command::UndeleteQueue {
                name: name(queue),
                id: None,
                new_name: (queue != to).then(|| name(to)),
            },
            Step::Redrive { queue, kind } => self.redrive(name(queue), *kind),
            Step::CancelRedrive { queue, back } => {
                let nobody = self.pick(usize::MAX).0;
                let id = self.jobs.iter().rev().nth(*back).copied().unwrap_or(nobody);
                Command::CancelRedrive { queue: name(queue), id }
            }
            Step::Quota { kind } => Command::SetAccountQuota(match kind {
                0 => AccountQuota { messages: Some(9), ..AccountQuota::default() },
                1 => AccountQuota { bytes: Some(60), ..AccountQuota::default() },
                2 => AccountQuota { queues: Some(2), ..AccountQuota::default() },
                _ => AccountQuota::default(),
            }),
            Step::Pulse => Command::Pulse,
        }
    }

    fn redrive(&self, queue: String, kind: u8) -> Command {
        let target = match kind {
            1 | 2 => QUEUES.iter().find(|name| **name != queue).map(|name| (*name).to_owned()),
            _ => None,
        };
        let filter = match kind {
            3 => RedriveFilter { source: Some("queue-a".to_owned()), ..RedriveFilter::default() },
            4 => RedriveFilter { group: Some("group-1".to_owned()), ..RedriveFilter::default() },
            5 => RedriveFilter {
                ids: self.issued.iter().rev().take(20).map(|(id, _)| *id).collect(),
                ..RedriveFilter::default()
            },
            _ => RedriveFilter::default(),
        };
        let rate = matches!(kind, 2 | 6).then_some(2);
        Command::StartRedrive(Box::new(Redrive { queue, target, rate, filter }))
    }

    /// One of those issued lately.
    fn pick(&self, pick: usize) -> (MessageId, Receipt) {
        let nobody = MessageId::parse("00000001-0000-8000-8000-0000000fffff").expect("an id");
        let none = (nobody, Receipt { epoch: nobody.epoch, counter: 1 });
        self.issued.iter().rev().nth(pick).copied().unwrap_or(none)
    }

    pub(super) fn remember(&mut self, command: &Command, outcome: &Outcome) {
        match (command, outcome) {
            (_, Ok(Reply::Sent(sent) | Reply::Transacted(sent))) => {
                self.issued.extend(sent.iter().map(|s| (s.id, s.receipt)));
            }
            (_, Ok(Reply::Received { messages, .. })) => {
                self.issued.extend(messages.iter().map(|m| (m.id, m.receipt)));
            }
            (_, Ok(Reply::RedriveStarted { id, .. })) => self.jobs.push(*id),
            (Command::Update(update), Ok(Reply::Updated { receipt, .. })) => {
                self.issued.push((update.id, *receipt));
            }
            _ => {}
        }
    }
}

fn settings(variant: u8) -> Settings {
    let usual = Settings::default();
    let dead = |queue: &str, max_deliveries| Settings {
        dead_letters: Some(DeadLetters { queue: queue.to_owned(), max_deliveries }),
        ..Settings::default()
    };
    match variant {
        0 => Settings { default_ttl: None, ..usual },
        1 => Settings { default_ttl: Some(Span::from_secs(40)), ..usual },
        2 => Settings {
            default_ttl: Some(Span::from_secs(7_000)),
            deduplication_window: Span::from_secs(5),
            ..usual
        },
        3 => dead("queue-b", 1),
        4 => dead("queue-c", 2),
        5 => dead("queue-a", 3),
        8 => Settings { undelete_window: Span::from_secs(600), ..dead("queue-c", 1) },
        9 => Settings { undelete_window: Span::from_secs(3), ..usual },
        6 => Settings { quota: Quota { messages: Some(4), bytes: Some(40) }, ..usual },
        _ => {
            Settings { max_message_bytes: 12, dead_letter_ttl: Some(Span::from_secs(50)), ..usual }
        }
    }
}

fn content(size: usize) -> Content {
    Content { body: Bytes::from(vec![b'x'; size]), headers: StringMap::new() }
}

fn new_message((size, delay, ttl, priority, key, group): &Fresh) -> NewMessage {
    let delay = if *delay > 3 { SPANS[delay - 2] } else { 0 };
    let ttl = match ttl {
        0 | 1 => TimeToLive::Default,
        2 => TimeToLive::Never,
        more => TimeToLive::For(Span::from_secs(SPANS[*more] + delay)),
    };
    let (content, delay) = (content(*size), Span::from_secs(delay));
    let group = group.map(|group| format!("group-{group}").into());
    let key = key.map(Box::new);
    NewMessage { content, delay, ttl, priority: *priority, key, group }
}

fn peek_all(stage: &Stage, queue: &str, standing: Standing, max: usize) -> Vec<Shown> {
    let (mut all, mut token) = (Vec::new(), None);
    loop {
        let (page, next) =
            stage.state.peek(ACCOUNT, queue, standing, token, max).expect("the queue is there");
        assert!(page.len() <= max);
        all.extend(page);
        match next {
            None => return all,
            next => token = next,
        }
    }
}

fn compare(stage: &Stage, model: &Model) {
    assert_eq!(stage.state.log_time(), model.now);
    let (mut messages, mut bytes) = (0, 0);
    for name in QUEUES {
        let view = stage.state.queue(ACCOUNT, name);
        let Some(queue) = model.queues.get(name) else {
            assert_eq!(view, None);
            continue;
        };
        let view = view.expect("the queue is there");
        assert_eq!(view.row.id, queue.id);
        assert_eq!(view.counts, queue.counts(model.now), "counts of {name}");
        assert_eq!(view.oldest, queue.messages.iter().map(|m| m.inserted_at).min());
        (messages, bytes) = (messages + view.counts.total, bytes + view.counts.bytes);
        for standing in [
            Standing::Visible,
            Standing::Leased,
            Standing::Delayed,
            Standing::Blocked,
            Standing::Due,
        ] {
            let shown = peek_all(stage, name, standing, 3);
            assert_eq!(shown, queue.peek(standing, model.now), "{standing:?} of {name}");
        }
        let mut jobs = stage.state.redrives(ACCOUNT, name).expect("the queue is there");
        jobs.reverse();
        assert_eq!(jobs, queue.jobs, "redrives of {name}");
        assert_eq!(view.row.paused, queue.paused);
        assert_eq!(view.dead_letters_refused_at, queue.refused_since());
        let next = queue.next_change(model.now).filter(|_| !queue.paused);
        assert_eq!(next_visible(&stage.state, name), next);
        for later in [0, 1_000_000, 40_000_000] {
            let at = LogTime(model.now.0 + later);
            let visible = if queue.paused { 0 } else { queue.counts(at).visible };
            assert_eq!(stage.state.visible(ACCOUNT, name, at), Ok(visible));
        }
    }
    let (quota, queues) = (model.quota, model.queues.len() as u64);
    let deleted_queues = model.kept.len() as u64;
    let (name, held) = (ACCOUNT.to_owned(), Held { messages, bytes });
    let account = AccountView { name, quota, queues, deleted_queues, held };
    assert_eq!(stage.state.account(ACCOUNT), account);
    let kept = model.kept.iter().filter(|queue| queue.gone.is_some_and(|(_, at)| at > model.now));
    let mut kept: Vec<_> = kept.map(|queue| (queue.name.clone(), queue.id)).collect();
    kept.sort();
    let (deleted, _) = stage.state.deleted_queues(ACCOUNT, "", None, 1_000);
    let deleted: Vec<_> = deleted.into_iter().map(|view| (view.row.name, view.row.id)).collect();
    assert_eq!(deleted, kept);
    assert_eq!(stage.state.totals(), (model.queues.len() as u64, messages, bytes));
}

fn play(entries: &[(usize, Vec<Sent>)]) {
    let (mut stage, mut model, mut player) = (Stage::new(), Model::new(), Player::default());
    for (turn, (wait, sent)) in entries.iter().enumerate() {
        let stamp = LogTime(stage.state.log_time().0 + secs(SPANS[*wait]).0 / 2);
        let commands: Vec<Envelope> = sent.iter().map(|sent| player.envelope(sent)).collect();
        let entry = stage.entry(stamp, commands);
        let applied = stage.apply_entry(&entry);
        assert_eq!(applied.outcomes, model.apply(&entry), "outcomes of {entry:?}");
        for (envelope, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            player.remember(&envelope.command, outcome);
        }
        compare(&stage, &model);
        stage.check();
        if turn % 7 == 6 {
            let changes = stage.state.reclaim(5);
            stage.record(&changes);
            stage.check();
        }
        if turn % 11 == 10 {
            stage.state = stage.reload();
        }
    }
    stage.reclaim_all();
    stage.check();
    assert_eq!(stage.table.keys().copied().collect::<Vec<_>>(), stage.state.row_keys());
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn a_random_run_agrees_with_the_naive_model_and_with_its_own_rows(
        entries in prop::collection::vec(entry(), 1..100),
    ) {
        play(&entries);
    }
}
