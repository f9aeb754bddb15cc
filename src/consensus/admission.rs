//! Whether a node with an empty disk may take part under its id.
//!
//! The law: a voter that lost its disk has forgotten its votes and the entries it acknowledged;
//! back under its old id it could undo a commit. So before a node whose disk holds neither vote
//! nor log takes part, it asks every node it was told of. Only the first forming of a cluster,
//! where all are empty, and a node that is not a voter yet may begin with nothing. Until it is
//! admitted it neither votes nor takes entries, and founders form only when all are admitted.
//!
//! Refuses an id that a formed cluster counts as a voter, or whose entries a leader has seen;
//! and, while a node does not answer and none has refused, does not decide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::transport::{PeerClient, Peers};
use crate::proto::peer::v1::{GetStandingResponse, NodeStanding};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(100);
/// One question's deadline.
const QUESTION: Duration = Duration::from_millis(500);

/// How a node may take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its disk knows votes or entries: it goes on where it was.
    Known,
    /// Its disk is empty and so is everybody's: the cluster is being formed.
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
        "the disk of node {node} is empty, and before it may take part every node must say \
         whether it was ever used, and be ready itself; not heard so from node(s) {}",
        list(silent)
    )]
    Undecided { node: u64, silent: BTreeSet<u64> },
}

fn list(nodes: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}

/// Asks the nodes at these peer addresses until it is clear whether this node may take part,
/// or `deadline` has passed. A node with anything on its disk is not asked about; nor is one
/// that was told of no others.
pub async fn admission_check(
    peers: &Peers,
    disk_is_empty: bool,
    others: &BTreeMap<u64, String>,
    deadline: Duration,
) -> Result<Admission, AdmissionError> {
    if !disk_is_empty {
        return Ok(Admission::Known);
    }
    let node = peers.node();
    let mut clients: BTreeMap<u64, PeerClient> = others
        .iter()
        .filter(|(id, _)| **id != node)
        .map(|(id, address)| (*id, PeerClient::new(peers.clone(), *id, address)))
        .collect();
    let expected: BTreeSet<u64> = clients.keys().copied().collect();
    let mut answers = BTreeMap::new();
    let rounds = async {
        loop {
            ask(&mut clients, &mut answers).await;
            if !peers.admitted()
                && let Some(verdict) = judge(peers, &expected, &answers)
            {
                if verdict? == Admission::Joining {
                    peers.set_admitted();
                    return Ok(Admission::Joining);
                }
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
        if answer.formed && (voter || answer.held_index > 0) {
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
        GetStandingResponse { formed, standing: standing.into(), held_index, admitted: false }
    }

    fn verdict(
        answers: impl IntoIterator<Item = (u64, GetStandingResponse)>,
    ) -> Option<Result<Admission, AdmissionError>> {
        judge(&node_two(), &BTreeSet::from([1, 3]), &answers.into_iter().collect())
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
        let known = admission_check(&node_two(), false, &others, Duration::ZERO).await.unwrap();
        assert_eq!(known, Admission::Known);
        let alone = BTreeMap::from([(2, "127.0.0.1:7502".to_owned())]);
        let within = Duration::from_secs(1);
        let formed = admission_check(&node_two(), true, &alone, within).await.unwrap();
        assert_eq!(formed, Admission::Forming);
    }

    #[tokio::test]
    async fn silence_is_not_consent() {
        let others = BTreeMap::from([(1, "127.0.0.1:1".to_owned())]);
        let within = Duration::from_millis(50);
        let error = admission_check(&node_two(), true, &others, within).await.unwrap_err();
        assert!(error.to_string().ends_with("not heard so from node(s) 1"), "{error}");
    }
}
