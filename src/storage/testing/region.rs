//! Arbitrary commands and rows about regions.

use std::sync::Arc;

use proptest::prelude::*;

use super::{content, entry, id, map, note, number, sent, span, time};
use crate::queue::authority::command::{
    Actor, Attach, Reconfigure, RegionCommand, RegionVerb, ShippedBatch, ShippedEntry,
};
use crate::queue::authority::lease::Leasing;
use crate::queue::authority::loss::{ForcedLoss, LostMessages, LostQueue};
use crate::queue::authority::replay::{
    ReplayTail, Replayed, TailQueue, TailSend, TailSession, TailUnit,
};
use crate::queue::authority::shape::{Outage, Shape, TraceStep};
use crate::queue::authority::{
    Attachment, AuditRow, Authority, Fork, Head, LedgerLine, RegionEpoch, RegionSettings, Rest,
    Role, TailFate,
};
use crate::queue::command::{Command, Entry};
use crate::queue::ids::{Digest, Epoch, Number, Position, QueueId, Span};

fn name() -> BoxedStrategy<String> {
    "[a-z]{0,4}".boxed()
}

fn position() -> BoxedStrategy<Position> {
    (number(), number(), number())
        .prop_map(|(term, node, index)| Position { term, node, index })
        .boxed()
}

fn epoch() -> BoxedStrategy<RegionEpoch> {
    (any::<u32>(), name())
        .prop_map(|(number, region)| RegionEpoch { number: Epoch(number), region })
        .boxed()
}

fn line() -> BoxedStrategy<LedgerLine> {
    (epoch(), prop::option::of(position()), prop::option::of(position()), number())
        .prop_map(|(epoch, previous, first, next_number)| LedgerLine {
            epoch,
            previous,
            first,
            next_number,
        })
        .boxed()
}

fn head() -> BoxedStrategy<Head> {
    (position(), time()).prop_map(|(position, log_time)| Head { position, log_time }).boxed()
}

fn fork() -> BoxedStrategy<Option<Fork>> {
    let fork = (prop::option::of(position()), number())
        .prop_map(|(after, next_number)| Fork { after, next_number });
    prop::option::of(fork).boxed()
}

fn shape() -> BoxedStrategy<Shape> {
    let outage = (span(), span(), prop::option::of(span()))
        .prop_map(|(after, lasts, every)| Outage { after, lasts, every });
    let step = (span(), span(), prop::option::of(number()), any::<bool>()).prop_map(
        |(at, delay, bytes_per_second, is_down)| TraceStep { at, delay, bytes_per_second, is_down },
    );
    let line = (span(), span(), prop::option::of(number()), any::<bool>(), time());
    let (outages, trace) = (prop::collection::vec(outage, 0..3), prop::collection::vec(step, 0..3));
    (line, outages, trace, prop::option::of(span()))
        .prop_map(|(line, outages, trace, trace_repeats)| {
            let (delay, jitter, bytes_per_second, paused, since) = line;
            Shape { delay, jitter, bytes_per_second, paused, since, outages, trace, trace_repeats }
        })
        .boxed()
}

fn settings() -> BoxedStrategy<RegionSettings> {
    let shape = shape();
    let limits = (prop::option::of(span()), prop::option::of(number()), prop::option::of(span()));
    (any::<bool>(), any::<bool>(), shape, limits)
        .prop_map(|(read_access, throttle, shape, (max_lag, max_unshipped_bytes, lease))| {
            RegionSettings { read_access, shape, max_lag, max_unshipped_bytes, throttle, lease }
        })
        .boxed()
}

fn batch(inner: BoxedStrategy<Vec<Entry>>) -> BoxedStrategy<ShippedBatch> {
    let ends = (prop::option::of(position()), position(), prop::option::of(epoch()));
    (any::<u128>(), line(), ends, head(), inner)
        .prop_map(|(attachment, line, (after, through, release), head, entries)| ShippedBatch {
            attachment,
            line,
            after,
            through,
            release,
            head,
            entries: entries.into_iter().map(with_bytes).collect(),
        })
        .boxed()
}

/// As it comes from the other region.
fn with_bytes(mut entry: Entry) -> ShippedEntry {
    let encoded = crate::storage::codec::encode_entry(&mut entry);
    ShippedEntry { entry, encoded }
}

/// `inner` are the entries of a shipped batch: none where one lies in another.
fn verb(inner: BoxedStrategy<Vec<Entry>>) -> BoxedStrategy<RegionVerb> {
    let wide = any::<u128>;
    let low = || any::<u32>().prop_map(Epoch);
    let begin = prop_oneof![
        (name(), wide(), wide(), name()).prop_map(|(region, lineage, attachment, peer)| {
            RegionVerb::Protect { region, lineage, attachment, peer }
        }),
        Just(RegionVerb::Unprotect),
        (name(), wide(), wide(), prop::collection::vec(line(), 0..3)).prop_map(
            |(region, lineage, attachment, ledger)| {
                let (reseed, discard_tail) = (lineage % 2 == 1, attachment % 2 == 1);
                RegionVerb::Attach(Attach {
                    region,
                    lineage,
                    attachment,
                    ledger,
                    reseed,
                    discard_tail,
                    lease: reseed.then_some(Span(u64::try_from(attachment >> 64).unwrap_or(1))),
                })
            }
        ),
        Just(RegionVerb::Detach),
        settings().prop_map(RegionVerb::Configure),
        (settings(), settings()).prop_map(|(before, after)| {
            RegionVerb::Reconfigure(Box::new(Reconfigure { before, after }))
        }),
        any::<bool>().prop_map(|on| RegionVerb::SetGranting { on }),
        (wide(), any::<u32>(), prop::option::of(span())).prop_map(|(attachment, epoch, lease)| {
            RegionVerb::AcceptLease { attachment, epoch: Epoch(epoch), lease }
        }),
        (wide(), prop::option::of(span()))
            .prop_map(|(attachment, lease)| RegionVerb::RelyOnLease { attachment, lease }),
        wide().prop_map(|lineage| RegionVerb::Renew { lineage }),
        Just(RegionVerb::Wipe),
    ];
    let failover = prop_oneof![
        Just(RegionVerb::Seal),
        Just(RegionVerb::Unseal),
        (epoch(), position(), position())
            .prop_map(|(to, seal, acknowledged)| RegionVerb::Release { to, seal, acknowledged }),
        low().prop_map(|number| RegionVerb::Decline { number }),
        low().prop_map(|number| RegionVerb::Declined { number }),
        (low(), any::<bool>(), prop::option::of(position())).prop_map(promote),
        low().prop_map(|number| RegionVerb::TakeBack { number }),
        (wide(), prop::collection::vec(line(), 0..3))
            .prop_map(|(lineage, ledger)| RegionVerb::Fence { lineage, ledger }),
        (name(), low()).prop_map(|(keep, number)| RegionVerb::Resolve { keep, number }),
        wide().prop_map(|attachment| RegionVerb::SeedDrop { attachment }),
        Just(RegionVerb::SeedFree),
        name().prop_map(|what| RegionVerb::Note { what }),
        (epoch(), fate()).prop_map(|(epoch, fate)| RegionVerb::SettleTail { epoch, fate }),
        (wide(), wide(), number(), wide()).prop_map(|(attachment, id, chunks, digest)| {
            RegionVerb::SeedCommit { attachment, id, chunks, digest: Digest(digest) }
        }),
        (
            (wide(), wide(), position()),
            prop::collection::vec(line(), 0..3),
            prop::collection::vec(replayed(), 0..2)
        )
            .prop_map(|((attachment, id, position), ledger, replayed)| {
                let base = (id % 2 == 1).then_some(Digest(id));
                let resumes = (id % 3 == 1).then_some(attachment);
                RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes }
            }),
        (wide(), low(), position()).prop_map(|(attachment, epoch, position)| {
            RegionVerb::RecordShipped { attachment, epoch, position }
        }),
    ];
    prop_oneof![begin, failover, batch(inner).prop_map(RegionVerb::ApplyShipped)].boxed()
}

fn command(inner: BoxedStrategy<Vec<Entry>>) -> BoxedStrategy<Command> {
    (name(), number(), verb(inner))
        .prop_map(|(who, at_us, verb)| {
            let by = Actor { who, at_us };
            Command::Region(Box::new(RegionCommand { by, verb }))
        })
        .boxed()
}

/// A command about regions; a shipped batch in it carries entries.
pub(super) fn region_command() -> BoxedStrategy<Command> {
    command(prop::collection::vec(entry(), 0..3).boxed()).boxed()
}

/// One that carries nothing.
pub(super) fn plain_region_command() -> BoxedStrategy<Command> {
    command(Just(Vec::new()).boxed()).boxed()
}

fn fate() -> BoxedStrategy<TailFate> {
    let all = [TailFate::Replayed, TailFate::Exported, TailFate::Discarded];
    prop::sample::select(all.to_vec()).boxed()
}

fn replayed() -> BoxedStrategy<Replayed> {
    (epoch(), number(), number(), number(), any::<bool>())
        .prop_map(|(epoch, through, sent, skipped, done)| Replayed {
            epoch,
            through: Number(through),
            sent,
            skipped,
            done,
        })
        .boxed()
}

fn tail_unit() -> BoxedStrategy<TailUnit> {
    let answer = prop::collection::vec(sent(), 0..3);
    let session = (any::<u128>(), number(), any::<bool>(), answer, prop::option::of(any::<bool>()))
        .prop_map(|(client, sequence, transacted, answer, ran)| TailSession {
            client,
            sequence,
            transacted,
            answer,
            ran,
        });
    let times = (prop::option::of(time()), time());
    let few = (any::<u8>(), prop::option::of(any::<u128>()), prop::option::of(note()));
    let message = (any::<u32>(), id(), content(), times, few).prop_map(
        |(queue, id, content, (expires_at, visible_at), (priority, key, note))| {
            let note = note.map(|it| (*it).clone()).unwrap_or_default();
            TailSend { queue, id, content, priority, expires_at, visible_at, key, note }
        },
    );
    (prop::option::of(session), prop::collection::vec(message, 0..3))
        .prop_map(|(session, messages)| TailUnit { session, messages })
        .boxed()
}

/// A part of a tail.
pub(in crate::storage) fn replay() -> BoxedStrategy<ReplayTail> {
    let make = prop::option::of((map(), super::settings()).prop_map(Box::new));
    let queue = (number(), name(), name(), time(), make).prop_map(
        |(id, account, name, created_at, make)| TailQueue {
            id: QueueId(id),
            account,
            name,
            created_at,
            make,
        },
    );
    let by = (name(), number()).prop_map(|(who, at_us)| Actor { who, at_us });
    let ends = (epoch(), number(), number(), any::<bool>(), number(), any::<bool>());
    let (queues, units) =
        (prop::collection::vec(queue, 0..3), prop::collection::vec(tail_unit(), 0..3));
    (by, ends, queues, units)
        .prop_map(|(by, (epoch, after, through, last, first, all), queues, units)| {
            let (after, through, first) = (Number(after), Number(through), Number(first));
            let ended_at = crate::queue::ids::LogTime(first.0 / 2);
            ReplayTail { by, epoch, after, through, last, first, ended_at, all, queues, units }
        })
        .boxed()
}

fn role() -> BoxedStrategy<Role> {
    prop_oneof![
        Just(Role::Standalone),
        Just(Role::Primary),
        position().prop_map(|at| Role::Sealed { at }),
        (epoch(), position()).prop_map(|(to, at)| Role::Released { to, at }),
        Just(Role::Secondary),
        (epoch(), fork(), position()).prop_map(|(by, fork, at)| Role::Fenced { by, fork, at }),
        (name(), fork(), position()).prop_map(|(with, fork, at)| Role::Conflict { with, fork, at }),
        Just(Role::Detached),
    ]
    .boxed()
}

fn leasing() -> BoxedStrategy<Leasing> {
    let stopped = prop::option::of(position());
    (prop::option::of(span()), prop::option::of(span()), stopped)
        .prop_map(|(in_force, longest, stopped)| Leasing { in_force, longest, stopped })
        .boxed()
}

pub(super) fn authority() -> BoxedStrategy<Authority> {
    let rest = (number(), prop::option::of(number()));
    let attachment = (any::<u128>(), name()).prop_map(|(id, peer)| Attachment { id, peer });
    let who = (number(), any::<u128>(), name(), role(), prop::option::of(attachment));
    let epochs = (epoch(), epoch(), any::<u32>(), prop::collection::vec(line(), 0..3));
    let ends = (prop::option::of(position()), prop::option::of(position()), leasing());
    let rest = prop::collection::vec(rest.prop_map(|(after, until)| Rest { after, until }), 0..3);
    let heads = (prop::option::of(head()), any::<bool>());
    let tails = (prop::collection::vec(replayed(), 0..3), prop::option::of(fate()));
    (who, epochs, ends, heads, rest, settings(), number(), tails)
        .prop_map(|(who, epochs, ends, heads, rests, settings, next_audit, tails)| {
            let ((head, is_complete), (replayed, tail)) = (heads, tails);
            let (revision, lineage, region, role, attachment) = who;
            let (epoch, seen, declined, ledger) = epochs;
            let (applied_through, shipped, leasing) = ends;
            Authority {
                revision,
                lineage,
                region,
                role,
                epoch,
                seen,
                declined: Epoch(declined),
                ledger,
                attachment,
                applied_through,
                shipped,
                leasing,
                head,
                is_complete,
                seeding: None,
                rests,
                settings,
                next_audit,
                replayed,
                tail,
                loss: (next_audit % 3 == 1)
                    .then(|| Arc::new(forced_loss(Epoch(declined), is_complete))),
                high_contents: next_audit % 2 == 1,
            }
        })
        .boxed()
}

pub(super) fn audit_row() -> BoxedStrategy<AuditRow> {
    (number(), number(), time(), name(), name(), epoch())
        .prop_map(|(number, at_us, log_time, who, what, epoch)| AuditRow {
            number,
            at_us,
            log_time,
            who,
            what,
            epoch,
        })
        .boxed()
}

fn promote((number, accepted, stopped): (Epoch, bool, Option<Position>)) -> RegionVerb {
    let loss = accepted.then(|| Arc::new(forced_loss(number, stopped.is_some())));
    RegionVerb::Promote { number, accepted, stopped, loss }
}

/// With all of its fields, or with few.
fn forced_loss(number: Epoch, is_known: bool) -> ForcedLoss {
    let queue = |messages| LostQueue {
        account: "default".to_owned(),
        queue: "orders".to_owned(),
        messages,
    };
    let messages = LostMessages {
        queues: vec![queue(3), queue(u64::from(number.0))],
        more_queues: 2,
        more_messages: 9,
    };
    ForcedLoss {
        epoch: RegionEpoch { number, region: "west".to_owned() },
        entries: is_known.then_some(7),
        time: is_known.then_some(Span(1_000)),
        age: is_known.then_some(Span(2_000)),
        messages: is_known.then_some(messages),
        bytes_at_most: is_known.then_some(1 << 20),
        is_complete: is_known,
    }
}
