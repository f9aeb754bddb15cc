//! Changes of the settings of a pair, made at once.

use super::*;
use crate::geo::pair::{LimitChange, ShapeChange};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_changes_that_are_made_at_once_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    let delay = Span(5_000);
    let slow = ShapeChange { delay: Some(delay), ..ShapeChange::default() };
    let lag = Span::from_secs(60);
    let limited = LimitChange { max_lag: Some(Some(lag)), ..LimitChange::default() };
    let (read, shaped, limits) = tokio::join!(
        east.pair.set_read_access("anna", true),
        east.pair.shape("bert", slow),
        east.pair.limit("carl", limited),
    );
    for changed in [read, shaped, limits] {
        changed.expect("set");
    }
    let settings = east.group.standing().expect("in a pair").authority.settings;
    let found = (settings.read_access, settings.shape.delay, settings.max_lag);
    assert_eq!(found, (true, delay, Some(lag)));
    east.stop().await;
    west.stop().await;
}
