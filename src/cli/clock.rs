//! `zoneq cluster accept-clock`: log time follows the leader's wall clock on an operator's word.

use prost_types::Timestamp;
use serde_json::{Value, json};

use super::Context;
use super::exit::Exit;
use crate::proto::admin::v1::{AcceptClockResponse, GetStatusResponse, NodeStatus};

/// Shows how the clocks stand to one another, and accepts the leader's.
pub async fn accept(context: &Context) -> anyhow::Result<Exit> {
    let admin = context.client()?.admin().by(super::region::who());
    let before = admin.leader_status().await?;
    for node in &before.nodes {
        context.out.item(&json!({
            "node": node.id,
            "zone": node.zone,
            "voter": node.voter,
            "clock_ahead_us": node.clock_ahead_us,
        }))?;
    }
    let rows = before.nodes.iter().map(|node| {
        let votes = if node.voter { "yes" } else { "no" };
        vec![node.id.to_string(), node.zone.clone(), votes.to_owned(), stands(&before, node)]
    });
    context.out.table(&["node", "zone", "votes", "wall clock"], rows.collect())?;
    let answer = admin.accept_clock().await?;
    context.out.result(&value(&answer), &sentence(&before, &answer))?;
    Ok(Exit::Done)
}

/// How a node's clock stands to the leader's.
fn stands(status: &GetStatusResponse, node: &NodeStatus) -> String {
    match node.clock_ahead_us {
        _ if node.id == status.leader_id => "the leader's".to_owned(),
        None => "not heard of in this term".to_owned(),
        Some(ahead) => format!("{} the leader's", apart(ahead)),
    }
}

fn seconds(span_us: i64) -> String {
    format!("{:.3} s", span_us.unsigned_abs() as f64 / 1e6)
}

/// `1.500 s behind`
fn apart(ahead_us: i64) -> String {
    let way = if ahead_us < 0 { "behind" } else { "ahead of" };
    format!("{} {way}", seconds(ahead_us))
}

fn micros(at: &Timestamp) -> i64 {
    at.seconds.saturating_mul(1_000_000).saturating_add(i64::from(at.nanos / 1_000))
}

/// How far log time was ahead of the leader's wall clock, and is now.
fn ahead(answer: &AcceptClockResponse) -> Option<(i64, i64)> {
    let (log, wall) = (answer.log_time.as_ref()?, answer.wall_time.as_ref()?);
    let before = micros(log).saturating_sub(micros(wall));
    // What it was behind was taken whole; what it is ahead takes its time.
    Some((before, if answer.was_agreed { before } else { before.max(0) }))
}

fn value(answer: &AcceptClockResponse) -> Value {
    let ahead = ahead(answer);
    json!({
        "ok": true,
        "was_agreed": answer.was_agreed,
        "log_time": answer.log_time.as_ref().map(Timestamp::to_string),
        "wall_time": answer.wall_time.as_ref().map(Timestamp::to_string),
        "log_time_ahead_before_us": ahead.map(|it| it.0),
        "log_time_ahead_us": ahead.map(|it| it.1),
    })
}

fn sentence(status: &GetStatusResponse, answer: &AcceptClockResponse) -> String {
    let ahead = ahead(answer);
    if answer.was_agreed {
        let stands = ahead.map(|(_, now)| format!(", and is {} it", apart(now)));
        let stands = stands.unwrap_or_default();
        let by = match status.clock.as_str() {
            "accepted" => "by an operator's word",
            _ => "as a majority agrees with it",
        };
        return format!(
            "nothing is done: log time follows the leader's wall clock already, {by}{stands}"
        );
    }
    let holds = "this holds while the present term lasts";
    match ahead {
        None => {
            let at = answer.wall_time.as_ref().map(Timestamp::to_string).unwrap_or_default();
            format!("log time begins with the leader's wall clock, at {at}; {holds}")
        }
        Some((before, 0)) => format!(
            "log time was {} the leader's wall clock, has taken that whole and follows it; {holds}",
            apart(before)
        ),
        Some((before, _)) => format!(
            "log time is {} the leader's wall clock as it was, and runs at nine tenths of real \
             time for {}, until that has caught up; {holds}",
            apart(before),
            seconds(before.saturating_mul(10))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(log: Option<i64>, wall: i64, was_agreed: bool) -> AcceptClockResponse {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        AcceptClockResponse { log_time: log.map(at), wall_time: Some(at(wall)), was_agreed }
    }

    #[test]
    fn it_says_how_far_log_time_was_and_is_from_the_leaders_clock() {
        let told = |answer| sentence(&GetStatusResponse::default(), &answer);
        let whole = accepted(Some(100), 130, false);
        assert!(told(whole).starts_with("log time was 30.000 s behind"), "{whole:?}");
        assert_eq!(value(&whole)["log_time_ahead_before_us"], -30_000_000);
        assert_eq!(value(&whole)["log_time_ahead_us"], 0);
        let slow = accepted(Some(130), 100, false);
        assert!(told(slow).contains("nine tenths of real time for 300.000 s"), "{slow:?}");
        assert_eq!(value(&slow)["log_time_ahead_us"], 30_000_000);
        let first = accepted(None, 100, false);
        assert!(told(first).contains("begins with the leader's wall clock, at 1970-01-01"));
        assert_eq!(value(&first)["log_time_ahead_us"], Value::Null);
        let already = accepted(Some(98), 100, true);
        assert!(told(already).contains("nothing is done"), "{already:?}");
        assert!(told(already).ends_with("and is 2.000 s behind it"), "{already:?}");
        assert_eq!(value(&already)["log_time_ahead_us"], -2_000_000, "it is as it was");
    }

    #[test]
    fn a_clock_that_was_not_heard_is_not_said_to_be_right() {
        let status = GetStatusResponse { leader_id: 1, ..GetStatusResponse::default() };
        let stands = |id, clock_ahead_us| {
            stands(&status, &NodeStatus { id, clock_ahead_us, ..NodeStatus::default() })
        };
        assert_eq!(stands(1, Some(0)), "the leader's");
        assert_eq!(stands(2, None), "not heard of in this term");
        assert_eq!(stands(2, Some(1_500_000)), "1.500 s ahead of the leader's");
        assert_eq!(stands(2, Some(-250_000)), "0.250 s behind the leader's");
    }
}
