//! Two regions of real processes, the line between them, and who operates them.
//!
//! The line is a process of its own, as in a lab: what one region has for the other goes through
//! it, and it is cut by stopping it.
//!
//! Laws: while the operator works, time passes and nodes that stop by themselves are looked after;
//! a region begins anew only when all its nodes are up and agree, and the logs that it leaves are
//! kept until they are replayed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zoneq::storage::disk::faulty::Dice;

use crate::cluster::{Address, Cluster, PATIENCE, Place, ZONES, free_ports};
use crate::history::{Cluster as Site, REGIONS, SharedHistory, Told, Verb};
use crate::looks::{Looks, Watch};
use crate::machine::Means;
use crate::node::{Node, Under};
use crate::operator::{self, Client, Operator, Wishes};
use crate::session::Plan;
use crate::wires::{CLIENTS, Wires};
use crate::{now, say};

/// Salt of what becomes of tails.
const TAILS: u64 = 0x7461_696c_7300;
/// Between two looks at who has work to do.
const BEAT: Duration = Duration::from_millis(10);
/// The ports of a region's nodes, for clients and for peers.
const PORTS: usize = 2 * ZONES as usize;

/// What an operator is to do.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// A verb, at this region.
    Act(usize, Verb),
    /// Sets the shape of the line and the region lease, as the dice say.
    Set,
    /// Mends until the pair is whole.
    Settle,
    /// Compares the data of both.
    Verify,
}

/// An operator at work; he comes back with whether it came to what it should.
pub type Working = JoinHandle<(Operator, bool)>;

/// What a cluster left when its region began anew: the data of its nodes.
pub struct Left {
    pub site: Site,
    pub data: Vec<PathBuf>,
}

pub struct Regions {
    pub sides: [Cluster; 2],
    line: Node,
    operator: Option<Operator>,
    wishes: Wishes,
    pub looks: Looks,
    pub left: Vec<Left>,
    pub history: SharedHistory,
}

impl Regions {
    /// Starts both and the line, with what the faults need.
    pub async fn start(
        home: &Path,
        plan: &Plan<'_>,
        means: &[Means],
        history: &SharedHistory,
    ) -> Result<Regions, String> {
        let ports = free_ports(2 * PORTS + 2 * ZONES as usize)?;
        let (nodes, carried) = ports.split_at(2 * PORTS);
        let [of_east, of_west] = Wires::of_regions(means)?;
        let place = |region: usize, wires: Option<Wires>| {
            let ports = nodes[region * PORTS..][..PORTS].to_vec();
            Place { region, ports, other: Vec::new(), wires }
        };
        let mut places = [place(0, of_east), place(1, of_west)];
        let carried = |region: usize| &carried[region * ZONES as usize..][..ZONES as usize];
        let links = [0, 1].map(|region| links(&places[region], carried(region)));
        let line = start_line(home, &links.concat()).await?;
        for (place, links) in places.iter_mut().zip(links.iter().rev()) {
            place.other = links.iter().map(|link| link.from.clone()).collect();
        }
        let side = |place: &Place| {
            let folder = home.join(REGIONS[place.region]);
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            Cluster::start(&folder, place, plan, means, history.clone())
        };
        let sides = [side(&places[0])?, side(&places[1])?];
        let wishes = Wishes::default();
        let operator = operator(plan.seed, &sides, history, &wishes);
        let (operator, looks, left) = (Some(operator), Looks::default(), Vec::new());
        Ok(Regions { sides, line, operator, wishes, looks, left, history: history.clone() })
    }

    /// Looks at all nodes and both sides, until it is ended.
    pub fn watch(&self, seed: u64) -> Watch {
        let reached = Cluster::reached(&self.addresses()).into_iter();
        let nodes = reached.map(|node| (node.region, node.channel)).collect();
        let watching = operator(seed ^ 1, &self.sides, &self.history, &Wishes::default());
        Watch::begin(nodes, watching, &self.history, &self.looks)
    }

    pub fn addresses(&self) -> Vec<Address> {
        self.sides.iter().flat_map(Cluster::addresses).collect()
    }

    /// Lets time pass.
    pub async fn pass(&mut self, span: Duration) -> Result<(), String> {
        let [east, west] = &mut self.sides;
        let (one, other) = futures::future::join(east.pass(span), west.pass(span)).await;
        one.and(other)?;
        while let Some(region) = self.wishes.next() {
            self.begin_anew(region).await?;
            self.wishes.done();
        }
        Ok(())
    }

    /// All disks of a region are replaced, once its nodes are up and agree.
    async fn begin_anew(&mut self, region: usize) -> Result<(), String> {
        let side = &mut self.sides[region];
        side.whole(PATIENCE).await?;
        let site = side.site();
        let data = side.begin_anew()?;
        self.left.push(Left { site, data });
        Ok(())
    }

    /// Sends the operator to work.
    pub fn begin(&mut self, task: Task) -> Result<Working, String> {
        let mut operator = self.operator.take().ok_or("the operator is at work")?;
        Ok(tokio::spawn(async move {
            let done = match task {
                Task::Act(region, verb) => operator.act(region, verb).await,
                Task::Set => {
                    let sides = operator.look_at_both().await;
                    operator.set(&sides).await;
                    true
                }
                Task::Settle => operator.settle().await,
                Task::Verify => operator.verify().await,
            };
            (operator, done)
        }))
    }

    /// Waits for him.
    pub async fn end(&mut self, working: Working) -> Result<bool, String> {
        while !working.is_finished() {
            self.pass(BEAT).await?;
        }
        let (operator, done) = working.await.map_err(|error| error.to_string())?;
        self.operator = Some(operator);
        Ok(done)
    }

    pub async fn run(&mut self, task: Task) -> Result<bool, String> {
        let working = self.begin(task)?;
        self.end(working).await
    }

    /// What both sides say.
    pub async fn told(&mut self) -> Result<[Option<Told>; 2], String> {
        let operator = self.operator.as_mut().ok_or("the operator is at work")?;
        Ok(operator.look_at_both().await)
    }

    /// What one side says.
    pub async fn told_of(&mut self, region: usize) -> Result<Option<Told>, String> {
        let operator = self.operator.as_mut().ok_or("the operator is at work")?;
        Ok(operator.look(region).await)
    }

    /// Which is the primary of a pair that is whole, and which its copy.
    pub async fn roles(&mut self) -> Result<(usize, usize), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let sides = self.told().await?;
            if let Some(primary) = operator::primary(&sides)
                && operator::is_whole(&sides)
            {
                return Ok((primary, 1 - primary));
            }
            if Instant::now() >= until {
                return Err(format!("the pair is not whole: {sides:?}"));
            }
            self.pass(BEAT).await?;
        }
    }

    /// Cuts the line or heals it.
    pub fn cut(&self, cut: bool) -> Result<(), String> {
        say(&self.history, if cut { "the line is cut" } else { "the line is whole again" });
        self.line.signal(if cut { Signal::STOP } else { Signal::CONT })
    }

    /// Stops all nodes of a region, or lets them go on.
    pub fn stop(&self, region: usize, stop: bool) -> Result<(), String> {
        let signal = if stop { Signal::STOP } else { Signal::CONT };
        self.sides[region].nodes.iter().try_for_each(|node| node.signal(signal))
    }

    /// SIGKILL of all nodes of a region at once.
    pub fn kill(&mut self, region: usize) -> Result<(), String> {
        let side = &mut self.sides[region];
        side.nodes.iter().try_for_each(|node| node.signal(Signal::KILL))?;
        (1..=ZONES).for_each(|id| side.hold_down(id));
        say(&self.history, &format!("{} is killed", REGIONS[region]));
        Ok(())
    }

    /// Starts those that a fault holds down.
    pub fn bring_back(&mut self, region: usize) -> Result<(), String> {
        let side = &mut self.sides[region];
        let held: Vec<u64> =
            side.nodes.iter().filter(|node| node.is_held).map(|node| node.id).collect();
        held.into_iter().try_for_each(|id| side.release(id))
    }

    /// SIGKILL of a node.
    pub fn kill_node(&mut self, region: usize, id: u64) {
        say(&self.history, &format!("node {id} of {} is killed", REGIONS[region]));
        self.sides[region].hold_down(id);
    }

    /// Waits until every node of both regions serves.
    pub async fn whole(&mut self) -> Result<(), String> {
        for side in &mut self.sides {
            side.whole(PATIENCE).await?;
        }
        Ok(())
    }

    pub async fn words(&mut self) -> String {
        let sides = match self.operator.as_mut() {
            Some(operator) => format!("{:?}", operator.look_at_both().await),
            None => "the operator is at work".to_owned(),
        };
        let (east, west) = (self.sides[0].words().await, self.sides[1].words().await);
        format!("at {} ms: {sides}; east: {east}; west: {west}", now() / 1_000)
    }
}

/// Where the line listens, and the node that it has there.
#[derive(Clone, Debug)]
struct Link {
    from: String,
    to: String,
}

/// What the line has of a region's nodes, by the ports that it listens on for them.
fn links(place: &Place, carried: &[u16]) -> Vec<Link> {
    let peer_ports = place.ports.iter().skip(1).step_by(2);
    let link = |(id, (from, to)): (u64, (&u16, &u16))| Link {
        from: format!("{}:{from}", place.host(CLIENTS)),
        to: format!("{}:{to}", place.host(id)),
    };
    (1..).zip(carried.iter().zip(peer_ports)).map(link).collect()
}

/// The line, which listens.
async fn start_line(home: &Path, links: &[Link]) -> Result<Node, String> {
    let words = links.iter().map(|link| format!("{}={}", link.from, link.to));
    let args = ["lab", "carry"].map(str::to_owned).into_iter().chain(words).collect();
    let mut line = Node::new(0, String::new(), args, home.join("line.log"));
    line.start(&Under::Nothing)?;
    let until = Instant::now() + PATIENCE;
    for link in links {
        while TcpStream::connect(&link.from).await.is_err() {
            if let Some(why) = line.ended() {
                return Err(format!("the line ended: {why}"));
            }
            if Instant::now() >= until {
                return Err("the line does not listen".to_owned());
            }
            tokio::time::sleep(BEAT).await;
        }
    }
    Ok(line)
}

/// One who reaches all nodes of both.
fn operator(seed: u64, sides: &[Cluster; 2], history: &SharedHistory, wishes: &Wishes) -> Operator {
    let of = |side: &Cluster| {
        let reached = Cluster::reached(&side.addresses()).into_iter();
        reached.map(|node| Client::new(node.channel)).collect()
    };
    let regions = sides.iter().map(of).collect();
    let tails = Some(Dice::new(seed ^ TAILS));
    Operator::new(seed, regions, now, history.clone(), wishes.clone(), tails)
}
