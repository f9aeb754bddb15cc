//! Whether a node with an empty disk may take part under its id.
//!
//! The law: a voter that lost its disk has forgotten its votes and the entries it acknowledged;
//! back under its old id it could undo a commit. So before a node whose disk holds neither vote
//! nor log takes part, it asks every node it was told of. Only the first forming of a cluster,
//! where all are empty, and a node that is not a voter yet may begin with nothing. Until it is
//! admitted it neither votes nor takes entries, and founders form only when all are admitted.
//! That it was admitted to a forming is kept before it says so, as a vote of term 0: one that
//! dies then, before its first promise, comes back with a disk that is known to have lost none.
//!
//! A disk may also have lost only the end of its log, and nothing on it tells. Who knows is the
//! leader to which the entries were acknowledged: before Raft starts, a node asks whether it is
//! remembered to have held more than it does.
//!
//! Refuses an id that a formed cluster counts as a voter, or whose entries a leader has seen;
//! and, while a node does not answer and none has refused, does not decide. Refuses a log that
//! ends before what its node acknowledged in its newest term.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::transport::{PeerClient, Peers};
use crate::proto::peer::v1::{GetStandingResponse, NodeStanding};
use crate::storage::error::StorageError;

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(100);
/// One question's deadline.
const QUESTION: Duration = Duration::from_millis(500);

/// What a node's disk holds when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// Neither vote nor log.
    Nothing,
    /// That the node was admitted to the forming of a cluster, and nothing that came later.
    Admission,
    /// A vote, or entries.
    Promises,
}

/// How a node may take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its disk knows votes or entries, or that it never had any: it goes on where it was.
    Known,
    /// Its disk holds no promise and nor does anybody's: the cluster is being formed.
    Forming,
    /// Its disk is empty and the cluster formed: it waits to be added.
    Joining,
}

/// Why a node may not take part under its id.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error(
        "node {node} is {} of cluster {cluster} (so says node {witness}), but its disk is empty: \
         it lost what it acknowledged and must not come back under this id; start it with a new \
         node id and replace node {node} by it",
        if *voter { "a voter" } else { "a member" }
    )]
    Wiped { node: u64, cluster: String, witness: u64, voter: bool },
    #[error(
        "node {node} acknowledged entry {acknowledged} in term {term} (so says its leader, node \
         {witness}), but its log ends with entry {last}: its disk lost what was durable, and it \
         must not come back under this id; start it with a new node id and an empty data \
         directory, and replace node {node} by it"
    )]
    FellBack { node: u64, witness: u64, acknowledged: u64, term: u64, last: u64 },
    #[error(
        "the disk of node {node} is empty, and before it may take part every node must say \
         whether it was ever used, and be ready itself; not heard so from node(s) {}",
        list(silent)
    )]
    Undecided { node: u64, silent: BTreeSet<u64> },
    #[error("node {node} cannot keep that it was admitted to the forming of its cluster")]
    Unkept {
        node: u64,
        #[source]
        source: StorageError,
    },
}

fn list(nodes: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}

/// Asks the nodes at these peer addresses until it is clear whether this node may take part,
/// or `deadline` has passed. A node with promises on its disk is not asked about; nor is one
/// that was told of no others. `keep` makes durable that it was admitted to a forming.
pub async fn admission_check<F>(
    peers: &Peers,
    held: OnDisk,
    others: &BTreeMap<u64, String>,
    deadline: Duration,
    keep: impl Fn() -> F,
) -> Result<Admission, AdmissionError>
where
    F: Future<Output = Result<(), StorageError>>,
{
    if held == OnDisk::Promises {
        return Ok(Admission::Known);
    }
    let node = peers.node();
    let mut clients = clients(peers, others);
    let expected: BTreeSet<u64> = clients.keys().copied().collect();
    let mut answers = BTreeMap::new();
    if held == OnDisk::Admission {
        peers.set_admitted();
    }
    let rounds = async {
        loop {
            ask(&mut clients, &mut answers).await;
            if held == OnDisk::Admission && answers.values().any(|answer| answer.formed) {
                // It promised nothing, so nothing is lost: the others bring it the log.
                return Ok(Admission::Known);
            }
            if !peers.admitted()
                && let Some(verdict) = judge(peers, &expected, &answers)
            {
                if verdict? == Admission::Joining {
                    peers.set_admitted();
                    return Ok(Admission::Joining);
                }
                keep().await.map_err(|source| AdmissionError::Unkept { node, source })?;
                peers.set_admitted();
            }
            // Nobody forms the cluster while another still asks, or that one would find a
            // formed cluster that it is a voter of, and take itself for wiped.
            let in_step = |id| {
                answers
                    .get(id)
                    .is_some_and(|answer: &GetStandingResponse| answer.formed || answer.admitted)
            };
            if peers.admitted() && expected.iter().all(in_step) {
                return Ok(Admission::Forming);
            }
            tokio::time::sleep(ROUND).await;
        }
    };
    let decided = tokio::time::timeout(deadline, rounds).await;
    decided.unwrap_or_else(|_| {
        let ready = |id| answers.get(id).is_some_and(|answer| answer.formed || answer.admitted);
        let silent = expected.iter().filter(|id| !ready(*id)).copied().collect();
        Err(AdmissionError::Undecided { node, silent })
    })
}

/// What a log that was found on the disk says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The index of its newest entry, or of what the tables hold where that is more.
    pub last: u64,
    /// The newest term that this node has seen.
    pub term: u64,
}

/// Asks the other nodes once whether one of them leads and remembers more than was found. Who
/// does not answer knows nothing: a cluster that starts whole has nobody to ask.
pub async fn memory_check(
    peers: &Peers,
    found: Found,
    others: &BTreeMap<u64, String>,
) -> Result<(), AdmissionError> {
    let (mut clients, mut answers) = (clients(peers, others), BTreeMap::new());
    ask(&mut clients, &mut answers).await;
    remembered(peers.node(), found, &answers)
}

/// In an older term than the newest, a later leader may have cut what was acknowledged.
fn remembered(
    node: u64,
    found: Found,
    answers: &BTreeMap<u64, GetStandingResponse>,
) -> Result<(), AdmissionError> {
    let more = answers
        .iter()
        .find(|(_, answer)| answer.held_term >= found.term && answer.held_index > found.last);
    match more {
        Some((witness, answer)) => Err(AdmissionError::FellBack {
            node,
            witness: *witness,
            acknowledged: answer.held_index,
            term: answer.held_term,
            last: found.last,
        }),
        None => Ok(()),
    }
}

fn clients(peers: &Peers, others: &BTreeMap<u64, String>) -> BTreeMap<u64, PeerClient> {
    others
        .iter()
        .filter(|(id, _)| **id != peers.node())
        .map(|(id, address)| (*id, PeerClient::new(peers.clone(), *id, address)))
        .collect()
}

/// Asks all at once and keeps the answers that came.
async fn ask(
    clients: &mut BTreeMap<u64, PeerClient>,
    answers: &mut BTreeMap<u64, GetStandingResponse>,
) {
    let questions = clients
        .iter_mut()
        .map(|(id, client)| async move { (*id, client.standing(QUESTION).await) });
    for (id, answer) in futures::future::join_all(questions).await {
        match answer {
            Ok(answer) => {
                answers.insert(id, answer);
            }
            Err(error) => tracing::debug!(%error, "no standing yet"),
        }
    }
}

/// What the answers say, once they say enough.
fn judge(
    peers: &Peers,
    expected: &BTreeSet<u64>,
    answers: &BTreeMap<u64, GetStandingResponse>,
) -> Option<Result<Admission, AdmissionError>> {
    for (witness, answer) in answers {
        let voter = answer.standing() == NodeStanding::Voter;
        let is_used = voter || answer.held_index > 0;
        if answer.formed && is_used && !crate::mutants::is_chosen("wiped-joins") {
            return Some(Err(AdmissionError::Wiped {
                node: peers.node(),
                cluster: peers.cluster().to_owned(),
                witness: *witness,
                voter,
            }));
        }
    }
    // A node that is behind may not know that this one became a voter: all must have spoken.
    if !expected.iter().all(|id| answers.contains_key(id)) {
        return None;
    }
    let formed = answers.values().any(|answer| answer.formed);
    Some(Ok(if formed { Admission::Joining } else { Admission::Forming }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::network::{ChannelOptions, TcpNetwork};
    use super::super::transport::Faults;
    use super::*;

    fn node_two() -> Peers {
        let options = ChannelOptions::for_election(Duration::from_millis(200));
        Peers::new("red", 2, Arc::new(TcpNetwork), options, Faults::disabled()).unwrap()
    }

    fn says(formed: bool, standing: NodeStanding, held_index: u64) -> GetStandingResponse {
        let standing = standing.into();
        GetStandingResponse { formed, standing, held_index, admitted: false, held_term: 0 }
    }

    fn verdict(
        answers: impl IntoIterator<Item = (u64, GetStandingResponse)>,
    ) -> Option<Result<Admission, AdmissionError>> {
        judge(&node_two(), &BTreeSet::from([1, 3]), &answers.into_iter().collect())
    }

    async fn kept() -> Result<(), StorageError> {
        Ok(())
    }

    #[tokio::test]
    async fn nobody_says_that_it_is_admitted_to_a_forming_before_that_is_kept() {
        let alone = BTreeMap::from([(2, "127.0.0.1:7502".to_owned())]);
        let peers = node_two();
        let fails = async || Err(StorageError::Closed);
        let within = Duration::from_secs(1);
        let error = admission_check(&peers, OnDisk::Nothing, &alone, within, fails).await;
        assert!(matches!(error, Err(AdmissionError::Unkept { node: 2, .. })), "{error:?}");
        assert!(!peers.admitted());
    }

    #[test]
    fn a_cluster_may_form_when_all_are_empty() {
        let empty = says(false, NodeStanding::Stranger, 0);
        assert!(verdict([(1, empty)]).is_none(), "node 3 was not heard");
        let verdict = verdict([(1, empty), (3, empty)]).unwrap().unwrap();
        assert_eq!(verdict, Admission::Forming);
    }

    #[test]
    fn a_voter_that_lost_its_disk_is_refused_by_one_witness() {
        let error = verdict([(3, says(true, NodeStanding::Voter, 0))]).unwrap().unwrap_err();
        assert!(
            error.to_string().starts_with(
                "node 2 is a voter of cluster red (so says node 3), but its disk is empty"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_learner_that_lost_its_disk_is_refused_once_it_held_entries() {
        let fresh = says(true, NodeStanding::Learner, 0);
        assert_eq!(verdict([(1, fresh), (3, fresh)]).unwrap().unwrap(), Admission::Joining);
        let used = says(true, NodeStanding::Learner, 7);
        assert!(verdict([(1, fresh), (3, used)]).unwrap().is_err());
    }

    #[tokio::test]
    async fn a_node_with_data_asks_nobody_and_a_lone_empty_one_forms() {
        let others = BTreeMap::from([(1, "nowhere:1".to_owned())]);
        let known = admission_check(&node_two(), OnDisk::Promises, &others, Duration::ZERO, kept)
            .await
            .unwrap();
        assert_eq!(known, Admission::Known);
        let alone = BTreeMap::from([(2, "127.0.0.1:7502".to_owned())]);
        let within = Duration::from_secs(1);
        let formed =
            admission_check(&node_two(), OnDisk::Nothing, &alone, within, kept).await.unwrap();
        assert_eq!(formed, Admission::Forming);
    }

    #[tokio::test]
    async fn silence_is_not_consent() {
        let others = BTreeMap::from([(1, "127.0.0.1:1".to_owned())]);
        let within = Duration::from_millis(50);
        let error =
            admission_check(&node_two(), OnDisk::Nothing, &others, within, kept).await.unwrap_err();
        assert!(error.to_string().ends_with("not heard so from node(s) 1"), "{error}");
    }

    #[test]
    fn a_log_that_ends_before_what_its_leader_remembers_is_refused() {
        let answer = |held_index, held_term| {
            let remembers =
                GetStandingResponse { held_term, ..says(true, NodeStanding::Voter, held_index) };
            BTreeMap::from([(1, remembers)])
        };
        let found = Found { last: 90, term: 5 };
        assert!(remembered(2, found, &BTreeMap::new()).is_ok(), "nobody answered");
        assert!(remembered(2, found, &answer(0, 0)).is_ok(), "nobody led");
        assert!(remembered(2, found, &answer(90, 5)).is_ok());
        assert!(remembered(2, found, &answer(100, 4)).is_ok(), "a later leader may have cut it");
        let refused = remembered(2, found, &answer(91, 5)).unwrap_err();
        let told = refused.to_string();
        assert!(told.contains("acknowledged entry 91 in term 5"), "{told}");
        assert!(told.contains("its log ends with entry 90"), "{told}");
    }
}
