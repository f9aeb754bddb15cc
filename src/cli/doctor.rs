//! `zoneq doctor`: looks at a host and at a node's configuration, and says what it would change.
//!
//! Laws: it reads the configuration exactly as `serve` does and needs no running node; nothing in
//! the data directory is changed, the file that measures the disk is removed again. Each check is
//! one line: ok, a warning, or a failure with advice; with a failure it exits with 1.

mod host;
mod node;

use clap::Args;
use serde_json::json;

use super::Context;
use super::exit::Exit;
use super::serve::Serve;
use crate::server::Config;

const EXAMPLES: &str = "\
Examples:
  zoneq doctor --config /etc/zoneq/zoneq.toml
  zoneq doctor --node-id 1 --cluster-id shop --zone z1 --data-dir /var/lib/zoneq --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Writes of 4 KiB with which the disk is measured
    #[arg(long, env = "ZONEQ_DOCTOR_WRITES", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(10..=100_000))]
    writes: u32,
    #[command(flatten)]
    serve: Serve,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        }
    }
}

/// What one check found, and what to do about it.
#[derive(Clone, Debug)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, state: State::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, state: State::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// The checks made so far; each is shown at once.
struct Report<'a> {
    context: &'a Context,
    checks: Vec<Check>,
}

impl Report<'_> {
    fn add(&mut self, checks: impl IntoIterator<Item = Check>) -> anyhow::Result<()> {
        for check in checks {
            self.context.out.item(&json!({
                "check": check.name, "state": check.state.name(), "found": check.found,
                "advice": check.advice,
            }))?;
            let advice = check.advice.as_ref().map(|advice| format!(" {advice}"));
            self.context.out.say(&format!(
                "{:4}  {}: {}.{}",
                check.state.name(),
                check.name,
                check.found,
                advice.unwrap_or_default()
            ))?;
            self.checks.push(check);
        }
        Ok(())
    }

    fn count(&self, state: State) -> usize {
        self.checks.iter().filter(|check| check.state == state).count()
    }

    fn conclude(&self) -> anyhow::Result<Exit> {
        let (fail, warn) = (self.count(State::Fail), self.count(State::Warn));
        let value = json!({
            "ok": fail == 0, "checks": self.checks.len(), "warnings": warn, "failures": fail,
        });
        let text = format!("{} checks: {fail} failed, {warn} with a warning", self.checks.len());
        self.context.out.result(&value, &text)?;
        Ok(if fail == 0 { Exit::Done } else { Exit::Failed })
    }
}

impl Doctor {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut report = Report { context, checks: Vec::new() };
        report.add([host::file_descriptors()])?;
        match self.serve.keys(context.global.tls_ca.clone()).and_then(whole) {
            Ok(config) => look(&mut report, &config, self.writes).await?,
            Err(error) => report.add([Check::fail(
                "configuration",
                super::output::chain(&error).trim_end(),
                "`zoneq serve` would not start; what needs the configuration was not checked",
            )])?,
        }
        report.conclude()
    }
}

fn whole(keys: crate::server::ConfigKeys) -> anyhow::Result<Config> {
    Ok(keys.into_config()?)
}

async fn look(report: &mut Report<'_>, config: &Config, writes: u32) -> anyhow::Result<()> {
    report.add(node::configuration(config))?;
    let (directory, running) = node::data_directory(config);
    report.add(directory)?;
    report.add(host::ports(config, running))?;
    report.add([host::space(&config.data_dir)])?;
    let bar = report.context.out.progress(None, "measuring the disk");
    let speed = host::disk_speed(config, writes);
    bar.finish_and_clear();
    report.add(speed)?;
    report.add(node::clocks(config).await)
}
