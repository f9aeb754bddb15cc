//! Who changes the membership of a region while faults go on, by the verbs that operators have:
//! adds nodes, makes them voters, replaces and removes them, and takes their hosts back under new
//! node ids. What is drawn sets a goal, who is to vote; each turn does the next step towards it.
//!
//! Laws: every step may be refused, or be of unknown fate, and is asked again, from time to time at
//! two nodes at once. A host is taken from its node only when a change of voters was acknowledged
//! that leaves the node out. A node that refuses to start, because its disk was hurt, is replaced
//! by one with a new id, as the pages for operators say; and a node that is in doubt about its last
//! record, and waits for one that is gone, is told to give it up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::transport::Channel;
use zoneq::consensus::network::{ChannelOptions, channel};
use zoneq::proto::admin::v1 as pb;
use zoneq::proto::admin::v1::cluster_service_client::ClusterServiceClient;
use zoneq::proto::admin::v1::mend_service_client::MendServiceClient;
use zoneq::storage::disk::faulty::Dice;

use crate::history::SharedHistory;
use crate::layout::{Layout, host_name};
use crate::network::{SimNetwork, now_us};
use crate::schedule::Change;
use crate::seats::{Seat, Seats, Wish, zone_name};

const WHO: &str = "the operator";
/// One verb has this long at one node.
const WITHIN: Duration = Duration::from_secs(4);
/// A look has this long.
const LOOK: Duration = Duration::from_secs(1);
/// Once all faults have healed the goal is reached after this many turns at the latest.
const TURNS: usize = 300;

/// One call of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verb {
    Add(u64, String, String),
    Voters(BTreeSet<u64>),
    Replace(u64, u64),
    Remove(u64),
    Transfer,
}

/// The members as the leader has them.
#[derive(Clone, Debug, Default)]
struct Members {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
}

/// What a verb came to.
enum Came {
    Done,
    Refused(String),
    /// Nobody said.
    Nothing,
}

pub struct Operator {
    dice: Dice,
    history: SharedHistory,
    seats: Seats,
    hosts: Vec<u64>,
    channels: BTreeMap<u64, Channel>,
    /// Who is to vote.
    goal: BTreeSet<u64>,
    /// Who votes, as a change was acknowledged last. While two sets of voters count, a status shows
    /// both as one.
    acknowledged: BTreeSet<u64>,
    /// Nodes that are known to refuse to start.
    refused: BTreeSet<u64>,
    /// Of the region, which may begin anew under the operator's hands.
    generation: u64,
}

fn limited<T>(message: T, within: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(within);
    request
}

impl Operator {
    pub fn new(
        seed: u64,
        layout: &Layout,
        network: &SimNetwork,
        history: SharedHistory,
        seats: Seats,
    ) -> Operator {
        let options = ChannelOptions::for_election(Duration::from_millis(400));
        let channel = |host: u64| {
            let address = format!("{}:7401", host_name(host));
            Some((host, channel(Arc::new(network.clone()), &address, &options).ok()?))
        };
        let hosts = layout.of_region(0).to_vec();
        let channels = hosts.iter().filter_map(|host| channel(*host)).collect();
        let goal: BTreeSet<u64> = seats.all().into_keys().collect();
        let (acknowledged, refused) = (goal.clone(), BTreeSet::new());
        let dice = Dice::new(seed ^ 0x7365_6174_7300);
        let generation = seats.generation();
        Operator { dice, history, seats, hosts, channels, goal, acknowledged, refused, generation }
    }

    /// Works until told to stop, and then until the members are who they are to be; whether they
    /// are.
    pub async fn work(mut self, stop: Arc<AtomicBool>) -> bool {
        while !stop.load(Ordering::Relaxed) {
            self.pause(600).await;
            self.turn(false).await;
        }
        for _ in 0..TURNS {
            self.pause(200).await;
            if self.turn(true).await {
                return true;
            }
        }
        false
    }

    async fn pause(&mut self, longest_ms: u64) {
        let pause = 50 + self.dice.below(longest_ms);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.history.lock().event(now_us().unwrap_or_default(), what);
    }

    /// Whether the region began anew, so that what this operator knows is of a cluster that was.
    fn is_of_before(&self) -> bool {
        self.seats.generation() != self.generation
    }

    /// A region that began anew has its founders, who are to vote.
    fn look_for_beginnings(&mut self) {
        if self.is_of_before() {
            self.generation = self.seats.generation();
            self.goal = self.seats.all().into_keys().collect();
            self.acknowledged = self.goal.clone();
            self.refused.clear();
        }
    }

    /// Does the next step; whether there is none.
    async fn turn(&mut self, ends: bool) -> bool {
        self.look_for_beginnings();
        self.help_to_mend().await;
        let Some(members) = self.look().await else { return false };
        self.look_for_refusals(&members).await;
        let change = self.seats.take_change().filter(|_| !ends);
        let is_reached = members.voters == self.goal && self.acknowledged == self.goal;
        if !is_reached || !members.learners.is_empty() {
            // It was to vote, and will not.
            let mut lost = self.goal.intersection(&self.refused);
            if lost.any(|node| !members.voters.contains(node)) || change == Some(Change::ThinkAgain)
            {
                self.goal = self.acknowledged.clone();
                self.note(format_args!("the operator thinks again: {:?} are to vote", self.goal));
            }
            self.step(&members).await;
            return false;
        }
        let sit = self.seats.all();
        if sit.keys().any(|node| !self.goal.contains(node)) {
            self.take_seats().await;
            return false;
        }
        if let Some(lost) = self.goal.intersection(&self.refused).next().copied() {
            self.replace_lost(lost).await;
            return false;
        }
        match change {
            Some(change) => self.begin(change).await,
            None => return true,
        }
        false
    }

    /// A node that has not joined yet may wait for the word of one that refused: it starts again,
    /// with a list of peers without that one.
    async fn look_for_refusals(&mut self, members: &Members) {
        let refused = self.seats.refused();
        let is_new = !refused.is_subset(&self.refused);
        self.refused = refused;
        if !is_new {
            return;
        }
        for (node, host) in self.seats.all() {
            if !members.voters.contains(&node) && !self.refused.contains(&node) {
                self.grant(Wish::Restart(host)).await;
            }
        }
    }

    /// What is drawn becomes the goal.
    async fn begin(&mut self, change: Change) {
        match change {
            Change::Replace(nth) => {
                let voters: Vec<u64> = self.goal.iter().copied().collect();
                self.replace(voters[nth as usize % voters.len()]).await;
            }
            Change::LoseDisk => {
                if let Some(host) = self.seats.weak().first() {
                    self.grant(Wish::Wipe(*host)).await;
                }
            }
            Change::Grow => {
                while let Some(host) = self.idle().filter(|_| self.goal.len() < 5) {
                    let zones = self.goal.iter().filter_map(|node| self.seat(*node));
                    let zones: Vec<u64> = zones.map(|seat| seat.zone).collect();
                    let is_alone = |zone: &u64| zones.iter().filter(|it| *it == zone).count() < 2;
                    let Some(zone) = (1..=3).find(is_alone) else { return };
                    self.sit(host, zone).await;
                }
            }
            Change::Shrink(nth) => self.shrink(nth),
            Change::ThinkAgain => {}
        }
    }

    /// One voter for each zone, of two that one which is not lost.
    fn shrink(&mut self, nth: u64) {
        let mut kept = BTreeMap::new();
        for (at, node) in self.goal.iter().enumerate() {
            let Some(Seat { zone, .. }) = self.seat(*node) else { continue };
            let rank = (self.refused.contains(node), nth >> at & 1);
            let best = kept.entry(zone).or_insert((rank, *node));
            *best = (*best).min((rank, *node));
        }
        self.goal = kept.into_values().map(|(_, node)| node).collect();
    }

    fn seat(&self, node: u64) -> Option<Seat> {
        let host = self.seats.host_of(0, node)?;
        self.seats.of(host)
    }

    /// A host without a node.
    fn idle(&self) -> Option<u64> {
        self.hosts.iter().copied().find(|host| self.seats.of(*host).is_none())
    }

    async fn replace_lost(&mut self, lost: u64) {
        if self.idle().is_some() {
            self.replace(lost).await;
        } else {
            self.shrink(0);
        }
    }

    /// Another node of the same zone, on a host to spare, is to vote for this one.
    async fn replace(&mut self, old: u64) {
        let (Some(host), Some(seat)) = (self.idle(), self.seat(old)) else { return };
        self.goal.remove(&old);
        self.sit(host, seat.zone).await;
    }

    async fn sit(&mut self, host: u64, zone: u64) {
        let seat = self.seats.new_seat(zone);
        self.goal.insert(seat.node);
        self.note(format_args!("{seat:?} is to sit on host {host}, and {:?} to vote", self.goal));
        self.grant(Wish::Sit(host, seat)).await;
    }

    /// Waits until the world has done it.
    async fn grant(&self, wish: Wish) {
        self.seats.wish(wish);
        while self.seats.has_wishes() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The next verb towards the goal.
    async fn step(&mut self, members: &Members) {
        let is_member =
            |node: &u64| members.voters.contains(node) || members.learners.contains(node);
        let added = self.goal.iter().copied().find(|node| !is_member(node));
        let verb = if let Some(node) = added {
            let (Some(host), Some(seat)) = (self.seats.host_of(0, node), self.seat(node)) else {
                return;
            };
            Verb::Add(node, zone_name(seat.zone), host_name(host))
        } else if members.voters != self.goal || self.acknowledged != self.goal {
            let gone: Vec<u64> = members.voters.difference(&self.goal).copied().collect();
            let come: Vec<u64> = self.goal.difference(&members.voters).copied().collect();
            match (&gone[..], &come[..]) {
                ([old], [new]) if self.dice.below(3) > 0 => Verb::Replace(*old, *new),
                _ => Verb::Voters(self.goal.clone()),
            }
        } else {
            let gone = members.learners.iter().copied().find(|node| !self.goal.contains(node));
            let Some(gone) = gone else { return };
            Verb::Remove(gone)
        };
        match self.ask(&verb).await {
            Came::Done if matches!(verb, Verb::Voters(_) | Verb::Replace(..)) => {
                self.acknowledged = self.goal.clone();
            }
            Came::Refused(why) if why.contains("hand leadership over") => {
                self.ask(&Verb::Transfer).await;
            }
            _ => {}
        }
    }

    /// Has the voters acknowledged once more, and takes the hosts from all other nodes.
    async fn take_seats(&mut self) {
        if !matches!(self.ask(&Verb::Voters(self.goal.clone())).await, Came::Done) {
            return;
        }
        for (node, host) in self.seats.all() {
            // A yes of the cluster that was says nothing of who sits now.
            if self.is_of_before() {
                return;
            }
            if !self.goal.contains(&node) {
                self.note(format_args!("node {node} leaves host {host}"));
                self.grant(Wish::Leave(host)).await;
            }
        }
    }

    /// The hosts of nodes, from a random one on.
    fn asked(&mut self) -> Vec<(u64, Channel)> {
        let sit: BTreeSet<u64> = self.seats.all().into_values().collect();
        let of = self.channels.iter().filter(|(host, _)| sit.contains(host));
        let mut asked: Vec<_> = of.map(|(host, channel)| (*host, channel.clone())).collect();
        let first = self.dice.below(asked.len().max(1) as u64) as usize;
        asked.rotate_left(first);
        asked
    }

    /// Who the members are, as the one says who leads the newest term.
    async fn look(&mut self) -> Option<Members> {
        let looks = self.asked().into_iter().map(|(_, channel)| async move {
            let mut client = ClusterServiceClient::new(channel);
            let asked = client.get_status(limited(pb::GetStatusRequest::default(), LOOK));
            tokio::time::timeout(LOOK, asked).await.ok()?.ok().map(tonic::Response::into_inner)
        });
        let told = futures::future::join_all(looks).await.into_iter().flatten();
        let leads = told.filter(|status| status.leader_id == status.node_id);
        let newest = leads.max_by_key(|status| status.term)?;
        let mut members = Members::default();
        for node in newest.nodes {
            let those = if node.voter { &mut members.voters } else { &mut members.learners };
            those.insert(node.id);
        }
        Some(members)
    }

    /// Asks node after node until one says yes or no; one time in four two at once.
    async fn ask(&mut self, verb: &Verb) -> Came {
        self.note(format_args!("the operator asks {verb:?}"));
        let asked = self.asked();
        let at_once = if self.dice.below(4) == 0 { 2 } else { 1 };
        for some in asked.chunks(at_once) {
            let calls = some.iter().map(|(_, channel)| call(channel.clone(), verb));
            let answers = futures::future::join_all(calls).await;
            for answer in &answers {
                let what = answer.as_ref().err().map_or("done", tonic::Status::message);
                self.note(format_args!("the operator is told: {what}"));
            }
            if answers.iter().any(Result::is_ok) {
                let name = name(verb);
                *self.history.lock().verbs.entry(name).or_default() += 1;
                return Came::Done;
            }
            let refused = answers.into_iter().filter_map(Result::err);
            let mut refused = refused.filter(|it| it.code() == tonic::Code::FailedPrecondition);
            if let Some(status) = refused.next() {
                return Came::Refused(status.message().to_owned());
            }
        }
        Came::Nothing
    }

    /// A node in doubt that waits only for nodes that are gone gives its last record up.
    async fn help_to_mend(&mut self) {
        for (host, channel) in self.asked() {
            let mut client = MendServiceClient::new(channel);
            let asked = client.get_mending(limited(pb::GetMendingRequest {}, LOOK / 4));
            let Ok(Ok(told)) = tokio::time::timeout(LOOK / 4, asked).await else { continue };
            let told = told.into_inner();
            let sit = self.seats.all();
            let is_gone = |node: &u64| self.refused.contains(node) || !sit.contains_key(node);
            let is_in_doubt = told.trouble() == pb::MendingTrouble::Doubt;
            if !is_in_doubt
                || told.silent_nodes.is_empty()
                || !told.silent_nodes.iter().all(is_gone)
            {
                continue;
            }
            self.note(format_args!("node {} on host {host} is to give up: {told:?}", told.node_id));
            let (first_index, last_index) = (told.first_index, told.last_index);
            let request = pb::AcceptLossRequest { first_index, last_index };
            let asked = client.accept_loss(limited(request, LOOK));
            if let Ok(Ok(_)) = tokio::time::timeout(LOOK, asked).await {
                *self.history.lock().verbs.entry("cluster mend --accept").or_default() += 1;
            }
        }
    }
}

fn name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Add(..) => "cluster add",
        Verb::Voters(_) => "cluster voters",
        Verb::Replace(..) => "cluster replace",
        Verb::Remove(_) => "cluster remove",
        Verb::Transfer => "cluster transfer",
    }
}

async fn call(channel: Channel, verb: &Verb) -> Result<(), tonic::Status> {
    let mut client = ClusterServiceClient::new(channel);
    let who = WHO.to_owned();
    let asked = async {
        match verb.clone() {
            Verb::Add(id, zone, host) => {
                let (peer_address, grpc_address) = (format!("{host}:7501"), format!("{host}:7401"));
                let request = pb::AddLearnerRequest { id, zone, peer_address, grpc_address, who };
                client.add_learner(limited(request, WITHIN)).await.map(drop)
            }
            Verb::Voters(voters) => {
                let voters = voters.into_iter().collect();
                let request = pb::ChangeVotersRequest { voters, degraded: false, who };
                client.change_voters(limited(request, WITHIN)).await.map(drop)
            }
            Verb::Replace(old_id, new_id) => {
                let request = pb::ReplaceNodeRequest { old_id, new_id, who };
                client.replace_node(limited(request, WITHIN)).await.map(drop)
            }
            Verb::Remove(id) => {
                let request = pb::RemoveNodeRequest { id, degraded: false, who };
                client.remove_node(limited(request, WITHIN)).await.map(drop)
            }
            Verb::Transfer => {
                let request = pb::TransferLeaderRequest { to: 0 };
                client.transfer_leader(limited(request, WITHIN)).await.map(drop)
            }
        }
    };
    let late = |_| tonic::Status::deadline_exceeded("no answer in time");
    tokio::time::timeout(WITHIN, asked).await.map_err(late)?
}
