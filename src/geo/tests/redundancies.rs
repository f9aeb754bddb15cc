//! What a primary calls its redundancy by what the other region says that it is.

use super::*;

impl Region {
    async fn until_named(&self, name: &str) {
        until(name, async {
            while self.pair.status().redundancy != name {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_copy_follows_nobody_any_more_is_not_called_by_it_until_it_does_again() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.until_named("GRS").await;
    west.pair.unprotect("anna", false).await.expect("it keeps its copy");
    assert_eq!((east.role(), west.role()), (Role::Primary, Role::Detached));
    east.until_named("LRS").await;
    east.pair.unprotect("anna", false).await.expect("apart");
    east.pair.protect("anna", false).await.expect("together again");
    east.until_named("GRS").await;
    east.stop().await;
    west.stop().await;
}
