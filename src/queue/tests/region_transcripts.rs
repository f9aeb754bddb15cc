//! Transcripts of two regions: `testscripts/regions`, written anew as those of one are.
//!
//! Every line begins with the side it happens on, `east` or `west`: `east send BODY`, `west
//! receive`, or a command about regions. `ship from=east` carries everything that waits to the
//! other side, `max=N` positions of it; `late` carries again what was shipped first.

use std::error::Error;

use goldenscript::{ArgumentConsumer, Runner};

use super::pair::{ATTACHMENT, LINEAGE, Side, protect, region};
use super::stage::{create, plain, receive, send, text};
use crate::queue::authority::command::{Attach, RegionReply, RegionVerb, ShippedBatch};
use crate::queue::authority::{LedgerLine, RegionEpoch, RegionSettings, Role};
use crate::queue::command::Command;
use crate::queue::ids::{Epoch, Span};
use crate::queue::outcome::{Outcome, Reply};

type Failure = Box<dyn Error>;

struct Script {
    sides: [Side; 2],
    shipped: Vec<ShippedBatch>,
    seal: Option<crate::queue::ids::Position>,
}

fn play(name: &str) {
    let path = format!("{}/src/queue/testscripts/regions/{name}", env!("CARGO_MANIFEST_DIR"));
    let sides = [Side::new("east"), Side::new("west")];
    let mut script = Script { sides, shipped: Vec::new(), seal: None };
    goldenscript::run(&mut script, path).expect("the script runs");
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { play(stringify!($name)); })*

        #[test]
        fn every_region_script_is_run() {
            let known = [$(stringify!($name)),*];
            let folder = format!("{}/src/queue/testscripts/regions", env!("CARGO_MANIFEST_DIR"));
            for file in std::fs::read_dir(folder).expect("the folder") {
                let name = file.expect("a file").file_name();
                let name = name.to_str().expect("a name");
                assert!(known.contains(&name), "no test runs the script {name}");
            }
        }
    };
}

transcripts! { protecting shipping planned_failover forced_failover take_back handed_over conflict lease }

impl Script {
    /// The ledger of a side, up to that epoch; one that it never had is added, of unknown beginning.
    fn ledger_with(&self, at: usize, epoch: RegionEpoch) -> Vec<LedgerLine> {
        let authority = self.sides[at].stage.state.authority();
        let mut ledger = authority.map(|it| it.ledger.clone()).unwrap_or_default();
        match ledger.iter().position(|line| line.epoch == epoch) {
            Some(known) => ledger.truncate(known + 1),
            None => ledger.push(LedgerLine { epoch, ..LedgerLine::default() }),
        }
        ledger
    }

    fn verb(
        &mut self,
        at: usize,
        name: &str,
        args: &mut ArgumentConsumer,
    ) -> Result<RegionVerb, Failure> {
        let mut number = || -> Result<Epoch, Failure> {
            Ok(Epoch(args.next_pos().ok_or("a number, please")?.value.parse()?))
        };
        Ok(match name {
            "protect" => RegionVerb::Protect {
                region: "east".to_owned(),
                lineage: LINEAGE,
                attachment: args.lookup_parse("attachment")?.unwrap_or(ATTACHMENT),
                peer: "west".to_owned(),
            },
            "attach" => {
                let authority = self.sides[0].stage.state.authority().ok_or("not protected")?;
                RegionVerb::Attach(Attach {
                    region: "west".to_owned(),
                    lineage: authority.lineage,
                    attachment: authority.attachment.as_ref().map_or(0, |it| it.id),
                    ledger: authority.ledger.clone(),
                    ..Attach::default()
                })
            }
            "unprotect" => RegionVerb::Unprotect,
            "detach" => RegionVerb::Detach,
            "renew" => RegionVerb::Renew { lineage: 8 },
            "lease" => RegionVerb::Configure(RegionSettings {
                lease: Some(Span::from_secs(5)),
                ..RegionSettings::default()
            }),
            "stop-granting" => RegionVerb::SetGranting { on: false },
            "seal" => RegionVerb::Seal,
            "unseal" => RegionVerb::Unseal,
            "release" => {
                let (number, seal) = (number()?, self.seal.ok_or("nothing was sealed")?);
                let region = args.lookup("to").map_or("west", |arg| &arg.value).to_owned();
                let acknowledged = self.sides[1 - at].copy_end().through.unwrap_or_default();
                RegionVerb::Release { to: RegionEpoch { number, region }, seal, acknowledged }
            }
            "decline" => RegionVerb::Decline { number: number()? },
            "declined" => RegionVerb::Declined { number: number()? },
            "promote" => {
                let number = number()?;
                let authority = self.sides[at].stage.state.authority();
                let stopped = authority.and_then(|it| it.leasing.stopped);
                let accepted = args.lookup("accepted").is_some();
                RegionVerb::Promote { number, accepted, stopped, loss: None }
            }
            "take-back" => RegionVerb::TakeBack { number: number()? },
            "fence" => {
                let number = number()?;
                let region = args.next_pos().ok_or("a region, please")?.value.clone();
                let lineage = args.lookup_parse("lineage")?.unwrap_or(LINEAGE);
                let epoch = RegionEpoch { number, region };
                RegionVerb::Fence { lineage, ledger: self.ledger_with(1 - at, epoch) }
            }
            "resolve" => {
                let number = number()?;
                let keep = args.next_pos().ok_or("a region, please")?.value.clone();
                RegionVerb::Resolve { keep, number }
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }

    fn ship(&mut self, from: usize, most: usize) -> String {
        let copy = self.sides[1 - from].copy_end();
        match self.sides[from].batch(&copy, most) {
            Err(parted) => format!("not shipped: {parted}"),
            Ok(None) => "nothing to ship".to_owned(),
            Ok(Some(batch)) => {
                let entries = batch.entries.len();
                self.shipped.push(batch.clone());
                let answer = self.sides[1 - from].region(RegionVerb::ApplyShipped(batch));
                format!(
                    "{entries} entries: {}",
                    show(answer.map(Reply::Region).map_err(Into::into))
                )
            }
        }
    }

    fn on(&mut self, at: usize, args: &mut ArgumentConsumer) -> Result<String, Failure> {
        let name = args.next_pos().ok_or("a command, please")?.value.clone();
        let side = &mut self.sides[at];
        let now = side.stage.state.log_time();
        let data = |side: &mut Side, command: Command| {
            show(side.commit(now, vec![plain(command)]).outcomes.remove(0))
        };
        Ok(match name.as_str() {
            "create" => data(side, create(super::stage::QUEUE)),
            "pulse" => data(side, Command::Pulse),
            "send" => {
                let bodies = args.rest_pos().into_iter().map(|arg| text(&arg.value)).collect();
                data(side, send(bodies))
            }
            "receive" => data(side, receive(1, None)),
            "mixed" => {
                let seal = region(RegionVerb::Seal);
                let commands = vec![plain(send(vec![text("beside a seal")])), seal];
                let outcomes = side.commit(now, commands).outcomes;
                outcomes.into_iter().map(show).collect::<Vec<_>>().join("\n")
            }
            "elect" => {
                side.elect();
                String::new()
            }
            "restart" => {
                side.stage.state = side.stage.reload();
                side.stage.check();
                String::new()
            }
            "audit" => {
                let rows = side.stage.state.audit();
                let line = |row: &crate::queue::authority::AuditRow| {
                    assert_ne!(row.at_us, 0, "{row:?} says when");
                    format!(
                        "{} {}: {} (epoch {} of {})",
                        row.number, row.who, row.what, row.epoch.number.0, row.epoch.region
                    )
                };
                rows.map(line).collect::<Vec<_>>().join("\n")
            }
            _ => {
                let verb = self.verb(at, &name, args)?;
                let answer = self.sides[at].region(verb.clone());
                if let (RegionVerb::Seal, Ok(RegionReply::At(at))) = (&verb, &answer) {
                    self.seal = Some(*at);
                }
                show(answer.map(Reply::Region).map_err(Into::into))
            }
        })
    }

    fn status(&self) -> String {
        let line = |side: &Side| {
            let state = &side.stage.state;
            let place = |at: Option<crate::queue::ids::Position>| {
                at.map_or("none".to_owned(), |at| at.to_string())
            };
            let Some(it) = state.authority() else { return format!("{}: alone", side.region) };
            let role = match &it.role {
                Role::Secondary if !it.is_complete => "incomplete secondary".to_owned(),
                Role::Fenced { fork: Some(fork), .. } => {
                    format!("fenced after {} from {}", place(fork.after), fork.next_number)
                }
                role => role.name().to_owned(),
            };
            format!(
                "{}: {} epoch {} of {} covers {} shipped {} T {}",
                side.region,
                role,
                it.epoch.number.0,
                it.epoch.region,
                place(it.applied_through),
                place(it.shipped),
                state.log_time().0,
            )
        };
        let [east, west] = &self.sides;
        let same = east.stage.state.digest() == west.stage.state.digest();
        format!("{}\n{}\ndata {}", line(east), line(west), if same { "equal" } else { "differ" })
    }
}

fn show(outcome: Outcome) -> String {
    match outcome {
        Ok(Reply::Sent(sent)) => {
            sent.iter().map(|it| format!("sent {}", it.id)).collect::<Vec<_>>().join("\n")
        }
        Ok(Reply::Received { messages, .. }) => {
            let all: Vec<_> = messages.iter().map(|it| format!("received {}", it.id)).collect();
            if all.is_empty() { "nothing".to_owned() } else { all.join("\n") }
        }
        Ok(Reply::Region(RegionReply::Done)) => "done".to_owned(),
        Ok(Reply::Region(RegionReply::At(at))) => format!("at {at}"),
        Ok(Reply::Region(RegionReply::Shipped { through, promoted })) => {
            format!("covers {through}{}", if promoted { ", promoted" } else { "" })
        }
        Ok(other) => format!("{other:?}"),
        Err(rejection) => format!("refused: {rejection}"),
    }
}

impl Runner for Script {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Failure> {
        let mut args = command.consume_args();
        let out = match command.name.as_str() {
            "east" => self.on(0, &mut args)?,
            "west" => self.on(1, &mut args)?,
            "protected" => {
                let [east, west] = &mut self.sides;
                protect(east, west);
                east.commit(
                    crate::queue::ids::LogTime(1_000),
                    vec![plain(create(super::stage::QUEUE))],
                );
                String::new()
            }
            "ship" => {
                let from = usize::from(args.lookup("from").is_some_and(|arg| arg.value == "west"));
                self.ship(from, args.lookup_parse("max")?.unwrap_or(100))
            }
            "late" => {
                let to = usize::from(args.next_pos().is_none_or(|arg| arg.value == "west"));
                let nth: usize = args.lookup_parse("nth")?.unwrap_or(0);
                let batch = self.shipped.get(nth).ok_or("nothing was shipped")?.clone();
                let answer = self.sides[to].region(RegionVerb::ApplyShipped(batch));
                show(answer.map(Reply::Region).map_err(Into::into))
            }
            "status" => self.status(),
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_rest()?;
        Ok(if out.is_empty() { out } else { out + "\n" })
    }
}
