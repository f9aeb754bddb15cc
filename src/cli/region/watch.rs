//! `zoneq region status`, once or again and again until it is interrupted.
//!
//! Laws: with `--json` each look is one line; a look that fails is one, too, and the next may do
//! better. In a terminal the newest look takes the place of the one before.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::{status_json, status_text};
use crate::cli::exit::Exit;
use crate::cli::output::chain;
use crate::cli::{Context, parse_span};
use crate::client::{ClientError, Regions};
use crate::proto::admin::v1 as pb;

#[derive(Debug, Args)]
pub struct Status {
    /// Show it again and again until interrupted; with --json one line each time
    #[arg(long, env = "ZONEQ_REGION_STATUS_WATCH", value_parser = FalseyValueParser::new())]
    watch: bool,
    /// How long between two looks
    #[arg(long, env = "ZONEQ_REGION_STATUS_INTERVAL", value_parser = parse_interval,
          default_value = "1s", value_name = "SPAN")]
    interval: Duration,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let span = parse_span(text)?;
    if span < Duration::from_millis(100) {
        Err("it is 100ms at least".to_owned())
    } else {
        Ok(span)
    }
}

/// Where a person sees the looks.
fn screen() -> anyhow::Result<Option<ProgressBar>> {
    if !io::stdout().is_terminal() {
        return Ok(None);
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    bar.set_style(ProgressStyle::with_template("{msg}")?);
    Ok(Some(bar))
}

impl Status {
    pub async fn run(self, context: &Context, regions: &Regions) -> anyhow::Result<Exit> {
        if !self.watch {
            let status = regions.status().await?;
            context.out.result(&status_json(&status), &status_text(&status))?;
            return Ok(Exit::Done);
        }
        let screen = if context.out.is_json() { None } else { screen()? };
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let look = async {
                ticks.tick().await;
                regions.status().await
            };
            tokio::select! {
                looked = look => show(context, screen.as_ref(), looked)?,
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        if let Some(screen) = screen {
            screen.abandon();
        }
        Ok(Exit::Done)
    }
}

fn show(
    context: &Context,
    screen: Option<&ProgressBar>,
    looked: Result<pb::GetRegionResponse, ClientError>,
) -> anyhow::Result<()> {
    let text = match looked {
        Ok(status) if screen.is_none() => {
            context.out.result(&status_json(&status), &status_text(&status))?;
            return Ok(());
        }
        Ok(status) => status_text(&status).replace("; ", "\n  "),
        Err(error) => {
            let error = anyhow::Error::from(error);
            if screen.is_none() {
                context.out.error(&error, Exit::of(&error));
                return Ok(());
            }
            format!("no answer: {}", chain(&error))
        }
    };
    if let Some(screen) = screen {
        screen.set_message(text);
        screen.tick();
    }
    Ok(())
}
