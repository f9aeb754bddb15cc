//! What `serve` refuses, in which words and with which exit code, and that it changes nothing.

use std::path::Path;

use super::serving::{Serving, alone};
use super::stage::{Ports, Ran, zoneq};

fn serve(dir: &Path, flags: &str) -> Ran {
    zoneq(dir, &format!("serve {flags}"))
}

#[test]
fn a_port_in_use_is_named_by_its_key_and_number() {
    let home = tempfile::tempdir().expect("a folder");
    for (at, key) in ["grpc_listen", "peer_listen", "metrics_listen"].into_iter().enumerate() {
        let metrics = Ports::take().grpc;
        let flags = format!("{} --metrics-listen 127.0.0.1:{metrics} ", alone(home.path()));
        let address = flags.split("listen ").nth(at + 1).and_then(|rest| rest.split(' ').next());
        let address = address.expect("an address").to_owned();
        let _held = std::net::TcpListener::bind(&address).expect("a free port");
        let words = [key, address.as_str(), "in use by another process"];
        serve(home.path(), &flags).says(64, &words);
        assert!(!home.path().join("data").exists(), "nothing was made");
    }
}

#[test]
fn a_data_directory_belongs_to_one_process_of_one_node() {
    let home = tempfile::tempdir().expect("a folder");
    let flags = alone(home.path());
    let node = Serving::start(home.path(), &flags);
    // The same folder, other ports.
    serve(home.path(), &alone(home.path())).says(64, &["data", "in use by another process"]);
    assert_eq!(node.stop().exits(0)["ok"], true);

    for (from, to, words) in [
        ("--cluster-id shop", "--cluster-id mall", ["belongs to cluster shop", "not to mall"]),
        ("--node-id 1", "--node-id 2", ["was made for node 1", "not for 2"]),
        ("--zone z1", "--zone z2", ["was made for zone z1", "not for z2"]),
    ] {
        serve(home.path(), &flags.replace(from, to)).says(64, &words);
    }
    let node = Serving::start(home.path(), &flags);
    assert_eq!(node.stop().exits(0)["ok"], true, "it is still its own");
}

#[test]
fn a_newer_format_and_a_damaged_identity_are_told_apart() {
    let home = tempfile::tempdir().expect("a folder");
    let flags = alone(home.path());
    Serving::start(home.path(), &flags).stop().exits(0);
    let path = home.path().join("data/identity.json");
    let good = std::fs::read_to_string(&path).expect("an identity");

    std::fs::write(&path, good.replace("\"format\": 1", "\"format\": 99")).expect("written");
    serve(home.path(), &flags).says(64, &["has format 99", "reads up to 1", "run a newer one"]);
    std::fs::write(&path, good.replace("shop", "shoe")).expect("written");
    serve(home.path(), &flags).says(70, &["identity.json is damaged", "checksum"]);
    std::fs::write(&path, &good[..good.len() / 2]).expect("written");
    serve(home.path(), &flags).says(70, &["identity.json is damaged"]);
    std::fs::remove_file(&path).expect("removed");
    serve(home.path(), &flags).says(70, &["is damaged", "it has no identity"]);
    assert!(!path.exists(), "a lost identity is not made up");

    std::fs::write(&path, &good).expect("written");
    Serving::start(home.path(), &flags).stop().exits(0);
}

#[test]
fn a_lost_vote_is_not_forgotten() {
    let home = tempfile::tempdir().expect("a folder");
    let flags = alone(home.path());
    Serving::start(home.path(), &flags).stop().exits(0);
    let path = home.path().join("data/log/vote");
    let length = std::fs::metadata(&path).expect("a vote").len() as usize;
    std::fs::write(&path, vec![0xaa; length]).expect("written");
    serve(home.path(), &flags).says(70, &["neither slot of the vote can be read"]);
}

#[test]
fn a_wrong_configuration_is_refused_by_key_with_64() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("zoneq.toml");
    let data = home.path().join("data");
    let whole = format!("--node-id 1 --cluster-id c --zone z --data-dir {}", data.display());
    for (toml, flags, words) in [
        ("zome = \"z1\"", "--config zoneq.toml", &["zoneq.toml", "zome", "zone"][..]),
        ("node_id = \"one\"", "--config zoneq.toml", &["node_id = \"one\""]),
        ("", "--config missing.toml", &["missing.toml", "No such file"]),
        ("", "--zone z1", &["node_id is missing", "--node-id, ZONEQ_NODE_ID"]),
        ("", "--zoen z1", &["unexpected argument '--zoen'", "--zone"]),
        ("", "--node-id 0 --cluster-id c --zone z --data-dir d", &["node_id is 0", "1 and more"]),
        ("", "--election-ms 5", &["500..1000"]),
        ("", "WHOLE --grpc-listen 0.0.0.0:7401", &["grpc_listen", "insecure_listen", "TLS"]),
        ("", "WHOLE --peer-listen 10.0.0.1:7501", &["peer_listen", "insecure_listen"]),
        ("", "WHOLE --metrics-listen 10.0.0.1:7601", &["metrics_listen", "plain HTTP"]),
        ("", "WHOLE --metrics-queues 5000", &["metrics_queues", "0 to 1000"]),
        ("", "WHOLE --tls-cert a.pem", &["tls_key", "given in part"]),
        ("", "WHOLE --engine rocks", &["engine", "redb"]),
    ] {
        std::fs::write(&file, toml).expect("written");
        serve(home.path(), &flags.replace("WHOLE", &whole)).says(64, words);
    }
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn a_listener_that_others_reach_works_when_it_is_asked_for_by_name() {
    let home = tempfile::tempdir().expect("a folder");
    let Ports { grpc, peer } = Ports::take();
    let flags = format!(
        "--node-id 1 --cluster-id c --zone z --data-dir {} --grpc-listen 0.0.0.0:{grpc} \
         --grpc-advertise 127.0.0.1:{grpc} --peer-listen 127.0.0.1:{peer} --insecure-listen",
        home.path().join("data").display()
    );
    let node = Serving::start(home.path(), &flags);
    let ended = node.stop();
    ended.exits(0);
    assert!(ended.stderr.contains("WARN") && ended.stderr.contains("without TLS"), "{ended:#?}");
}

#[test]
fn wrong_words_on_the_command_line_exit_with_64_and_help_with_0() {
    let home = tempfile::tempdir().expect("a folder");
    for line in ["", "sned orders x", "send", "receive orders --max many", "lab kill"] {
        let ran = zoneq(home.path(), line);
        assert_eq!(ran.code, Some(64), "{ran:#?}");
        assert!(ran.stderr.contains("--help"), "{ran:#?}");
    }
    for line in ["--help", "--version", "help send", "lab up --help"] {
        assert_eq!(zoneq(home.path(), line).code, Some(0), "{line}");
    }
    let nowhere = "send orders x -e http://127.0.0.1:1 --deadline 300ms";
    zoneq(home.path(), nowhere).says(3, &["127.0.0.1:1"]);
    zoneq(home.path(), "send orders x -e 127.0.0.1:70000").says(64, &["127.0.0.1:70000"]);
}
