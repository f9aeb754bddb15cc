//! `zoneq region lease`: what an operator sets about the line between the regions, and how the
//! status shows it.

use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};

use super::seconds;
use crate::cli::output::counted;
use crate::cli::parse_span;
use crate::client::Regions;
use crate::proto::admin::v1 as pb;

#[derive(Debug, Args)]
pub struct Lease {
    /// How long a grant lasts, 1s to 30s; `off` for no lease
    #[arg(value_parser = parse_lease, value_name = "SPAN|off")]
    lease: Setting,
    /// Turn it off without the other region's word: it may have been promoted
    #[arg(long, env = "ZONEQ_REGION_LEASE_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,
}

/// A span that may be none.
#[derive(Clone, Copy, Debug)]
enum Setting {
    Off,
    Span(Duration),
}

fn parse_lease(text: &str) -> Result<Setting, String> {
    match text {
        "off" => Ok(Setting::Off),
        span => parse_span(span).map(Setting::Span),
    }
}

impl Lease {
    pub async fn run(self, regions: &Regions) -> anyhow::Result<(Value, String)> {
        let lease = match self.lease {
            Setting::Off => None,
            Setting::Span(span) => Some(span),
        };
        let in_force = regions.set_lease(lease, self.force).await?;
        let text = match (lease, in_force) {
            (Some(span), true) => format!(
                "from now on nothing is acknowledged without a grant of the other region for {} s",
                span.as_secs_f64()
            ),
            (Some(_), false) => {
                "set; it is relied on as soon as the other region is reached and agrees".to_owned()
            }
            (None, _) => "no region lease is relied on any more".to_owned(),
        };
        let seconds = lease.map(|span| span.as_secs_f64());
        let value = json!({
            "ok": true, "done": "lease", "lease_seconds": seconds, "in_force": in_force,
        });
        Ok((value, text))
    }
}

pub fn lease_json(lease: &pb::RegionLease) -> Value {
    json!({
        "wanted_seconds": seconds(lease.wanted.as_ref()),
        "in_force_seconds": seconds(lease.in_force.as_ref()),
        "left_seconds": seconds(lease.left.as_ref()),
        "longest_seconds": seconds(lease.longest.as_ref()),
        "stopped": lease.stopped,
    })
}

pub fn messages_lost(answer: &pb::ForceFailOverResponse) -> String {
    /// Queues that are named in a sentence; all are in the JSON.
    const NAMED: usize = 5;
    let Some(messages) = answer.messages_lost else { return String::new() };
    let mut named: Vec<String> = answer
        .queues_lost
        .iter()
        .take(NAMED)
        .map(|it| format!("{} of {}", it.messages, it.queue))
        .collect();
    let more = answer.queues_lost.len().saturating_sub(NAMED) as u64 + answer.more_queues;
    if more > 0 {
        let rest = answer.queues_lost.iter().skip(NAMED).map(|it| it.messages);
        let rest = rest.fold(answer.more_messages, u64::saturating_add);
        named.push(format!("and {rest} more in {}", counted(more, "queue")));
    }
    let named = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
    format!("{}{named}, ", counted(messages, "message"))
}

/// What is lost of each queue; nothing where that is not known.
pub fn queues_lost(answer: &pb::ForceFailOverResponse) -> Value {
    if answer.messages_lost.is_none() {
        return Value::Null;
    }
    let queue = |it: &pb::QueueLoss| json!({ "account": it.account, "queue": it.queue, "messages": it.messages });
    answer.queues_lost.iter().map(queue).collect()
}

/// What the newest promotion by force was known to lose, as one that is just made answers it.
fn as_answer(last: &pb::LastForced) -> pb::ForceFailOverResponse {
    pb::ForceFailOverResponse {
        entries_lost: last.entries_lost,
        time_lost: last.time_lost,
        heard_ago: last.heard_ago,
        complete: last.complete,
        promoted: true,
        messages_lost: last.messages_lost,
        queues_lost: last.queues_lost.clone(),
        bytes_lost_at_most: last.bytes_lost_at_most,
        more_queues: last.more_queues,
        more_messages: last.more_messages,
        ..pb::ForceFailOverResponse::default()
    }
}

pub fn last_forced_json(last: &pb::LastForced) -> Value {
    json!({
        "epoch": last.epoch.as_ref().map(|epoch| epoch.number),
        "entries_lost": last.entries_lost,
        "seconds_lost": seconds(last.time_lost.as_ref()),
        "heard_seconds_before": seconds(last.heard_ago.as_ref()),
        "complete": last.complete,
        "messages_lost": last.messages_lost,
        "queues_lost": queues_lost(&as_answer(last)),
        "more_queues": last.more_queues,
        "more_messages": last.more_messages,
        "bytes_lost_at_most": last.bytes_lost_at_most,
    })
}

/// What the newest promotion by force was known to lose, in the words of the status.
pub fn last_forced_said(last: &pb::LastForced) -> String {
    let epoch = last.epoch.as_ref().map_or(0, |epoch| epoch.number);
    let Some(entries) = last.entries_lost else {
        return format!("; what the promotion to epoch {epoch} by force lost was not known");
    };
    let messages = messages_lost(&as_answer(last));
    let time = seconds(last.time_lost.as_ref()).unwrap_or_default();
    format!(
        "; the promotion to epoch {epoch} by force was known to lose {entries} entries, \
         {messages}{time:.1} s"
    )
}

/// That nobody told which messages are lost, where it is so.
pub fn queues_unknown(answer: &pb::ForceFailOverResponse) -> String {
    match answer.messages_lost {
        Some(_) => String::new(),
        None => {
            "; which messages, of which queues, is not known since this node started".to_owned()
        }
    }
}

/// How far the clocks of the regions differ.
pub fn clock(answer: &pb::ForceFailOverResponse) -> String {
    let Some(ahead) = seconds(answer.clock_ahead.as_ref()) else {
        return "; how far the regions' clocks differ is not known".to_owned();
    };
    let (way, by) = if ahead < 0.0 { ("behind", -ahead) } else { ("ahead of", ahead) };
    let within = seconds(answer.clock_within.as_ref()).unwrap_or_default();
    format!("; the primary's clock was {by:.3} s {way} this region's, give or take {within:.3} s")
}

/// That the clocks of the regions differ by more than a second, where it is so.
pub fn clocks_apart(status: &pb::GetRegionResponse) -> String {
    const WORTH_TELLING: f64 = 1.0;
    let within = seconds(status.clock_within.as_ref()).unwrap_or_default();
    let Some(ahead) = seconds(status.clock_ahead.as_ref()) else { return String::new() };
    if ahead.abs() - within < WORTH_TELLING {
        return String::new();
    }
    let way = if ahead < 0.0 { "behind" } else { "ahead of" };
    let (peer, by) = (&status.peer, ahead.abs());
    format!("; the clock of {peer} is {by:.0} s {way} this region's")
}

/// Who was turned away lately, where somebody was.
pub fn turned_away(status: &pb::GetRegionResponse) -> String {
    let Some(stranger) = &status.stranger else { return String::new() };
    let ago = seconds(stranger.ago.as_ref()).unwrap_or_default();
    let region = &stranger.region;
    format!("; a cluster of region {region:?}, not of this pair, was turned away {ago:.0} s ago")
}

pub fn stranger_json(stranger: &pb::Stranger) -> Value {
    json!({ "region": stranger.region, "seconds_ago": seconds(stranger.ago.as_ref()) })
}

pub fn epoch_json(join: &pb::EpochJoin) -> Value {
    json!({
        "epoch": join.epoch.as_ref().map(|epoch| epoch.number),
        "region": join.epoch.as_ref().map(|epoch| &epoch.region),
        "previous": join.previous,
        "first": join.first,
    })
}

pub fn taken_json(taken: &pb::TailTaken) -> Value {
    json!({
        "epoch": taken.epoch.as_ref().map(|epoch| epoch.number),
        "region": taken.epoch.as_ref().map(|epoch| &epoch.region),
        "through": taken.through,
        "sent": taken.sent,
        "skipped": taken.skipped,
        "done": taken.done,
    })
}

/// The most that can be lost.
pub fn at_most(answer: &pb::ForceFailOverResponse) -> String {
    match answer.bytes_lost_at_most {
        Some(bytes) => format!(": at most {bytes} bytes of writes in all, by its limit"),
        None => ", and how much that is is not known".to_owned(),
    }
}

/// What a forced promotion waits for.
pub fn lease_wait(answer: &pb::ForceFailOverResponse) -> String {
    match seconds(answer.lease_wait.as_ref()) {
        Some(wait) if !answer.promoted => {
            format!("; it waits {wait:.2} s until the last region lease has run out")
        }
        _ => String::new(),
    }
}

pub fn place_json(place: &pb::LogPlace) -> Value {
    let epoch = place.epoch.as_ref();
    json!({
        "epoch": epoch.map(|epoch| epoch.number),
        "epoch_region": epoch.map(|epoch| &epoch.region),
        "index": place.index,
    })
}

/// How far the copy is behind, in the words of the status; what is not known is said to be so.
pub fn behind(status: &pb::GetRegionResponse) -> String {
    if super::status_name(status.status).is_none() {
        return String::new();
    }
    let mut behind: Vec<String> = Vec::new();
    behind.extend(status.entries_behind.map(|entries| format!("{entries} entries")));
    behind.extend(status.bytes_behind.map(|bytes| format!("{bytes} bytes")));
    behind.extend(status.messages_behind.map(|messages| counted(messages, "message")));
    let mut text = match behind.as_slice() {
        [] => "; how far behind is unknown".to_owned(),
        some => format!("; {} behind", some.join(", ")),
    };
    text += &match seconds(status.drain.as_ref()) {
        Some(drain) => format!("; drain {drain:.0} s"),
        None => "; drain unknown".to_owned(),
    };
    if let Some(place) = &status.applied_through {
        let epoch = place.epoch.as_ref().map_or(0, |epoch| epoch.number);
        text += &format!("; applied through entry {} of epoch {epoch}", place.index);
    }
    text
}

/// How much of a whole state was given, while it is.
pub fn copied(status: &pb::GetRegionResponse) -> String {
    let total = status.copy_bytes_total;
    total.map_or(String::new(), |total| {
        format!("; copied {} of about {total} bytes", status.copied_bytes)
    })
}

/// The line between the regions, in the words of the status.
pub fn said(status: &pb::GetRegionResponse) -> String {
    let mut text = String::new();
    if let Some(shape) = &status.shape {
        text += &format!("; {}", super::shape::shape_said(shape));
    }
    if let Some(limit) = &status.limit {
        text += &format!("; {}", super::limit::limit_said(limit));
    }
    if let Some(lease) = &status.lease {
        text += &lease_said(lease);
    }
    text
}

fn lease_said(lease: &pb::RegionLease) -> String {
    if lease.stopped {
        return "; region leases are granted no more: a promotion by force was begun".to_owned();
    }
    let span = |span: &Option<prost_types::Duration>| seconds(span.as_ref());
    match (span(&lease.in_force), span(&lease.left), span(&lease.wanted)) {
        (Some(whole), Some(left), _) => format!("; region lease {whole} s, {left:.1} s left"),
        (Some(whole), None, _) => format!("; region lease {whole} s, none held"),
        (None, _, Some(wanted)) if lease.longest.is_none() => {
            format!("; region lease {wanted} s, not agreed yet")
        }
        (None, _, _) => match span(&lease.longest) {
            Some(longest) => format!("; grants region leases of up to {longest} s"),
            None => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_more_than_a_second_apart_are_told() {
        let said = |ahead: i64, within: i64| {
            let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
            let (clock_ahead, clock_within) = (span(ahead), span(within));
            let peer = "west".to_owned();
            let status =
                pb::GetRegionResponse { peer, clock_ahead, clock_within, ..Default::default() };
            clocks_apart(&status)
        };
        assert_eq!(said(600, 0), "; the clock of west is 600 s ahead of this region's");
        assert_eq!(said(-600, 1), "; the clock of west is 600 s behind this region's");
        assert_eq!(said(2, 2), "", "it may be that the answer was late");
        assert_eq!(clocks_apart(&pb::GetRegionResponse::default()), "");
    }

    #[test]
    fn what_a_promotion_by_force_does_not_know_is_said_plainly() {
        let unknown = pb::ForceFailOverResponse::default();
        assert_eq!(queues_lost(&unknown), Value::Null);
        assert!(queues_unknown(&unknown).ends_with("is not known since this node started"));
        assert_eq!(clock(&unknown), "; how far the regions' clocks differ is not known");
        let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let (clock_ahead, clock_within) = (span(-1, -250_000_000), span(0, 2_000_000));
        let messages_lost = Some(0);
        let known = pb::ForceFailOverResponse {
            clock_ahead,
            clock_within,
            messages_lost,
            ..pb::ForceFailOverResponse::default()
        };
        assert_eq!(
            clock(&known),
            "; the primary's clock was 1.250 s behind this region's, give or take 0.002 s"
        );
        assert_eq!((queues_lost(&known), queues_unknown(&known)), (json!([]), String::new()));
    }

    #[test]
    fn what_the_newest_promotion_by_force_lost_names_five_queues_and_counts_the_others() {
        let queue = |at: u64| pb::QueueLoss {
            account: "default".to_owned(),
            queue: format!("q{at}"),
            messages: 10 - at,
        };
        let last = pb::LastForced {
            epoch: Some(pb::EpochId { number: 3, region: "west".to_owned() }),
            entries_lost: Some(50),
            time_lost: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            messages_lost: Some(60),
            queues_lost: (0..7).map(queue).collect(),
            more_queues: 4,
            more_messages: 11,
            ..pb::LastForced::default()
        };
        assert_eq!(
            last_forced_said(&last),
            "; the promotion to epoch 3 by force was known to lose 50 entries, 60 messages (10 of \
             q0, 9 of q1, 8 of q2, 7 of q3, 6 of q4, and 20 more in 6 queues), 2.0 s"
        );
        assert_eq!(last_forced_json(&last)["more_messages"], 11);
        let unknown = pb::LastForced { entries_lost: None, ..last };
        assert_eq!(
            last_forced_said(&unknown),
            "; what the promotion to epoch 3 by force lost was not known"
        );
    }

    #[test]
    fn how_much_of_a_whole_state_was_given_is_said_while_it_is_given() {
        let given = |copy_bytes_total| {
            let copied_bytes = 300;
            copied(&pb::GetRegionResponse { copied_bytes, copy_bytes_total, ..Default::default() })
        };
        assert_eq!(given(Some(5_000)), "; copied 300 of about 5000 bytes");
        assert_eq!(given(None), "");
    }

    #[test]
    fn what_is_not_known_of_the_copy_is_said_to_be_unknown() {
        let epoch = Some(pb::EpochId { number: 2, region: "east".to_owned() });
        let known = pb::GetRegionResponse {
            status: pb::GeoStatus::Live.into(),
            entries_behind: Some(3),
            bytes_behind: Some(3_000),
            messages_behind: Some(1),
            drain: Some(prost_types::Duration { seconds: 4, nanos: 0 }),
            applied_through: Some(pb::LogPlace { epoch, index: 17 }),
            ..pb::GetRegionResponse::default()
        };
        assert_eq!(
            behind(&known),
            "; 3 entries, 3000 bytes, 1 message behind; drain 4 s; applied through entry 17 of epoch 2"
        );
        let status = known.status;
        let unknown = pb::GetRegionResponse { status, ..pb::GetRegionResponse::default() };
        assert_eq!(behind(&unknown), "; how far behind is unknown; drain unknown");
        assert_eq!(behind(&pb::GetRegionResponse::default()), "", "there is no copy");
    }
}
