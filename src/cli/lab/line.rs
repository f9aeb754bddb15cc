//! The line between a lab's two regions: a process of its own that carries every byte that one
//! region has for the other.
//!
//! Each node is told addresses of this process in the place of the other region's, so nothing in
//! a node knows of it. The line is cut by stopping the process (SIGSTOP): connections stay and say
//! nothing, new ones are taken by the system and never answered, in both directions at once, as a
//! lost line between two places does. When it is healed the process goes on, and what was on the
//! way arrives late, or at a connection that its sender has given up.
//!
//! Laws: a cut outlives the nodes and the process: it is in `lab.json`, and whoever starts the
//! process stops it again. Connections are bounded; one that fails at one end is ended at the
//! other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::files::{self, Lab, LabNode};
use super::process::{self, State};
use crate::cli::exit::{Exit, Usage};

/// Connections to one node at once; more wait.
const MOST_CONNECTIONS: usize = 256;
const CONNECT: Duration = Duration::from_secs(2);
/// What a connection holds of each direction.
const BUFFER: usize = 64 << 10;
/// How long the process may take to listen, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// The line, as `lab.json` holds it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Line {
    /// Where each node is reached from the other region.
    pub ports: Vec<LinePort>,
    pub cut: bool,
    pub process: Option<process::Id>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct LinePort {
    pub node: u64,
    pub port: u16,
}

impl Line {
    /// Where the other region reaches these nodes.
    #[must_use]
    pub fn to(&self, nodes: &[u64]) -> Vec<String> {
        let ports = self.ports.iter().filter(|port| nodes.contains(&port.node));
        ports.map(|port| format!("127.0.0.1:{}", port.port)).collect()
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.process.map_or(State::Down, process::state)
    }
}

/// A line for these nodes, on free ports from `from` on.
pub fn lay(
    nodes: &[LabNode],
    from: u16,
    taken: &mut Vec<u16>,
    passed: &mut Vec<u16>,
) -> anyhow::Result<Line> {
    let (mut line, mut next) = (Line::default(), from);
    for node in nodes {
        let port = files::free_port(next, taken, passed)?;
        taken.push(port);
        next = port.saturating_add(1);
        line.ports.push(LinePort { node: node.id, port });
    }
    Ok(line)
}

/// Starts the line's process where there is to be one and none runs, waits until it listens, and
/// cuts it again if it was cut. Saves the lab.
pub async fn ensure(lab: &mut Lab) -> anyhow::Result<()> {
    let Some(line) = &lab.file.line else { return Ok(()) };
    if line.state() == State::Down {
        let links = line.ports.iter().filter_map(|port| {
            let node = lab.node(port.node)?;
            Some(format!("127.0.0.1:{}={}", port.port, node.peer()))
        });
        let mut args = vec!["lab".to_owned(), "carry".to_owned()];
        args.extend(links);
        for port in &line.ports {
            if !files::is_free(port.port) {
                let text = format!(
                    "port {} of the line to node {} is in use by another process; end that \
                     process, or start a lab in another --dir",
                    port.port, port.node
                );
                return Err(Usage(text).into());
            }
        }
        let log = lab.dir.join("line.log");
        let started = process::start_leaving(&args, &log)?;
        let ports = line.ports.clone();
        if let Some(line) = &mut lab.file.line {
            line.process = Some(started);
        }
        lab.save()?;
        listening(started, &ports, &log).await?;
    }
    stand(lab).await
}

/// Waits until every port of the line takes connections.
async fn listening(
    id: process::Id,
    ports: &[LinePort],
    log: &std::path::Path,
) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    for port in ports {
        // Asked by a connection: who tried to bind the port might take it just then.
        while TcpStream::connect(("127.0.0.1", port.port)).await.is_err() {
            if process::state(id) == State::Down {
                anyhow::bail!("the line ended; {} says\n{}", log.display(), process::tail(log, 5));
            }
            if Instant::now() >= until {
                anyhow::bail!("the line does not listen; see {}", log.display());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// Makes the process stand still or go on, as `cut` says.
async fn stand(lab: &Lab) -> anyhow::Result<()> {
    let Some(Line { cut, process: Some(id), .. }) = lab.file.line else { return Ok(()) };
    let (what, expected) =
        if cut { (Signal::STOP, State::Paused) } else { (Signal::CONT, State::Running) };
    process::signal(id, what)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match process::state(id) {
            State::Down => anyhow::bail!("the line's process has ended; `zoneq lab start all`"),
            state if state == expected => return Ok(()),
            _ if Instant::now() >= until => anyhow::bail!("the line's process takes no signal"),
            _ => sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Cuts or heals the line, and saves the lab.
pub async fn set_cut(lab: &mut Lab, cut: bool) -> anyhow::Result<()> {
    let Some(line) = &mut lab.file.line else {
        return Err(Usage("this lab has one region, and no line to cut".to_owned()).into());
    };
    line.cut = cut;
    lab.save()?;
    ensure(lab).await
}

/// Ends the line's process; the caller saves the lab.
pub async fn end(lab: &mut Lab) -> anyhow::Result<()> {
    let Some(id) = lab.file.line.as_mut().and_then(|line| line.process.take()) else {
        return Ok(());
    };
    process::signal(id, Signal::KILL)?;
    match process::wait_gone(&[id], PATIENCE).await.first() {
        Some(id) => anyhow::bail!("process {} does not end", id.pid),
        None => Ok(()),
    }
}

/// `zoneq lab carry`: the process itself. `lab up` starts it.
#[derive(Debug, Args)]
pub struct Carry {
    /// Where it listens, and where that goes
    #[arg(required = true, value_name = "LISTEN=TARGET", value_parser = parse_link)]
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    listen: SocketAddr,
    target: SocketAddr,
}

fn parse_link(text: &str) -> Result<Link, String> {
    let wrong = || format!("{text:?} is no link; write LISTEN=TARGET, two addresses with ports");
    let (listen, target) = text.split_once('=').ok_or_else(wrong)?;
    let read = |address: &str| address.parse::<SocketAddr>().map_err(|_| wrong());
    Ok(Link { listen: read(listen)?, target: read(target)? })
}

impl Carry {
    /// Runs until it is ended from outside.
    pub async fn run(self) -> anyhow::Result<Exit> {
        process::leave()?;
        let mut carrying = Vec::new();
        for link in self.links {
            let listener = TcpListener::bind(link.listen)
                .await
                .with_context(|| format!("the line cannot listen on {}", link.listen))?;
            carrying.push(tokio::spawn(carry(listener, link.target)));
        }
        for link in carrying {
            link.await??;
        }
        Ok(Exit::Done)
    }
}

/// Takes connections, and carries each to the target until one end is done.
async fn carry(listener: TcpListener, target: SocketAddr) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let near = match listener.accept().await {
            Ok((near, _)) => near,
            // Of this connection, or for want of descriptors, which come back.
            Err(_) => {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            // What fails here fails at both ends, which is all that they may learn of it.
            let _ = join(near, target).await;
            drop(place);
        });
    }
}

async fn join(mut near: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut far = timeout(CONNECT, TcpStream::connect(target)).await??;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn a_link_is_two_addresses() {
        let link = parse_link("127.0.0.1:1=127.0.0.1:2").expect("two");
        assert_eq!((link.listen.port(), link.target.port()), (1, 2));
        for text in ["", "127.0.0.1:1", "127.0.0.1:1=there", "1=2"] {
            assert!(parse_link(text).expect_err(text).contains("is no link"), "{text}");
        }
    }

    #[tokio::test]
    async fn it_carries_both_ways_and_ends_both_ends() {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listen = listener.local_addr().expect("bound");
        let carrying = tokio::spawn(carry(listener, target.local_addr().expect("bound")));
        let mut near = TcpStream::connect(listen).await.expect("connected");
        let (mut far, _) = target.accept().await.expect("carried");
        near.write_all(b"there").await.expect("written");
        let mut read = [0; 5];
        far.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"there");
        far.write_all(b"back!").await.expect("written");
        near.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"back!");
        drop(far);
        assert_eq!(near.read(&mut read).await.expect("ended"), 0);
        // Nobody listens there any more: the near end learns it.
        drop(target);
        let mut late = TcpStream::connect(listen).await.expect("taken");
        assert_eq!(late.read(&mut read).await.unwrap_or(0), 0);
        carrying.abort();
    }

    #[test]
    fn a_region_is_told_the_lines_ports_of_the_other() {
        let ports = vec![LinePort { node: 1, port: 7 }, LinePort { node: 4, port: 8 }];
        let line = Line { ports, ..Line::default() };
        assert_eq!(line.to(&[4]), ["127.0.0.1:8"]);
        assert_eq!(line.state(), State::Down);
    }
}
