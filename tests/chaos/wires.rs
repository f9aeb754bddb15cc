//! A network of its own for each zone, so that packets can be dropped one way, or some of them.
//!
//! Every zone is a namespace with one wire to a router, which is a namespace too; clients stand
//! outside and have a wire to the router as well, and so does the line between two regions. The
//! router drops what a rule says, silently.
//!
//! Laws: nothing outside these namespaces is changed but for one interface and one route, which
//! go with them. Two regions have one router, and a region knows its own places alone.

use std::sync::Arc;

use crate::cluster::ZONES;
use crate::machine::{Means, run};

/// Where clients are, as a place on the router; zones count from one.
pub const CLIENTS: u64 = 0;

/// The wires of one region.
#[derive(Clone, Debug)]
pub struct Wires {
    all: Arc<Namespaces>,
    /// Places of the regions before it.
    before: u64,
}

impl Wires {
    /// Those of so many regions, each or none, as the faults need them.
    pub fn of_regions<const N: usize>(means: &[Means]) -> Result<[Option<Wires>; N], String> {
        if !means.iter().any(|means| matches!(means, Means::Namespaces | Means::Loss)) {
            return Ok([const { None }; N]);
        }
        let all = Arc::new(Namespaces::new(N as u64 * ZONES)?);
        let of = |region| Wires { all: Arc::clone(&all), before: region as u64 * ZONES };
        Ok(std::array::from_fn(|region| Some(of(region))))
    }

    fn place(&self, id: u64) -> u64 {
        if id == CLIENTS { CLIENTS } else { self.before + id }
    }

    /// The namespace of a zone.
    pub fn zone(&self, id: u64) -> String {
        self.all.zone(self.place(id))
    }

    pub fn address(&self, id: u64) -> String {
        self.all.address(self.place(id))
    }

    /// Drops, or no longer drops, what goes from one zone to another, or to or from clients.
    pub fn drop_packets(&self, from: u64, to: u64, drops: bool) -> Result<(), String> {
        self.all.drop_packets(self.place(from), self.place(to), drops)
    }

    /// Loses so many in a hundred of the packets to each of these zones and from it.
    pub fn lose_some(&self, ids: &[u64], percent: u64) -> Result<(), String> {
        ids.iter().try_for_each(|id| self.all.lose_some(self.place(*id), percent))
    }

    /// Loses none of them any more.
    pub fn lose_none(&self) -> Result<(), String> {
        self.all.lose_none()
    }
}
/// The router's table of what is lost by chance.
const LOSS: &str = "loss";

#[derive(Debug)]
pub struct Namespaces {
    /// Before every name, so that two runs do not meet.
    tag: String,
    /// The second number of every address.
    net: u32,
    zones: u64,
}

impl Namespaces {
    pub fn new(zones: u64) -> Result<Namespaces, String> {
        let own = std::process::id();
        let (tag, net) = (format!("zq{own}"), 64 + own % 128);
        let wires = Namespaces { tag, net, zones };
        wires.build()?;
        Ok(wires)
    }

    fn build(&self) -> Result<(), String> {
        let router = self.router();
        run("ip", &["netns", "add", &router])?;
        ip(&format!("-n {router} link set lo up"))?;
        run("ip", &["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        let outside = &self.tag;
        self.wire(CLIENTS, outside)?;
        ip(&format!("addr add {}/24 dev {outside}", self.address(CLIENTS)))?;
        ip(&format!("link set {outside} up"))?;
        let (net, gate) = (self.net, self.gate(CLIENTS));
        ip(&format!("route add 10.{net}.0.0/16 via {gate} dev {outside}"))?;
        for zone in 1..=self.zones {
            let (name, inside) = (self.zone(zone), "up0");
            run("ip", &["netns", "add", &name])?;
            let end = format!("{}e{zone}", self.tag);
            self.wire(zone, &end)?;
            ip(&format!("link set {end} netns {name}"))?;
            ip(&format!("-n {name} link set {end} name {inside}"))?;
            ip(&format!("-n {name} addr add {}/24 dev {inside}", self.address(zone)))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set {inside} up"))?;
            ip(&format!("-n {name} route add default via {}", self.gate(zone)))?;
        }
        Ok(())
    }

    /// A wire from a place to the router, whose end out there has this name.
    fn wire(&self, place: u64, end: &str) -> Result<(), String> {
        let (router, port) = (self.router(), format!("{}r{place}", self.tag));
        ip(&format!("link add {end} type veth peer name {port}"))?;
        ip(&format!("link set {port} netns {router}"))?;
        ip(&format!("-n {router} addr add {}/24 dev {port}", self.gate(place)))?;
        ip(&format!("-n {router} link set {port} up"))
    }

    fn router(&self) -> String {
        format!("{}r", self.tag)
    }

    /// The namespace of a zone.
    pub fn zone(&self, zone: u64) -> String {
        format!("{}z{zone}", self.tag)
    }

    fn gate(&self, place: u64) -> String {
        format!("10.{}.{place}.1", self.net)
    }

    pub fn address(&self, place: u64) -> String {
        format!("10.{}.{place}.2", self.net)
    }

    /// Drops, or no longer drops, what goes from one place to another.
    pub fn drop_packets(&self, from: u64, to: u64, drops: bool) -> Result<(), String> {
        let verb = if drops { "add" } else { "del" };
        let (router, from, to) = (self.router(), self.address(from), self.address(to));
        ip(&format!("-n {router} rule {verb} from {from} to {to} pref 100 blackhole"))
    }

    /// Loses so many in a hundred of the packets to a place and from it, each by itself.
    pub fn lose_some(&self, place: u64, percent: u64) -> Result<(), String> {
        self.nft(&format!("add table ip {LOSS}"))?;
        let hook = "{ type filter hook forward priority 0 ; }";
        self.nft(&format!("add chain ip {LOSS} forward {hook}"))?;
        for way in ["saddr", "daddr"] {
            let (at, dice) = (self.address(place), "numgen random mod 100");
            self.nft(&format!("add rule ip {LOSS} forward ip {way} {at} {dice} < {percent} drop"))?;
        }
        Ok(())
    }

    /// Loses none any more.
    pub fn lose_none(&self) -> Result<(), String> {
        self.nft(&format!("delete table ip {LOSS}"))
    }

    /// What the router's filter is told.
    fn nft(&self, line: &str) -> Result<(), String> {
        let network = format!("--net=/run/netns/{}", self.router());
        let words = [&network, "nft"].into_iter().chain(line.split_whitespace());
        run("nsenter", &words.collect::<Vec<_>>()).map(drop)
    }
}

fn ip(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run("ip", &words).map(drop)
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What was not built is not there.
        for zone in 1..=self.zones {
            let _ = run("ip", &["netns", "del", &self.zone(zone)]);
        }
        let _ = run("ip", &["netns", "del", &self.router()]);
        let _ = run("ip", &["link", "del", &self.tag]);
    }
}
