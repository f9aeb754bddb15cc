//! What a configuration may say, and what is said of one that may not be.

use super::*;

const GOOD: &str = "node_id = 1\ncluster_id = \"c\"\nzone = \"z1\"\ndata_dir = \"/d\"\n";

fn config(more: &str) -> Result<Config, String> {
    let keys = ConfigKeys::from_toml(&format!("{GOOD}{more}")).map_err(|e| e.to_string())?;
    keys.into_config().map_err(|e| e.to_string())
}

#[test]
fn the_least_configuration_gets_the_documented_defaults() {
    let config = config("").expect("good");
    assert_eq!(config.region, "east");
    assert_eq!(config.grpc_listen.to_string(), "127.0.0.1:7401");
    assert_eq!(config.peer_listen.to_string(), "127.0.0.1:7501");
    assert_eq!(config.election_ms.to_string(), "500..1000");
    assert!(!config.insecure_listen && !config.enable_faults);
    assert_eq!((config.metrics_listen, config.metrics_queues), (None, 0));
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = config("grpc_listem = \"127.0.0.1:1\"\n").expect_err("a typing error");
    assert!(error.contains("grpc_listem"), "{error}");
}

#[test]
fn flags_lie_over_the_file() {
    let file = ConfigKeys::from_toml(GOOD).expect("good");
    let flags = ConfigKeys { zone: Some("z9".to_owned()), ..ConfigKeys::default() };
    let config = flags.over(file).into_config().expect("good");
    assert_eq!((config.zone.as_str(), config.node_id), ("z9", 1));
}

#[test]
fn every_refusal_names_the_key_and_what_is_allowed() {
    let table = [
        ("heartbeat_ms = 5", "heartbeat_ms is 5; allowed: 10 to 10000"),
        ("election_ms = \"200..300\"", "election_ms is 200..300; allowed: shortest at least"),
        ("election_ms = \"fast\"", "write for example 500..1000"),
        ("engine = \"rocks\"", "engine is \"rocks\"; allowed: redb or sled"),
        ("region_compression = \"lz4\"", "region_compression is \"lz4\"; allowed: none or zstd"),
        ("region = \"East\"", "region is \"East\"; allowed: 1 to 63 of a-z, 0-9 and -"),
        ("grpc_listen = \"0.0.0.0:7401\"", "grpc_listen is 0.0.0.0:7401, which others reach"),
        (
            "peer_listen = \"0.0.0.0:1\"\ninsecure_listen = true",
            "peer_advertise is missing, and 0.0.0.0:1 is no address",
        ),
        ("peer_listen = \"127.0.0.1:7401\"", "peer_listen is 127.0.0.1:7401, which grpc_"),
        ("metrics_listen = \"127.0.0.1:7501\"", "metrics_listen is 127.0.0.1:7501, which peer_"),
        ("metrics_listen = \"10.0.0.1:7601\"", "which others reach, and it is plain HTTP"),
        ("metrics_queues = 1001", "metrics_queues is 1001; allowed: 0 to 1000"),
        ("tls_cert = \"a\"", "tls_cert, tls_key and tls_ca are given in part"),
        ("peers = \"1=z2@h:1\"", "zone is \"z1\", and peers says 1=z2@h:1"),
        ("peers = \"1=z1@h:1,1=z2@h:2\"", "peers names 1=z1@h:1 and 1=z2@h:2"),
        ("peers = \"1=z1@h\"", "peers has the address \"h\"; allowed: host:port"),
        ("peers = \"1@h:1\"", "write for example 1=z1@host:7501"),
        ("max_in_flight_bytes = 1", "max_in_flight_bytes is 1; allowed: 8388608 to"),
    ];
    for (more, expected) in table {
        let error = config(more).expect_err(more);
        assert!(error.contains(expected), "{more}\n  said {error}");
    }
    for key in ["node_id", "cluster_id", "zone", "data_dir"] {
        let text: String =
            GOOD.lines().filter(|line| !line.starts_with(key)).map(|l| format!("{l}\n")).collect();
        let keys = ConfigKeys::from_toml(&text).expect("good keys");
        let error = keys.into_config().expect_err(key).to_string();
        assert!(error.starts_with(&format!("{key} is missing")), "{error}");
    }
}

#[test]
fn peers_survive_their_text() {
    let text = "1=z1@a:7501/a:7401,2=z2@b:7501";
    let peers: Peers = text.parse().expect("good peers");
    assert_eq!(peers.to_string(), text);
    assert_eq!(peers.0.len(), 2);
}
