//! `zoneq durability`: what is known now of a write that was acknowledged before.

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::exit::Exit;
use super::output::{position_text, zones_text};
use crate::client::{DurabilityNow, OtherRegion, Position};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  zoneq durability 3:1:2041              as the answer to a write printed it

The exit code is 1 if the write is not known to be committed: it never was, or it is so old that
the log holds its entry no more.")]
pub struct Durability {
    /// The position of the write as TERM:NODE:INDEX
    #[arg(value_parser = parse_position)]
    position: Position,
}

/// Reads a position as it is printed, and in no other form.
fn parse_position(text: &str) -> Result<Position, String> {
    let wrong = || format!("{text:?} is no position; write TERM:NODE:INDEX, such as 3:1:2041");
    let parts: Vec<&str> = text.split(':').collect();
    let [term, node, index] = parts.as_slice() else { return Err(wrong()) };
    let number = |part: &str| part.parse::<u64>().map_err(|_| wrong());
    let position = Position { term: number(term)?, node: number(node)?, index: number(index)? };
    // No signs, and no zeros in front.
    if position_text(&position) == text { Ok(position) } else { Err(wrong()) }
}

impl Durability {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let now = context.client()?.durability(self.position).await?;
        context.out.result(&now_json(&self.position, &now), &now_text(&self.position, &now))?;
        Ok(if now.committed { Exit::Done } else { Exit::Failed })
    }
}

fn now_json(position: &Position, now: &DurabilityNow) -> Value {
    json!({
        "ok": now.committed,
        "position": position_text(position),
        "committed": now.committed,
        "zones_at_least": now.zones_at_least,
        "zones": now.zones,
        "in_other_region": in_other_region(now),
    })
}

/// `None` = there is none, or it is not known.
fn in_other_region(now: &DurabilityNow) -> Option<bool> {
    match now.other_region {
        OtherRegion::HasIt => Some(true),
        OtherRegion::NotYet => Some(false),
        OtherRegion::Unspecified => None,
    }
}

/// `position 3:1:2041 is committed; durable in at least 2 zones (z1, z3)`.
fn now_text(position: &Position, now: &DurabilityNow) -> String {
    let position = position_text(position);
    if !now.committed {
        return format!("position {position} is not known to be committed");
    }
    let mut parts = vec![format!("position {position} is committed")];
    let zones = zones_text(now.zones_at_least);
    if now.zones.is_empty() {
        parts.push(format!("durable in {zones}"));
    } else {
        parts.push(format!("durable in {zones} ({})", now.zones.join(", ")));
    }
    match in_other_region(now) {
        Some(true) => parts.push("in the other region".to_owned()),
        Some(false) => parts.push("not in the other region yet".to_owned()),
        None => {}
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_printed_and_in_no_other_form() {
        let position = Position { term: 3, node: 1, index: u64::MAX };
        assert_eq!(parse_position(&position_text(&position)), Ok(position));
        for bad in [
            "",
            "3",
            "3:1",
            "3:1:2:4",
            "3:1:",
            "03:1:2",
            "+3:1:2",
            "3:1:-2",
            " 3:1:2",
            "3:1:x",
            "3:1:18446744073709551616",
        ] {
            let error = parse_position(bad).expect_err(bad);
            assert!(error.contains("TERM:NODE:INDEX"), "{error}");
        }
    }

    #[test]
    fn what_is_known_is_said_and_no_more() {
        let position = Position { term: 3, node: 1, index: 7 };
        let zones = vec!["z1".to_owned(), "z3".to_owned()];
        let other_region = OtherRegion::Unspecified;
        let now = DurabilityNow { committed: true, zones_at_least: 2, zones, other_region };
        let text = "position 3:1:7 is committed; durable in at least 2 zones (z1, z3)";
        assert_eq!(now_text(&position, &now), text);
        assert_eq!(now_json(&position, &now)["in_other_region"], Value::Null);
        let there = DurabilityNow { other_region: OtherRegion::HasIt, ..now.clone() };
        assert_eq!(now_text(&position, &there), format!("{text}; in the other region"));
        let not_yet = DurabilityNow { other_region: OtherRegion::NotYet, ..now.clone() };
        assert_eq!(now_text(&position, &not_yet), format!("{text}; not in the other region yet"));
        assert_eq!(now_json(&position, &not_yet)["in_other_region"], false);
        let not = DurabilityNow { committed: false, ..now };
        assert_eq!(now_text(&position, &not), "position 3:1:7 is not known to be committed");
        assert_eq!(now_json(&position, &not)["position"], "3:1:7");
    }
}
