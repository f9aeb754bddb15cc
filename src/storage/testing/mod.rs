//! Arbitrary entries, keys and rows for the tests of this room, and random runs.

mod region;
pub mod run;

pub(super) use region::replay;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::queue::command::{
    AccountQuota, BackOff, Command, Content, DeadLetters, Entry, Envelope, NewMessage, Quota,
    Receive, Redrive, RedriveFilter, ReleaseAfter, SessionTag, Settings, StringMap, TimeToLive,
    Transact, Update,
};
use crate::queue::error::Rejection;
use crate::queue::ids::{
    ContentId, Digest, Epoch, LogTime, MessageId, Number, Position, QueueId, Receipt, Span,
};
use crate::queue::note::{Dead, DeadReason, Note, Redriven};
use crate::queue::outcome::{DeleteOutcome, Granted, Outcome, ReleaseOutcome, Reply, Sent};
use crate::queue::redrive::{Progress, Tally};
use crate::queue::rows::{
    AccountName, AccountRow, ChunkRow, CountersRow, Deleted, KeyRow, MessageRow, QueueRow,
    RedriveRow, Row, RowKey, SessionRow, Untouched,
};
use crate::storage::disk::faulty::FaultyDisk;

/// Cuts the power at the `n`th moment from now: in turn in the middle of a write, a rename or
/// the like, and before a sync. Where `n` and `n + 1` cut nothing, no later one does.
pub(super) fn cut_power_at(disk: &FaultyDisk, n: u64) {
    if n.is_multiple_of(2) {
        disk.kill_at_write(n / 2 + 1);
    } else {
        disk.kill_at_sync(n / 2 + 1);
    }
}

fn number() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![0u64..5, any::<u64>(), Just(u64::MAX)]
}

fn time() -> impl Strategy<Value = LogTime> + Clone {
    number().prop_map(LogTime)
}

fn span() -> impl Strategy<Value = Span> + Clone {
    number().prop_map(Span)
}

fn id() -> impl Strategy<Value = MessageId> + Clone {
    (any::<u32>(), number())
        .prop_map(|(epoch, number)| MessageId { epoch: Epoch(epoch), number: Number(number) })
}

fn receipt() -> impl Strategy<Value = Receipt> + Clone {
    (any::<u32>(), number()).prop_map(|(epoch, counter)| Receipt { epoch: Epoch(epoch), counter })
}

fn map() -> impl Strategy<Value = StringMap> + Clone {
    prop::collection::btree_map("[a-zA-Z]{0,3}", "\\PC{0,4}", 0..3)
}

fn settings() -> BoxedStrategy<Settings> {
    let dead_letters = ("[a-z]{0,4}", any::<u32>())
        .prop_map(|(queue, max_deliveries)| DeadLetters { queue, max_deliveries });
    let back_off = (span(), span(), any::<u32>()).prop_map(|(first, most, factor)| BackOff {
        first,
        most,
        factor,
    });
    let back_off = prop_oneof![Just(BackOff::default()), back_off];
    let dead = (prop::option::of(dead_letters), prop::option::of(span()), back_off, span(), span());
    let quota = (prop::option::of(number()), prop::option::of(number()));
    (prop::option::of(span()), span(), any::<u32>(), dead, quota)
        .prop_map(|(default_ttl, default_visibility, max_message_bytes, dead, quota)| Settings {
            default_ttl,
            default_visibility,
            max_message_bytes,
            dead_letters: dead.0,
            dead_letter_ttl: dead.1,
            back_off: dead.2,
            deduplication_window: dead.3,
            undelete_window: dead.4,
            quota: Quota { messages: quota.0, bytes: quota.1 },
        })
        .boxed()
}

fn content() -> impl Strategy<Value = Content> + Clone {
    (prop::collection::vec(any::<u8>(), 0..200), map())
        .prop_map(|(body, headers)| Content { body: Bytes::from(body), headers })
}

fn message() -> impl Strategy<Value = NewMessage> + Clone {
    let ttl = prop_oneof![
        Just(TimeToLive::Default),
        Just(TimeToLive::Never),
        span().prop_map(TimeToLive::For)
    ];
    let few = (any::<u8>(), prop::option::of(any::<u128>()), prop::option::of("[a-z]{1,4}"));
    (content(), span(), ttl, few).prop_map(|(content, delay, ttl, few)| NewMessage {
        content,
        delay,
        ttl,
        priority: few.0,
        key: few.1.map(Box::new),
        group: few.2.map(Into::into),
    })
}

fn release_after() -> impl Strategy<Value = ReleaseAfter> {
    prop_oneof![
        Just(ReleaseAfter::Now),
        span().prop_map(ReleaseAfter::Delay),
        Just(ReleaseAfter::BackOff)
    ]
}

fn redrive() -> BoxedStrategy<Redrive> {
    let some = || prop::option::of("[a-z]{1,4}");
    let reason = prop::option::of(Just(DeadReason::MaxDeliveries));
    let times = (prop::option::of(time()), prop::option::of(time()));
    let ids = prop::collection::btree_set(id(), 0..3);
    let filter = (some(), reason, times, some(), ids).prop_map(
        |(source, reason, (dead_since, dead_before), group, ids)| RedriveFilter {
            source,
            reason,
            dead_since,
            dead_before,
            group,
            ids,
        },
    );
    ("[a-z]{0,4}", some(), prop::option::of(any::<u32>()), filter)
        .prop_map(|(queue, target, rate, filter)| Redrive { queue, target, rate, filter })
        .boxed()
}

fn account_quota() -> impl Strategy<Value = AccountQuota> {
    let most = || prop::option::of(number());
    (most(), most(), most()).prop_map(|(messages, bytes, queues)| AccountQuota {
        messages,
        bytes,
        queues,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let name = "[a-z]{0,5}";
    prop_oneof![
        (name, map(), settings()).prop_map(|(name, metadata, settings)| Command::CreateQueue {
            name,
            metadata,
            settings: Box::new(settings)
        }),
        name.prop_map(|name| Command::DeleteQueue { name }),
        (name, map()).prop_map(|(name, metadata)| Command::SetMetadata { name, metadata }),
        (name, settings()).prop_map(|(name, settings)| Command::SetSettings {
            name,
            settings: Box::new(settings)
        }),
        (name, any::<bool>()).prop_map(|(name, paused)| Command::SetPaused { name, paused }),
        (name, prop::collection::vec(message(), 0..4))
            .prop_map(|(queue, messages)| Command::Send { queue, messages }),
        (name, any::<u32>(), any::<u32>(), prop::option::of(span())).prop_map(
            |(queue, max_messages, max_bytes, visibility)| Command::Receive(Receive {
                queue,
                max_messages,
                max_bytes,
                visibility
            })
        ),
        (name, id(), receipt(), prop::option::of(span()), prop::option::of(content())).prop_map(
            |(queue, id, receipt, visibility, content)| Command::Update(Update {
                queue,
                id,
                receipt,
                visibility,
                content
            })
        ),
        (name, prop::collection::vec((id(), receipt()), 0..4))
            .prop_map(|(queue, items)| Command::Delete { queue, items }),
        (name, prop::collection::vec((id(), receipt()), 0..4), release_after())
            .prop_map(|(queue, items, after)| Command::Release { queue, items, after }),
        (
            prop::collection::vec((name, id(), receipt()), 0..3),
            prop::collection::vec((name, prop::collection::vec(message(), 0..3)), 0..3),
        )
            .prop_map(|(deletes, sends)| Command::Transact(Transact { deletes, sends })),
        name.prop_map(|queue| Command::Clear { queue }),
        Just(Command::Pulse),
        (name, prop::option::of(number()), prop::option::of("[a-z]{1,4}")).prop_map(
            |(name, id, new_name)| Command::UndeleteQueue { name, id: id.map(QueueId), new_name }
        ),
        redrive().prop_map(|asked| Command::StartRedrive(Box::new(asked))),
        (name, id()).prop_map(|(queue, id)| Command::CancelRedrive { queue, id }),
        account_quota().prop_map(Command::SetAccountQuota),
        any::<u32>().prop_map(|version| Command::RaiseRules { version }),
        region::plain_region_command(),
        replay().prop_map(|part| Command::ReplayTail(Box::new(part))),
    ]
}

pub(super) fn entry() -> BoxedStrategy<Entry> {
    let session =
        (any::<u128>(), number(), number()).prop_map(|(client, sequence, lowest_unanswered)| {
            SessionTag { client, sequence, lowest_unanswered }
        });
    let envelope = (prop::option::of(session), "[a-z]{0,5}", command())
        .prop_map(|(session, account, command)| Envelope { session, account, command });
    let position = (number(), number(), number()).prop_map(|(term, node, index)| Position {
        term,
        node,
        index,
    });
    (position, time(), any::<u32>(), prop::collection::vec(envelope, 0..5))
        .prop_map(|(position, stamp, epoch, commands)| Entry {
            position,
            stamp,
            epoch: Epoch(epoch),
            commands,
        })
        .boxed()
}

/// An entry of one command about regions, which may carry entries.
pub(super) fn region_entry() -> impl Strategy<Value = Entry> {
    (entry(), region::region_command()).prop_map(|(mut entry, command)| {
        entry.commands = vec![Envelope { session: None, account: String::new(), command }];
        entry
    })
}

fn account_name() -> impl Strategy<Value = AccountName> {
    "[a-z0-9]{3,24}".prop_map(|name| AccountName::new(&name).expect("a name"))
}

pub(super) fn row_key() -> impl Strategy<Value = RowKey> {
    prop_oneof![
        Just(RowKey::Counters),
        number().prop_map(|id| RowKey::Queue(QueueId(id))),
        (number(), any::<u8>(), number()).prop_map(|(queue, priority, first)| RowKey::Chunk {
            queue: QueueId(queue),
            priority,
            first: Number(first)
        }),
        (number(), number()).prop_map(|(queue, number)| RowKey::Message {
            queue: QueueId(queue),
            number: Number(number)
        }),
        any::<u128>().prop_map(RowKey::Session),
        (number(), any::<u128>())
            .prop_map(|(queue, key)| RowKey::Key { queue: QueueId(queue), key }),
        Just(RowKey::Authority),
        number().prop_map(RowKey::Audit),
        (number(), number()).prop_map(|(queue, number)| RowKey::Redrive {
            queue: QueueId(queue),
            number: Number(number)
        }),
        account_name().prop_map(RowKey::Account),
    ]
}

fn sent() -> BoxedStrategy<Sent> {
    (id(), receipt(), time(), prop::option::of(time()), time(), any::<bool>())
        .prop_map(|(id, receipt, inserted_at, expires_at, visible_at, duplicate)| Sent {
            id,
            receipt,
            inserted_at,
            expires_at,
            visible_at,
            duplicate,
        })
        .boxed()
}

fn note() -> BoxedStrategy<Arc<Note>> {
    let times = || prop::option::of((time(), time()));
    let dead = ("[a-z]{0,4}", time(), number(), any::<u32>(), times()).prop_map(
        |(source, at, arrived, deliveries, received)| Dead {
            reason: DeadReason::MaxDeliveries,
            source,
            at,
            arrived: Number(arrived),
            deliveries,
            received,
        },
    );
    let redriven = (id(), "[a-z]{0,4}", prop::option::of(id()));
    let redriven =
        redriven.prop_map(|(id, queue, first)| Redriven { id, queue: queue.into(), first });
    let few = (prop::option::of("[a-z]{1,4}"), prop::option::of(redriven));
    (times(), prop::option::of(dead), few)
        .prop_map(|(received, dead, (group, redriven))| {
            Arc::new(Note { received, dead, group: group.map(Into::into), redriven })
        })
        .boxed()
}

fn granted() -> BoxedStrategy<Granted> {
    let times = (time(), prop::option::of(time()), time());
    let few = (any::<u8>(), prop::option::of(note()));
    (id(), receipt(), number(), times, any::<u32>(), few)
        .prop_map(|(id, receipt, content, times, dequeue_count, (priority, note))| {
            let (inserted_at, expires_at, visible_at) = times;
            Granted {
                id,
                receipt,
                content: ContentId(content),
                inserted_at,
                expires_at,
                visible_at,
                dequeue_count,
                priority,
                note,
            }
        })
        .boxed()
}

fn reply() -> BoxedStrategy<Reply> {
    let deleted = prop_oneof![
        Just(DeleteOutcome::Deleted),
        Just(DeleteOutcome::MessageNotFound),
        Just(DeleteOutcome::ReceiptMismatch)
    ];
    let released = prop_oneof![
        time().prop_map(|visible_at| ReleaseOutcome::Released { visible_at }),
        Just(ReleaseOutcome::MessageNotFound),
        Just(ReleaseOutcome::ReceiptMismatch)
    ];
    prop_oneof![
        any::<bool>().prop_map(|created| Reply::QueueCreated { created }),
        Just(Reply::QueueDeleted),
        Just(Reply::MetadataSet),
        Just(Reply::SettingsSet),
        Just(Reply::PausedSet),
        prop::collection::vec(sent(), 0..3).prop_map(Reply::Sent),
        (prop::collection::vec(granted(), 0..3), any::<bool>())
            .prop_map(|(messages, more)| Reply::Received { messages, more }),
        (receipt(), time())
            .prop_map(|(receipt, visible_at)| Reply::Updated { receipt, visible_at }),
        prop::collection::vec(deleted, 0..4).prop_map(Reply::Deleted),
        prop::collection::vec(released, 0..4).prop_map(Reply::Released),
        prop::collection::vec(sent(), 0..3).prop_map(Reply::Transacted),
        number().prop_map(|removed| Reply::Cleared { removed }),
        any::<bool>().prop_map(|more| Reply::Pulsed { more }),
        Just(Reply::RulesRaised),
        Just(Reply::QueueUndeleted),
        (id(), any::<bool>()).prop_map(|(id, started)| Reply::RedriveStarted { id, started }),
        any::<bool>().prop_map(|cancelled| Reply::RedriveCancelled { cancelled }),
        Just(Reply::AccountQuotaSet),
    ]
    .boxed()
}

fn rejection() -> BoxedStrategy<Rejection> {
    let text = "[a-z]{0,4}";
    prop_oneof![
        (text, text, text).prop_map(|(field, problem, allowed)| Rejection::InvalidArgument {
            field,
            problem,
            allowed
        }),
        text.prop_map(Rejection::QueueNotFound),
        text.prop_map(Rejection::QueueExists),
        (text, text).prop_map(|(queue, of)| Rejection::QueueInUse { queue, of }),
        (text, text).prop_map(|(queue, id)| Rejection::MessageNotFound { queue, id }),
        text.prop_map(|id| Rejection::ReceiptMismatch { id }),
        (text, number()).prop_map(|(what, limit)| Rejection::LimitReached { what, limit }),
        (text, number()).prop_map(|(what, limit)| Rejection::Full { what, limit }),
        (text, text).prop_map(|(queue, id)| Rejection::RedriveRunning { queue, id }),
        (text, text).prop_map(|(queue, id)| Rejection::RedriveNotFound { queue, id }),
        Just(Rejection::SessionEnded),
        (any::<u32>(), any::<u32>())
            .prop_map(|(seen, current)| Rejection::WrongEpoch { seen, current }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(asked, known)| Rejection::UnknownRules { asked, known }),
    ]
    .boxed()
}

fn outcome() -> BoxedStrategy<Outcome> {
    prop_oneof![reply().prop_map(Ok), rejection().prop_map(Err)].boxed()
}

fn counters_row() -> impl Strategy<Value = CountersRow> {
    (time(), any::<u32>(), any::<u32>(), number(), number(), any::<u128>(), number()).prop_map(
        |(log_time, epoch, rules, next_number, next_queue, digest, authority)| CountersRow {
            log_time,
            epoch: Epoch(epoch),
            rules,
            next_number,
            next_queue,
            digest: Digest(digest),
            authority,
        },
    )
}

fn queue_row() -> BoxedStrategy<QueueRow> {
    let names = (number(), "[a-z]{0,4}", "[a-z]{0,4}", map(), settings());
    let refused = prop::option::of((number().prop_map(Number), time()));
    let kept = prop::option::of((time(), time()).prop_map(|(at, until)| Deleted { at, until }));
    let standing = (time(), number(), any::<bool>(), any::<bool>(), refused, kept);
    (names, standing)
        .prop_map(|((id, account, name, metadata, settings), standing)| {
            let (created_at, cleared_below, deleted, paused, dead_letter_refused, kept) = standing;
            QueueRow {
                id: QueueId(id),
                account,
                name,
                metadata,
                settings,
                created_at,
                cleared_below: Number(cleared_below),
                deleted,
                paused,
                dead_letter_refused,
                kept,
            }
        })
        .boxed()
}

fn chunk_row() -> BoxedStrategy<ChunkRow> {
    let message = (number(), time(), prop::option::of(time()), any::<u32>()).prop_map(
        |(number, inserted_at, expires_at, size)| Untouched {
            number: Number(number),
            inserted_at,
            expires_at,
            size,
        },
    );
    (number(), any::<u8>(), number(), any::<u32>(), prop::collection::vec(message, 0..20))
        .prop_map(|(queue, priority, first, epoch, messages)| ChunkRow {
            queue: QueueId(queue),
            priority,
            first: Number(first),
            epoch: Epoch(epoch),
            messages,
        })
        .boxed()
}

fn message_row() -> BoxedStrategy<MessageRow> {
    let ids = (number(), number(), any::<u32>(), any::<u8>(), number(), any::<u32>());
    let times = (time(), prop::option::of(time()), time(), any::<u32>(), receipt());
    let few = (any::<bool>(), any::<bool>(), prop::option::of(note()));
    (ids, times, few)
        .prop_map(|(ids, times, (last, released, note))| {
            let (queue, number, epoch, priority, content, size) = ids;
            let (inserted_at, expires_at, visible_at, dequeue_count, receipt) = times;
            MessageRow {
                queue: QueueId(queue),
                number: Number(number),
                epoch: Epoch(epoch),
                priority,
                inserted_at,
                expires_at,
                visible_at,
                dequeue_count,
                receipt,
                content: ContentId(content),
                size,
                last,
                released,
                note,
            }
        })
        .boxed()
}

fn session_row() -> BoxedStrategy<SessionRow> {
    (any::<u128>(), time(), number(), prop::collection::vec((number(), outcome()), 0..5))
        .prop_map(|(client, last_used, forgotten_through, outcomes)| SessionRow {
            client,
            last_used,
            forgotten_through,
            outcomes,
        })
        .boxed()
}

fn key_row() -> impl Strategy<Value = KeyRow> {
    (number(), any::<u128>(), id(), time(), time()).prop_map(|(queue, key, id, sent_at, until)| {
        KeyRow { queue: QueueId(queue), key, id, sent_at, until }
    })
}

fn redrive_row() -> BoxedStrategy<RedriveRow> {
    let progress =
        prop_oneof![Just(Progress::Running), Just(Progress::Done), Just(Progress::Cancelled)];
    let times = (time(), prop::option::of(time()), time());
    let tally = (number(), number(), number()).prop_map(|(moved, held, refused)| Tally {
        moved,
        held,
        refused,
    });
    let ids = (number(), number(), any::<u32>(), number());
    (ids, redrive(), times, progress, tally)
        .prop_map(|(ids, asked, times, progress, tally)| {
            let (queue, number, epoch, looked_through) = ids;
            let (started_at, ended_at, next_step) = times;
            RedriveRow {
                queue: QueueId(queue),
                number: Number(number),
                epoch: Epoch(epoch),
                asked,
                started_at,
                progress,
                ended_at,
                looked_through: Number(looked_through),
                next_step,
                tally,
            }
        })
        .boxed()
}

pub(super) fn row() -> BoxedStrategy<Row> {
    prop_oneof![
        counters_row().prop_map(Row::Counters),
        queue_row().prop_map(Row::Queue),
        chunk_row().prop_map(Row::Chunk),
        message_row().prop_map(Row::Message),
        session_row().prop_map(Row::Session),
        key_row().prop_map(Row::Key),
        region::authority().prop_map(|row| Row::Authority(Box::new(row))),
        region::audit_row().prop_map(Row::Audit),
        redrive_row().prop_map(Row::Redrive),
        (account_name(), account_quota())
            .prop_map(|(name, quota)| Row::Account(AccountRow { name, quota })),
    ]
    .boxed()
}
