//! Metrics, liveness and readiness, asked for as monitoring does, and compared with what the
//! commands say of the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::serving::{Serving, alone};
use super::stage::{Lab, PATIENCE, Ports, wait};

/// One request and the whole answer: code, head and body.
fn ask(address: &str, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).expect("a listener for metrics");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer that ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a code").parse().expect("a number");
    (code, head.to_ascii_lowercase(), body.to_owned())
}

fn get(address: &str, path: &str) -> (u16, String) {
    let (code, _, body) = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: zoneq\r\n\r\n"));
    (code, body)
}

/// A page of metrics: samples by name and labels as written, and the families.
#[derive(Debug)]
struct Page {
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, String>,
}

/// Reads a page as the text format is defined, and fails where it is not kept.
#[track_caller]
fn scrape(address: &str) -> Page {
    let (code, head, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: zoneq\r\n\r\n");
    assert_eq!(code, 200, "{body}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.ends_with('\n'), "the last line ends");
    let mut page = Page { samples: BTreeMap::new(), families: BTreeMap::new() };
    let (mut helped, mut family) = (String::new(), String::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && help.ends_with('.'), "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(helped, name, "the help comes right before: {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(is_name(name), "{line}");
            let before = page.families.insert(name.to_owned(), kind.to_owned());
            assert_eq!(before, None, "a family comes once: {line}");
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let is_histogram = page.families.get(&family).is_some_and(|it| it == "histogram");
            let part = name.strip_prefix(family.as_str()).expect("a sample of its family");
            let allowed: &[&str] =
                if is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&part), "{line}");
            let value: f64 = value.parse().expect(line);
            assert!(value.is_finite(), "{line}");
            let before = page.samples.insert(series.to_owned(), value);
            assert_eq!(before, None, "a series comes once: {line}");
        }
    }
    page.check_histograms();
    page
}

fn is_name(name: &str) -> bool {
    let rooms = ["server", "api", "geo", "consensus", "storage", "queue"];
    let of_a_room = |rest: &str| rooms.iter().any(|it| rest.starts_with(&format!("{it}_")));
    let letters = |c: char| c.is_ascii_lowercase() || c == '_';
    name.chars().all(letters)
        && (name.starts_with("process_") || name.strip_prefix("zoneq_").is_some_and(of_a_room))
}

impl Page {
    /// Buckets rise to the count.
    fn check_histograms(&self) {
        let histograms = self.families.iter().filter(|(_, kind)| *kind == "histogram");
        for (name, _) in histograms {
            let counts =
                self.samples.iter().filter(|(it, _)| it.starts_with(&format!("{name}_count")));
            for (series, count) in counts {
                let labels = series[name.len() + "_count".len()..].trim_matches(['{', '}']);
                let buckets = |it: &str| {
                    let inside = it.strip_prefix(&format!("{name}_bucket{{"))?;
                    let (others, bound) = inside.trim_end_matches('}').rsplit_once("le=")?;
                    (others.trim_end_matches(',') == labels)
                        .then(|| bound.trim_matches('"').to_owned())
                };
                let mut rising: Vec<(f64, f64)> = self
                    .samples
                    .iter()
                    .filter_map(|(it, value)| Some((buckets(it)?.parse().ok()?, *value)))
                    .collect();
                rising.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(rising.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{series}");
                let last = rising.last().expect("buckets");
                assert_eq!((last.0, last.1), (f64::INFINITY, *count), "{series}");
            }
        }
    }

    fn get(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("{series} is not in {:#?}", self.samples.keys()))
    }

    /// The word whose gauge is 1.
    #[track_caller]
    fn word(&self, name: &str) -> String {
        let held: Vec<&str> = self
            .samples
            .iter()
            .filter(|(series, value)| series.starts_with(&format!("{name}{{")) && **value == 1.0)
            .map(|(series, _)| series.split('"').nth(1).expect("a label"))
            .collect();
        assert_eq!(held.len(), 1, "{name}: {held:?}");
        held[0].to_owned()
    }
}

/// A node alone that tells its metrics, and where.
fn alone_with_metrics(dir: &std::path::Path, flags: &str) -> (Serving, String) {
    let address = format!("127.0.0.1:{}", Ports::take().grpc);
    let flags = format!("{} --metrics-listen {address} {flags}", alone(dir));
    (Serving::start(dir, &flags), address)
}

#[test]
fn a_node_counts_what_it_holds_and_what_it_was_asked() {
    let home = tempfile::tempdir().expect("a folder");
    let (node, address) = alone_with_metrics(home.path(), "--metrics-queues 1");
    let run = |line: &str| {
        let line = format!("{line} --json -e {}", node.url());
        super::stage::zoneq(home.path(), &line).exits(0)
    };
    wait("it is ready", || (get(&address, "/readyz") == (200, "ready\n".into())).then_some(()));
    assert_eq!(get(&address, "/healthz"), (200, "ok\n".into()));
    run("queue create failed");
    run("queue create orders --dead-letter-queue failed --max-deliveries 1");
    run("send orders one two three");
    run("send orders later --delay 1h");
    run("receive orders --visibility 0s");
    run("receive orders --visibility 1h");
    wait("the spent message is a dead letter", || {
        (scrape(&address).value("zoneq_queue_dead_letters") == 1.0).then_some(())
    });
    let counts = run("queue show orders");
    let letters = run("queue show failed");

    let page = scrape(&address);
    let state = |state: &str| page.value(&format!("zoneq_queue_messages{{state=\"{state}\"}}"));
    let count = |of: &Value, what: &str| of["queue"]["counts"][what].as_f64().expect("a count");
    for what in ["visible", "leased", "delayed"] {
        assert_eq!(state(what), count(&counts, what) + count(&letters, what), "{what}");
    }
    assert_eq!((state("leased"), state("delayed")), (1.0, 1.0));
    assert_eq!(page.value("zoneq_queue_queues"), 2.0);
    let named = "zoneq_queue_named_messages{account=\"default\",queue=\"orders\",state=\"leased\"}";
    assert_eq!(page.value(named), 1.0);
    assert!(!page.samples.keys().any(|it| it.contains("queue=\"failed\"")), "one is named");
    let made = "zoneq_api_requests_total{service=\"queue\",verb=\"create_queue\",outcome=\"ok\"}";
    assert_eq!(page.value(made), 2.0);
    assert_eq!(
        page.value("zoneq_api_request_seconds_count{service=\"queue\",verb=\"create_queue\"}"),
        2.0
    );
    assert!(page.value("zoneq_storage_flush_seconds_count") >= 5.0, "each write was fsynced");
    assert!(page.value("zoneq_storage_disk_free_bytes") > 0.0);
    assert_eq!(page.word("zoneq_storage_disk_stage"), "ok");
    assert_eq!(page.word("zoneq_consensus_role"), "leader");
    assert_eq!(page.value("zoneq_consensus_zone_redundant"), 0.0, "one zone");
    assert_eq!(page.word("zoneq_geo_role"), "standalone");
    let status = run("cluster status");
    for (series, key) in [
        ("zoneq_consensus_term", "term"),
        ("zoneq_consensus_applied_index", "applied_index"),
        ("zoneq_consensus_committed_index", "committed_index"),
        ("zoneq_queue_messages_bytes", "bytes"),
    ] {
        assert_eq!(page.value(series), status[key].as_f64().expect(key), "{series}");
    }
    assert!(page.value("process_cpu_seconds_total") > 0.0);
    assert!(page.value("process_resident_memory_bytes") > 1e6);

    super::stage::zoneq(home.path(), &format!("queue show nothing -e {}", node.url()));
    let rejected =
        "zoneq_api_requests_total{service=\"queue\",verb=\"get_queue\",outcome=\"rejected\"}";
    assert_eq!(scrape(&address).value(rejected), 1.0);
    node.stop().exits(0);
}

#[test]
fn what_is_no_question_for_metrics_is_turned_away() {
    let home = tempfile::tempdir().expect("a folder");
    let (node, address) = alone_with_metrics(home.path(), "");
    assert_eq!(get(&address, "/").0, 404);
    assert_eq!(
        ask(&address, "POST /metrics HTTP/1.1\r\nHost: z\r\nContent-Length: 0\r\n\r\n").0,
        405
    );
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: z\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(ask(&address, &huge).0, 431);
    // Those who connect and say nothing take no place for ever, and no more than there are.
    let silent: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(&address).expect("connected")).collect();
    let closed = |stream: &TcpStream| {
        stream.set_nonblocking(true).expect("a socket");
        matches!((&*stream).read(&mut [0]), Ok(0) | Err(_)) && {
            let again = (&*stream).read(&mut [0]);
            !matches!(&again, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        }
    };
    wait("those over the limit are closed", || {
        (silent.iter().filter(|it| closed(it)).count() >= 24).then_some(())
    });
    wait("those who say nothing are closed", || silent.iter().all(closed).then_some(()));
    assert_eq!(get(&address, "/healthz").0, 200);
    node.stop().exits(0);
}

/// Where each node of a lab tells its metrics.
fn addresses(lab: &Lab) -> BTreeMap<u64, String> {
    let file = lab.file();
    let nodes = file["nodes"].as_array().expect("nodes").iter();
    let address = |node: &Value| {
        let port = node["metrics_port"].as_u64().expect("a port");
        (node["id"].as_u64().expect("an id"), format!("127.0.0.1:{port}"))
    };
    nodes.map(address).collect()
}

/// The page of the node that leads, of these.
#[track_caller]
fn leading(addresses: &[String]) -> Page {
    wait("a leader tells its metrics", || {
        let pages = addresses.iter().map(|address| scrape(address));
        let leaders = pages.filter(|page| page.value("zoneq_consensus_leader") == 1.0);
        // One that was cut off may not know yet that another leads.
        leaders.max_by_key(|page| page.value("zoneq_consensus_term") as u64)
    })
}

#[test]
fn the_leader_says_when_no_zone_more_may_be_lost() {
    let lab = Lab::up();
    let addresses = addresses(&lab);
    let shown = lab.ok("lab status");
    assert_eq!(shown["nodes"][0]["metrics"], addresses[&1].as_str());
    let leader = lab.leader();
    let told = |id: u64| scrape(&addresses[&id]);
    wait("all voters were heard", || {
        let page = told(leader);
        let whole = page.get("zoneq_consensus_voters_reachable") == Some(3.0);
        (whole && page.value("zoneq_consensus_zone_redundant") == 1.0).then_some(())
    });
    let mut others = addresses.keys().copied().filter(|id| *id != leader);
    let (lost, kept) = (others.next().expect("a node"), others.next().expect("another"));
    let follower = told(kept);
    assert_eq!(follower.get("zoneq_consensus_voters_reachable"), None, "the leader's to say");
    assert_eq!(follower.word("zoneq_consensus_role"), "follower");

    lab.ok(&format!("lab kill {lost}"));
    wait("the leader misses a voter", || {
        let page = told(leader);
        let missed = page.get("zoneq_consensus_voters_reachable") == Some(2.0);
        (missed && page.get("zoneq_consensus_zone_redundant") == Some(0.0)).then_some(())
    });
    assert_eq!(get(&addresses[&leader], "/readyz").0, 200, "it serves all the same");
    lab.ok(&format!("lab kill {kept}"));
    let unready = wait("a node without a majority is not ready", || {
        let (code, why) = get(&addresses[&leader], "/readyz");
        (code == 503).then_some(why)
    });
    assert_eq!(unready, "not ready: no leader is known\n");
    assert_eq!(get(&addresses[&leader], "/healthz").0, 200, "alive");
    assert_eq!(told(leader).value("zoneq_server_ready"), 0.0);
}

/// Compares what a region's leader tells with what the command says before and after.
#[track_caller]
fn compared(lab: &Lab, region: &str, addresses: &[String]) -> Page {
    let said = || lab.ok(&format!("region status -e {region}"));
    let (before, page, after) = (said(), leading(addresses), said());
    for (series, key) in [
        ("zoneq_geo_role", "role"),
        ("zoneq_geo_copy_status", "status"),
        ("zoneq_geo_redundancy_info", "redundancy"),
    ] {
        let said = [text(&before[key]), text(&after[key])];
        assert!(said.contains(&page.word(series)), "{} is none of {said:?}", page.word(series));
    }
    assert_eq!(page.value("zoneq_geo_epoch_number"), after["epoch"].as_f64().expect("an epoch"));
    let flag =
        |name: &str, so: bool| assert_eq!(page.value(name), f64::from(u8::from(so)), "{name}");
    flag("zoneq_geo_writable", after["writable"] == true);
    flag("zoneq_geo_read_access", after["read_access"] == true);
    flag("zoneq_geo_line_shaped", !after["shape"].is_null());
    for (series, key) in [
        ("zoneq_geo_behind_entries", "entries_behind"),
        ("zoneq_geo_behind_messages", "messages_behind"),
        ("zoneq_geo_behind_bytes", "bytes_behind"),
    ] {
        let (Some(least), Some(most)) = (before[key].as_f64(), after[key].as_f64()) else {
            assert_eq!(page.get(series), None, "{series} is not known to the command either");
            continue;
        };
        let told = page.value(series);
        let (least, most) = (least.min(most), least.max(most));
        assert!((least..=most).contains(&told), "{series} is {told}, not {least} to {most}");
    }
    let at = page.value("zoneq_geo_last_sync_timestamp_seconds");
    let seconds = |of: &Value| unix_seconds(&text(&of["last_sync_time"]));
    assert!((seconds(&before)..=seconds(&after)).contains(&at), "{at}: {before} {after}");
    page
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Seconds since 1970 of a time as the command line writes it.
fn unix_seconds(time: &str) -> f64 {
    let numbers: Vec<i64> = time
        .split(|c: char| !c.is_ascii_digit())
        .take(6)
        .map(|part| part.parse().expect(time))
        .collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{time}") };
    // Days from the civil calendar, with the year beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    ((days - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second) as f64
}

/// Every metric that the reference page names.
fn documented() -> BTreeSet<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/reference/metrics.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(['`', '{']).next());
    names.filter(|name| is_name(name)).map(str::to_owned).collect()
}

#[test]
fn both_regions_tell_what_region_status_says() {
    let lab = Lab::pair();
    let all = addresses(&lab);
    let of = |ids: std::ops::RangeInclusive<u64>| -> Vec<String> {
        ids.map(|id| all[&id].clone()).collect()
    };
    let (east, west) = (of(1..=3), of(4..=6));
    lab.ok("queue create orders");
    lab.ok("send orders shipped");
    let behind = |page: &Page| page.get("zoneq_geo_behind_entries");
    wait("the copy has all", || (behind(&leading(&east)) == Some(0.0)).then_some(()));
    assert_eq!(compared(&lab, "east", &east).word("zoneq_geo_copy_status"), "live");
    assert_eq!(compared(&lab, "west", &west).word("zoneq_geo_role"), "secondary");

    lab.ok("region limit --max-lag 2s --max-unshipped 1MiB --alert -e east");
    lab.ok("region read-access on -e west");
    lab.ok("region shape --pause --bandwidth 1MiB/s -e east");
    lab.ok("send orders waits waits waits");
    let page = wait("the limit is passed", || {
        let page = compared(&lab, "east", &east);
        (page.get("zoneq_geo_limit_passed") == Some(1.0)).then_some(page)
    });
    for (series, value) in [
        ("zoneq_geo_line_paused", 1.0),
        ("zoneq_geo_line_down", 1.0),
        ("zoneq_geo_line_bytes_per_second", 1_048_576.0),
        ("zoneq_geo_limit_lag_seconds", 2.0),
        ("zoneq_geo_limit_unshipped_bytes", 1_048_576.0),
        ("zoneq_geo_limit_throttles", 0.0),
        ("zoneq_geo_trouble", 1.0),
    ] {
        assert_eq!(page.value(series), value, "{series}");
    }
    assert!(page.value("zoneq_geo_behind_messages") >= 3.0);
    wait("the secondary knows that it is behind", || {
        let page = leading(&west);
        page.get("zoneq_geo_behind_messages").filter(|it| *it >= 3.0)
    });
    let follower =
        east.iter().map(|it| scrape(it)).find(|it| it.value("zoneq_consensus_leader") == 0.0);
    let follower = follower.expect("a follower");
    assert_eq!(follower.word("zoneq_geo_role"), "primary", "it stands in the state");
    for series in [
        "zoneq_geo_last_sync_timestamp_seconds",
        "zoneq_geo_copy_status{status=\"live\"}",
        "zoneq_geo_behind_entries",
        "zoneq_geo_limit_passed",
        "zoneq_geo_line_paused",
        "zoneq_geo_trouble",
    ] {
        assert_eq!(follower.get(series), None, "the leader's to say: {series}");
    }

    lab.ok("region shape --off -e east");
    lab.ok("region lease 5s -e east");
    let page = wait("a lease is held and the copy has all", || {
        let page = leading(&east);
        let held = page.get("zoneq_geo_lease_left_seconds").is_some_and(|left| left > 0.0);
        (held && behind(&page) == Some(0.0)).then_some(page)
    });
    assert_eq!(page.value("zoneq_geo_lease_in_force_seconds"), 5.0);
    assert_eq!(page.value("zoneq_geo_limit_passed"), 0.0);
    lab.ok("region failover --to west");
    let promoted = wait("west is the primary", || {
        let page = leading(&west);
        (page.word("zoneq_geo_role") == "primary").then_some(page)
    });
    assert_eq!(promoted.value("zoneq_geo_epoch_number"), 2.0);
}

#[test]
fn every_documented_metric_is_told_and_every_one_told_is_documented() {
    let lab = Lab::pair();
    let all: Vec<String> = addresses(&lab).into_values().collect();
    let home = tempfile::tempdir().expect("a folder");
    let (node, address) = alone_with_metrics(home.path(), "--metrics-queues 1");
    super::stage::zoneq(home.path(), &format!("queue create orders -e {}", node.url()));
    lab.ok("region limit --max-lag 1h --max-unshipped 1GiB --alert -e east");
    lab.ok("region lease 5s -e east");
    lab.ok("region shape --delay 1ms --bandwidth 64MiB/s -e east");
    let documented = documented();
    assert!(documented.len() > 50, "{documented:?}");
    let (mut told, mut missed) = (BTreeSet::new(), Vec::new());
    wait("every documented metric is told", || {
        for address in all.iter().chain([&address]) {
            told.extend(scrape(address).families.into_keys());
        }
        let missing: Vec<String> = documented.difference(&told).cloned().collect();
        let is_new = !missing.is_empty() && missing != missed;
        if is_new {
            eprintln!("not told yet: {missing:?}");
        }
        missed = missing;
        missed.is_empty().then_some(())
    });
    let unknown: Vec<&String> = told.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/reference/metrics.md: {unknown:?}");
    node.stop().exits(0);
}
