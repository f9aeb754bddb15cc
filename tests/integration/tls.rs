//! TLS: nodes that form a cluster over it, clients that come in by it, and files that are wrong.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::serving::Serving;
use super::stage::{Ports, wait, zoneq};

/// An authority and the certificate of a node, as PEM files in `dir`.
fn make_certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let names = ["zoneq-node", "localhost", "127.0.0.1"].map(str::to_owned);
    let mut node = CertificateParams::new(names).expect("names");
    node.is_ca = IsCa::ExplicitNoCa;
    let key = KeyPair::generate().expect("a key");
    let certificate = node.signed_by(&key, &authority).expect("signed");
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("written");
    write("ca.pem", authority.pem());
    write("node.pem", certificate.pem());
    write("node.key", key.serialize_pem());
}

const FILES: &str = "--tls-cert node.pem --tls-key node.key --tls-ca ca.pem";

#[test]
fn three_nodes_form_a_cluster_over_tls_and_only_tls_comes_in() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path();
    make_certificates(dir);
    let Ports { grpc, peer } = Ports::take();
    let peers: Vec<String> =
        (1..=3).map(|id| format!("{id}=z{id}@127.0.0.1:{}", peer + id)).collect();
    let peers = peers.join(",");
    let start = |id: u16| {
        let flags = format!(
            "--cluster-id shop --node-id {id} --zone z{id} --data-dir node-{id} --peers {peers} \
             --grpc-listen 127.0.0.1:{} --peer-listen 127.0.0.1:{} --heartbeat-ms 80 \
             --election-ms 200..400 {FILES}",
            grpc + id,
            peer + id
        );
        Serving::start(dir, &flags)
    };
    let nodes: Vec<Serving> = (1..=3).map(start).collect();
    let https = format!("--json --tls-ca ca.pem -e https://{}", nodes[0].grpc);
    zoneq(dir, &format!("queue create orders {https}")).exits(0);
    zoneq(dir, &format!("send orders secret {https}")).exits(0);
    let received = zoneq(dir, &format!("receive orders --delete {https}"));
    assert_eq!(received.items()[0]["body"], "secret", "{received:#?}");
    wait("all three hold the same", || {
        let verified = zoneq(dir, &format!("cluster verify {https}"));
        (verified.code == Some(0) && verified.result()["nodes"] == 3).then_some(())
    });

    // Without TLS nothing comes in, and a certificate of another authority is not believed.
    let plain = format!("send orders open --json --deadline 2s -e http://{}", nodes[0].grpc);
    let refused = zoneq(dir, &plain);
    assert!(matches!(refused.code, Some(3 | 75)), "{refused:#?}");
    let other = dir.join("other");
    std::fs::create_dir(&other).expect("a folder");
    make_certificates(&other);
    let stranger = format!(
        "send orders stranger --json --deadline 2s --tls-ca other/ca.pem -e https://{}",
        nodes[0].grpc
    );
    let refused = zoneq(dir, &stranger);
    assert!(matches!(refused.code, Some(3 | 75)), "{refused:#?}");
    let peeked = zoneq(dir, &format!("peek orders {https}"));
    assert_eq!(peeked.items().len(), 0, "neither was applied: {peeked:#?}");
    for node in nodes {
        assert_eq!(node.stop().exits(0)["ok"], true);
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path();
    make_certificates(dir);
    std::fs::write(dir.join("words.pem"), "this is no certificate\n").expect("written");
    std::fs::create_dir(dir.join("other")).expect("a folder");
    make_certificates(&dir.join("other"));
    let alone = super::serving::alone(dir);
    for (good, wrong, words) in [
        ("node.pem", "missing.pem", ["tls_cert", "missing.pem cannot be read"]),
        ("ca.pem", "missing.pem", ["tls_ca", "missing.pem cannot be read"]),
        ("node.pem", "words.pem", ["tls_cert", "cannot be used"]),
        ("node.key", "words.pem", ["tls_key", "cannot be used"]),
        ("ca.pem", "words.pem", ["tls_ca", "cannot be used"]),
        ("node.key", "other/node.key", ["tls_key", "cannot be used"]),
    ] {
        let files = FILES.replace(good, wrong);
        zoneq(dir, &format!("serve {alone} {files}")).says(64, &words);
        assert!(!dir.join("data").exists(), "nothing was made: {wrong}");
    }
}
