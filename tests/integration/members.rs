//! Nodes added, promoted, replaced and removed by command.

use std::collections::BTreeMap;

use serde_json::Value;

use super::serving::Serving;
use super::stage::{Lab, PEERS_ARE_LOST, Ports, wait};

/// Role and vote of every node, as node 2 has it, which leads: one that was removed is told of
/// nothing any more.
fn members(lab: &Lab) -> BTreeMap<u64, (String, bool)> {
    let status = lab.seen_by(2);
    let nodes = status["nodes"].as_array().expect("nodes").iter();
    let member = |node: &Value| {
        let id = node["id"].as_u64().expect("an id");
        let role = node["role"].as_str().expect("a role").to_owned();
        (id, (role, node["voter"].as_bool().expect("a vote")))
    };
    nodes.map(member).collect()
}

/// Each change between two lines, with who asked, when, and in which epoch.
#[track_caller]
fn who_changed_the_members_is_in_the_audit(lab: &Lab) {
    let lines = lab.run("region audit").items();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    for line in &lines {
        assert_eq!((&line["who"], &line["epoch"]), (&user.as_str().into(), &1.into()), "{line}");
        assert!(line["at"].as_str().is_some_and(|at| at.starts_with("20")), "{line}");
    }
    let said: Vec<&str> = lines.iter().filter_map(|line| line["what"].as_str()).collect();
    let of = |what: &str| {
        let lines = said.iter().filter(|line| line.contains(what));
        lines.map(|line| line.split(what).next().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(of("add node 4 of zone z1 at")[..2], ["begin to ", ""], "{said:?}");
    let refused = ["begin to ", "fail to "];
    assert_eq!(of("replace node 1 by node 4"), [refused, ["begin to ", ""]].concat(), "{said:?}");
    assert_eq!(of("make node 1, 2, 3, 4 the voters"), refused, "{said:?}");
    assert_eq!(of("make node 2, 3, 4 the voters"), [refused, ["begin to ", ""]].concat());
    assert_eq!(of("remove node 4, degraded if need be"), ["begin to ", ""], "{said:?}");
    let why = said.iter().find(|line| line.starts_with("fail to replace")).expect("a failure");
    assert!(why.ends_with("node 4 is to vote and does not answer; nothing was changed"), "{why}");
}

fn voters(lab: &Lab) -> Vec<u64> {
    members(lab).into_iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| id).collect()
}

#[test]
fn a_fourth_node_learns_takes_a_voters_place_and_is_removed() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    lab.ok("send orders before");
    // Node 1's place is taken later, so it must not lead then.
    lab.ok("cluster transfer --to 2");
    wait("node 2 leads", || (lab.leader() == 2).then_some(()));

    let Ports { grpc, peer } = Ports::take();
    let flags = format!(
        "--cluster-id {} --node-id 4 --zone z1 --data-dir {} --grpc-listen 127.0.0.1:{grpc} \
         --peer-listen 127.0.0.1:{peer} --peers {} --heartbeat-ms 80 --election-ms 200..400",
        lab.cluster_id(),
        lab.home().join("four").display(),
        lab.peers()
    );
    let four = Serving::start(lab.home(), &flags);
    let add = format!("cluster add 4 --zone z1 --peer {} --grpc {}", four.peer, four.grpc);
    assert_eq!(lab.ok(&add)["added"], 4);
    lab.ok(&add);
    assert_eq!(members(&lab)[&4], ("learner".to_owned(), false));
    lab.run("cluster add 4 --zone z1 --peer 127.0.0.1:1 --grpc 127.0.0.1:2").exits(2);
    let stranger = lab.run("cluster voters 1 2 9").exits(2);
    assert!(stranger["error"]["message"].to_string().contains("node 9 is not a member"));

    // Two of four voters in one zone: no majority is left without it.
    let unsafe_layout = lab.run("cluster voters 1 2 3 4").exits(2);
    assert!(unsafe_layout["error"]["message"].to_string().contains("zone z1"), "{unsafe_layout}");
    assert_eq!(voters(&lab), [1, 2, 3], "refused is unchanged");

    // A node that has just died must not begin to vote: without it the change could stand still.
    four.kill();
    // Asked of the leader: a busy machine may end the way of a call that is passed on.
    let leader = lab.urls()[lab.leader() as usize - 1].clone();
    for line in ["cluster replace 1 4", "cluster voters 2 3 4"] {
        lab.run(&format!("{line} -e {leader}"))
            .says(3, &["node 4 is to vote and does not answer", "nothing was changed"]);
        assert_eq!(voters(&lab), [1, 2, 3], "{line}");
    }
    let four = Serving::start(lab.home(), &flags);
    assert_eq!(lab.ok("cluster replace 1 4")["new"], 4);
    assert_eq!(voters(&lab), [2, 3, 4]);
    lab.ok("cluster voters 2 3 4");
    let last = lab.run("cluster remove 3").exits(2);
    assert!(last["error"]["message"].to_string().contains("majority"), "{last}");
    let leading = lab.run("cluster remove 2 --degraded").exits(2);
    assert!(leading["error"]["message"].to_string().contains("node 2 leads"), "{leading}");

    // The new voter counts: with it and one other the cluster goes on.
    lab.ok("lab kill 1 3");
    lab.ok("send orders after");
    let url = four.url();
    let seen = lab.run(&format!("receive orders --max 10 --delete -e {url}"));
    assert_eq!(seen.exits(0)["received"], 2, "{seen:#?}");
    lab.ok("lab start 3");
    lab.ok("cluster remove 4 --degraded");
    assert_eq!(voters(&lab), [2, 3]);
    who_changed_the_members_is_in_the_audit(&lab);
    assert_eq!(lab.seen_by(2)["redundancy"], "degraded");
    lab.ok("send orders still");
    four.stop();
    lab.warned_only_of(PEERS_ARE_LOST);
}
