//! The gate: one file per noun. Every verb talks gRPC, or reads a data directory, never both.
//!
//! Laws: every flag has an environment variable `ZONEQ_*`; `--json` prints one object a line and
//! the last is the result; exit codes are those of [`exit::TABLE`], also for a bad flag.

pub mod account;
pub mod bench;
mod clock;
pub mod cluster;
pub mod doctor;
pub mod drill;
pub mod durability;
pub mod exit;
mod failback;
pub mod inspect;
pub mod lab;
mod limits;
mod mend;
pub mod message;
pub mod output;
pub mod queue;
pub mod redrive;
mod redundancy;
pub mod region;
pub mod serve;
pub mod tail;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::exit::{Exit, Usage};
use self::output::Output;
use crate::client::{BackOff, Client, Ttl};

const EXAMPLES: &str = "\
Examples:
  zoneq lab up --detach                       two regions of three zones on this machine
  zoneq queue create orders
  zoneq send orders 'one order' --header kind=book
  zoneq receive orders --wait 10s --delete    take one and delete it
  zoneq cluster status
  seq 1000 | zoneq send orders --lines        one message a line

Every flag has an environment variable, for example ZONEQ_ENDPOINT=http://a:7401,http://b:7401.
";

/// The node that is asked when there is no lab and nobody says.
const ENDPOINT: &str = "http://127.0.0.1:7401";

/// Work queues that survive the loss of a zone.
#[derive(Debug, Parser)]
#[command(name = "zoneq", version, after_help = format!("{EXAMPLES}\n{}", exit::TABLE))]
#[command(propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Print JSON, one object a line; the last one is the result
    #[arg(long, global = true, env = "ZONEQ_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Nodes to talk to, or a region of the lab, separated by commas; the first is asked first
    /// [default: those of the lab in --dir, else http://127.0.0.1:7401]
    #[arg(long, short, global = true, env = "ZONEQ_ENDPOINT", value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// The folder of the lab that is meant [default: ./zoneq-lab]
    #[arg(long, global = true, env = "ZONEQ_LAB_DIR")]
    pub dir: Option<PathBuf>,
    /// The account whose queues are meant
    #[arg(long, global = true, env = "ZONEQ_ACCOUNT", default_value = "default")]
    pub account: String,
    /// The longest that a call may take, retries included [default: 10s; cluster changes: 10m]
    #[arg(long, global = true, env = "ZONEQ_DEADLINE", value_parser = parse_span)]
    pub deadline: Option<Duration>,
    /// PEM file of the authority that signed the nodes' certificates; turns TLS on
    #[arg(long, global = true, env = "ZONEQ_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
}

/// What may be asked. A new verb gets a file of its own, a variant here, and an arm in `run`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a node
    Serve(Box<serve::Serve>),
    /// Create, delete, show and change queues
    #[command(subcommand)]
    Queue(queue::QueueVerb),
    /// Send messages
    Send(message::Send),
    /// Receive messages under a lease
    Receive(message::Receive),
    /// Show messages without leasing them
    Peek(message::Peek),
    /// Show one message by its id
    Get(message::Get),
    /// Change a message's lease, body or headers
    Update(message::Update),
    /// Give received messages back, to be received again now or later
    Release(message::Release),
    /// Delete received messages
    Delete(message::Delete),
    /// Delete messages and send others as one step: all or nothing
    Transact(message::Transact),
    /// Remove every message of a queue
    Clear(message::Clear),
    /// Show in which zones an acknowledged write is durable now
    Durability(durability::Durability),
    /// Send dead letters back
    #[command(subcommand)]
    Redrive(redrive::RedriveVerb),
    /// Show accounts, and set what they may hold
    #[command(subcommand)]
    Account(account::AccountVerb),
    /// Look after the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterVerb),
    /// Protect a cluster by a second region, and fail over to it
    #[command(subcommand)]
    Region(region::RegionVerb),
    /// Run clusters of real processes on this machine, and hurt them
    #[command(subcommand)]
    Lab(lab::LabVerb),
    /// Lose a zone or a region on purpose under load, and prove what was promised
    #[command(subcommand)]
    Drill(drill::DrillVerb),
    /// Measure throughput, latency, failover and footprint
    Bench(bench::Bench),
    /// Check a host and a node's configuration, and say what should be changed
    Doctor(Box<doctor::Doctor>),
    /// Show what the data directory of a stopped node holds, and change nothing
    Inspect(inspect::Inspect),
    /// Print a completion script for a shell
    Completion(Completion),
}

/// `zoneq completion bash > /etc/bash_completion.d/zoneq`
#[derive(Debug, Args)]
pub struct Completion {
    shell: clap_complete::Shell,
}

/// What every verb works with.
#[derive(Clone, Debug)]
pub struct Context {
    pub global: Global,
    pub out: Output,
}

impl Context {
    /// With the endpoints of the lab, or the usual one, where none is given.
    #[must_use]
    pub fn new(mut global: Global) -> Context {
        let out = Output::new(global.json);
        global.endpoint.retain(|address| !address.is_empty());
        let dir = global.dir.clone().unwrap_or_else(|| lab::files::DEFAULT_DIR.into());
        global.endpoint = lab::files::resolved(global.endpoint, &dir);
        if global.endpoint.is_empty() {
            global.endpoint = lab::files::endpoints(&dir).unwrap_or_else(|| vec![ENDPOINT.into()]);
        }
        Context { global, out }
    }

    /// The folder of the lab that is meant.
    #[must_use]
    pub fn lab_dir(&self) -> PathBuf {
        self.global.dir.clone().unwrap_or_else(|| lab::files::DEFAULT_DIR.into())
    }

    /// A client as the global flags say.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.client_within(Duration::from_secs(10))
    }

    /// A client whose calls may take this long unless `--deadline` says otherwise.
    pub fn client_within(&self, usual: Duration) -> anyhow::Result<Client> {
        let mut builder = Client::builder()
            .endpoints(self.global.endpoint.iter().cloned())
            .account(self.global.account.clone())
            .deadline(self.global.deadline.unwrap_or(usual));
        if let Some(path) = &self.global.tls_ca {
            let pem = std::fs::read(path)
                .map_err(|error| Usage(format!("--tls-ca {}: {error}", path.display())))?;
            builder = builder.tls_ca(pem);
        }
        Ok(builder.build()?)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(refuse(&error).code()),
    };
    let context = Context::new(cli.global);
    let exit = match run_to_end(cli.verb, &context) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = Exit::of(&error);
            // Who closed the pipe, as `head` does, has read enough.
            if !is_closed_pipe(&error) {
                context.out.error(&error, exit);
            }
            exit
        }
    };
    ExitCode::from(exit.code())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Prints what clap has to say: help and version are no error, a bad flag is usage.
fn refuse(error: &clap::Error) -> Exit {
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

fn run_to_end(verb: Verb, context: &Context) -> anyhow::Result<Exit> {
    if let Verb::Serve(serve) = verb {
        return serve::run_alone(*serve, context);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let ended = runtime.block_on(run(verb, context));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn run(verb: Verb, context: &Context) -> anyhow::Result<Exit> {
    match verb {
        Verb::Serve(verb) => verb.run(context).await,
        Verb::Queue(verb) => verb.run(context).await,
        Verb::Send(verb) => verb.run(context).await,
        Verb::Receive(verb) => verb.run(context).await,
        Verb::Peek(verb) => verb.run(context).await,
        Verb::Get(verb) => verb.run(context).await,
        Verb::Update(verb) => verb.run(context).await,
        Verb::Release(verb) => verb.run(context).await,
        Verb::Delete(verb) => verb.run(context).await,
        Verb::Transact(verb) => verb.run(context).await,
        Verb::Clear(verb) => verb.run(context).await,
        Verb::Durability(verb) => verb.run(context).await,
        Verb::Redrive(verb) => verb.run(context).await,
        Verb::Account(verb) => verb.run(context).await,
        Verb::Cluster(verb) => verb.run(context).await,
        Verb::Region(verb) => verb.run(context).await,
        Verb::Lab(verb) => verb.run(context).await,
        Verb::Drill(verb) => verb.run(context).await,
        Verb::Bench(verb) => verb.run(context).await,
        Verb::Doctor(verb) => verb.run(context).await,
        Verb::Inspect(verb) => verb.run(context).await,
        Verb::Completion(verb) => verb.run(),
    }
}

impl Completion {
    fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "zoneq", &mut script);
        output::raw(&script)?;
        Ok(Exit::Done)
    }
}

/// Reads `30s`, `5m`, `1h30m`, `7d` or `250ms`.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration; write for example 250ms, 30s, 5m, 1h30m or 7d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let span = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(span).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(total)
}

/// Reads a duration or `never`.
pub fn parse_ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl::Never);
    }
    match parse_span(text) {
        Ok(Duration::ZERO) => Err("a time to live of zero; write `never` for no end".to_owned()),
        Ok(span) => Ok(Ttl::After(span)),
        Err(error) => Err(format!("{error}, or `never`")),
    }
}

/// Reads `first,most,factor`, such as `1s,15m,2`.
pub fn parse_back_off(text: &str) -> Result<BackOff, String> {
    let wrong = || format!("{text:?} is no back-off; write FIRST,MOST,FACTOR, such as 1s,15m,2");
    let parts: Vec<&str> = text.split(',').collect();
    let [first, most, factor] = parts.as_slice() else { return Err(wrong()) };
    let factor = factor.parse().map_err(|_| wrong())?;
    Ok(BackOff { first: parse_span(first)?, most: parse_span(most)?, factor })
}

/// Reads `name=value`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no pair; write NAME=VALUE")),
    }
}

/// Pairs as a map; a name given twice is the user's mistake.
pub fn pairs(given: Vec<(String, String)>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (name, value) in given {
        if map.insert(name.clone(), value).is_some() {
            return Err(Usage(format!("{name:?} is given twice")).into());
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn each_flag(command: &clap::Command, path: &str, see: &mut dyn FnMut(&str, &clap::Arg)) {
        let path = format!("{path} {}", command.get_name());
        for flag in command.get_arguments().filter(|arg| !arg.is_positional()) {
            see(&path, flag);
        }
        for sub in command.get_subcommands() {
            each_flag(sub, &path, see);
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable_of_its_own() {
        let mut seen = BTreeMap::new();
        each_flag(&Cli::command(), "", &mut |path, flag| {
            let name = flag.get_id().as_str().to_owned();
            if matches!(name.as_str(), "help" | "version") {
                return;
            }
            let env = flag.get_env().and_then(|env| env.to_str()).unwrap_or_default().to_owned();
            assert!(env.starts_with("ZONEQ_"), "{path} --{name} has no ZONEQ_ variable: {env:?}");
            // It reads what `serve` reads.
            if path.ends_with(" doctor") && env != "ZONEQ_DOCTOR_WRITES" {
                return;
            }
            let place = format!("{path} --{name}");
            if let Some(other) = seen.insert(env.clone(), place.clone()) {
                panic!("{env} is used by {other} and {place}");
            }
        });
        assert!(seen.len() > 20, "the walk went through the verbs");
    }

    #[test]
    fn every_switch_may_be_turned_on_by_a_1_in_its_variable() {
        let mut seen = 0;
        each_flag(&Cli::command(), "", &mut |path, flag| {
            if flag.get_env().is_none() || !matches!(flag.get_action(), ArgAction::SetTrue) {
                return;
            }
            let mut words = flag.get_value_parser().possible_values().into_iter().flatten();
            let name = flag.get_id();
            assert!(words.any(|word| word.matches("1", false)), "{path} --{name} takes no 1");
            seen += 1;
        });
        assert!(seen > 20, "the walk went through the verbs: {seen}");
    }

    #[test]
    fn a_bad_flag_exits_with_64_and_help_with_0() {
        for line in ["zoneq --nonsense", "zoneq", "zoneq send", "zoneq peek q --max many"] {
            let error = parse(line).expect_err(line);
            assert_eq!(refuse(&error).code(), 64, "{line}");
        }
        for line in ["zoneq --help", "zoneq --version", "zoneq queue create --help"] {
            let error = parse(line).expect_err(line);
            assert_eq!(refuse(&error).code(), 0, "{line}");
        }
    }

    #[test]
    fn help_teaches_with_examples_and_exit_codes() {
        let help = Cli::command().render_help().to_string();
        for part in ["Examples:", "Exit codes:", "75", "ZONEQ_ENDPOINT"] {
            assert!(help.contains(part), "{part}");
        }
        for verb in ["send", "receive", "queue", "cluster", "durability"] {
            let mut command = Cli::command();
            command.build();
            let verb = command.find_subcommand_mut(verb).expect(verb);
            assert!(verb.render_help().to_string().contains("zoneq "), "{verb} has an example");
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("zoneq queue list --json -e http://a:1,http://b:2 --deadline 3s")
            .expect("good flags");
        assert!(cli.global.json);
        assert_eq!(cli.global.endpoint, ["http://a:1", "http://b:2"]);
        assert_eq!(cli.global.deadline, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_header_may_hold_commas_and_may_be_given_again() {
        let line = "zoneq send q body --header note=a,b --header kind=book";
        let Verb::Send(_) = parse(line).expect("good flags").verb else { panic!("it is a send") };
        assert!(parse("zoneq send q --header nothing").is_err());
        assert!(parse("zoneq send q body --file f").is_err(), "one source only");
    }

    #[test]
    fn durations_and_pairs_are_read_strictly() {
        assert_eq!(parse_span("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_span("0s"), Ok(Duration::ZERO));
        for bad in ["", "30", "s", "-1s", "1.5s", "1w", "99999999999999999999s", "5é"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_ttl("never"), Ok(Ttl::Never));
        assert!(parse_ttl("0s").is_err());
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(900));
        assert_eq!(parse_back_off("1s,15m,2"), Ok(BackOff { first, most, factor: 2 }));
        for bad in ["1s,15m", "1s,15m,x", "1s,15m,2,3", "1,15m,2"] {
            assert!(parse_back_off(bad).is_err(), "{bad}");
        }
        assert!(parse_pair("=v").is_err());
        assert_eq!(parse_pair("k=a=b"), Ok(("k".to_owned(), "a=b".to_owned())));
        assert!(pairs(vec![("a".into(), "1".into()), ("a".into(), "2".into())]).is_err());
    }

    #[test]
    fn completion_knows_every_shell_that_is_promised() {
        for shell in ["bash", "zsh", "fish"] {
            assert!(parse(&format!("zoneq completion {shell}")).is_ok(), "{shell}");
        }
    }
}
