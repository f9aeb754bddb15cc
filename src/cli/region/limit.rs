//! `zoneq region limit`: how far the secondary may be behind.

use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};

use super::seconds;
use super::shape::parse_bytes;
use crate::cli::parse_span;
use crate::client::Regions;
use crate::proto::admin::v1 as pb;

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Limit {
    /// How old the newest entry of the copy may be, 2s to 7d, or `off`
    #[arg(long, env = "ZONEQ_REGION_LIMIT_MAX_LAG", value_parser = parse_lag,
          value_name = "SPAN|off")]
    max_lag: Option<Duration>,
    /// Bytes of log that the copy may lack, such as 64MiB, or `off`
    #[arg(long, env = "ZONEQ_REGION_LIMIT_MAX_UNSHIPPED", value_parser = parse_limit,
          value_name = "BYTES|off")]
    max_unshipped: Option<u64>,
    /// Beyond a limit the status and the log say so
    #[arg(long, conflicts_with = "throttle", env = "ZONEQ_REGION_LIMIT_ALERT",
          value_parser = FalseyValueParser::new())]
    alert: bool,
    /// And writes wait, and are then not now
    #[arg(long, env = "ZONEQ_REGION_LIMIT_THROTTLE", value_parser = FalseyValueParser::new())]
    throttle: bool,
}

/// Zero is no limit.
fn parse_lag(text: &str) -> Result<Duration, String> {
    if text == "off" { Ok(Duration::ZERO) } else { parse_span(text) }
}

pub fn parse_limit(text: &str) -> Result<u64, String> {
    if text == "off" {
        return Ok(0);
    }
    parse_bytes(text).ok_or_else(|| format!("{text:?} is no size; write for example 64MiB, or off"))
}

impl Limit {
    pub async fn run(self, regions: &Regions) -> anyhow::Result<(Value, String)> {
        let change = pb::SetLagLimitRequest {
            who: String::new(),
            max_lag: self.max_lag.and_then(|lag| lag.try_into().ok()),
            max_unshipped_bytes: self.max_unshipped,
            throttle: (self.alert || self.throttle).then_some(self.throttle),
        };
        regions.limit_lag(change).await?;
        let status = regions.status().await?;
        let limit = status.limit.as_ref();
        let text = limit.map_or("there is no limit".to_owned(), limit_said);
        Ok((json!({ "ok": true, "done": "limit", "limit": limit.map(limit_json) }), text))
    }
}

pub fn limit_json(limit: &pb::LagLimit) -> Value {
    json!({
        "max_lag_seconds": seconds(limit.max_lag.as_ref()),
        "max_unshipped_bytes": limit.max_unshipped_bytes,
        "throttle": limit.throttle,
        "passed": limit.passed,
    })
}

pub fn limit_said(limit: &pb::LagLimit) -> String {
    let lag = seconds(limit.max_lag.as_ref()).map(|lag| format!("{lag} s"));
    let bytes = limit.max_unshipped_bytes.map(|bytes| format!("{bytes} bytes"));
    let parts: Vec<String> = [lag, bytes].into_iter().flatten().collect();
    let then = if limit.throttle { "writes wait" } else { "there is an alarm" };
    format!("beyond {} {then}", parts.join(" or "))
}
