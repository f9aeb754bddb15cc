//! The two regions of a lab: what each says of itself, and how a new pair comes to be protected.
//!
//! Laws: a region is asked at all of its nodes at once, and the first answer counts; it has half a
//! second. What nobody answers is not known, and never guessed.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::files::Lab;
use super::table::{self, Eye, NodeView};
use crate::cli::exit::Usage;
use crate::cli::region;
use crate::client::{Client, Regions};
use crate::proto::admin::v1 as pb;

/// Between two looks at a region.
const LOOK: Duration = Duration::from_millis(25);

/// One region as it is now.
#[derive(Clone, Debug)]
pub struct RegionView {
    pub name: String,
    /// What it says of itself; `None` when no node of it answers.
    pub status: Option<pb::GetRegionResponse>,
}

impl RegionView {
    #[must_use]
    pub fn role(&self) -> Option<pb::RegionRole> {
        self.status.as_ref().map(pb::GetRegionResponse::role)
    }

    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.status() == pb::GeoStatus::Live)
    }

    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.writable)
    }
}

/// A region's word, by the first of its nodes that has one.
pub async fn ask(lab: &Lab, eyes: &[Eye], name: &str) -> RegionView {
    let ids = lab.in_region(name);
    let asked = eyes.iter().filter(|eye| ids.contains(&eye.id)).map(Eye::region);
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut status = None;
    while let (None, Some(answer)) = (&status, asked.next().await) {
        status = answer;
    }
    RegionView { name: name.to_owned(), status }
}

/// Asks every region at once; a lab of one has none to ask.
pub async fn look(lab: &Lab, eyes: &[Eye]) -> Vec<RegionView> {
    let regions = lab.regions();
    if regions.len() < 2 {
        return Vec::new();
    }
    join_all(regions.iter().map(|name| ask(lab, eyes, name))).await
}

/// The region that takes writes: the only one, or the primary.
///
/// # Errors
/// Usage when no region of two says that it is.
pub async fn primary(lab: &Lab) -> anyhow::Result<String> {
    let regions = lab.regions();
    if let [only] = regions.as_slice() {
        return Ok(only.clone());
    }
    let views = look(lab, &Eye::all(lab)?).await;
    let primary = views.iter().find(|view| view.is_writable());
    primary.map(|view| view.name.clone()).ok_or_else(|| {
        let text = "no region of this lab takes writes now; see `zoneq lab status`";
        Usage(text.to_owned()).into()
    })
}

/// The verbs of one region, asked of its own nodes only.
pub fn regions_of(lab: &Lab, region: &str, deadline: Duration) -> anyhow::Result<Regions> {
    let builder = Client::builder().endpoints(lab.part(region).urls()).deadline(deadline);
    Ok(builder.build()?.admin().regions(region::who()))
}

/// Waits until the regions are as asked, and answers them; else says what they are.
pub async fn until(
    lab: &Lab,
    patience: Duration,
    what: &str,
    is_so: impl Fn(&[RegionView]) -> bool,
) -> anyhow::Result<Vec<RegionView>> {
    let (until, eyes) = (Instant::now() + patience, Eye::all(lab)?);
    loop {
        let views = look(lab, &eyes).await;
        if is_so(&views) {
            return Ok(views);
        }
        if Instant::now() >= until {
            let seconds = patience.as_secs();
            anyhow::bail!("{what} after {seconds} s: {}", sentence(lab, &[], &views));
        }
        sleep(LOOK).await;
    }
}

/// One side is the primary, the other its secondary, and both call the copy live.
#[must_use]
pub fn is_live(views: &[RegionView]) -> bool {
    let has = |role| views.iter().filter(|view| view.role() == Some(role)).count() == 1;
    has(pb::RegionRole::Primary)
        && has(pb::RegionRole::Secondary)
        && views.iter().all(RegionView::is_live)
}

/// Waits until the pair is protected and live.
pub async fn wait_live(lab: &Lab, patience: Duration) -> anyhow::Result<Vec<RegionView>> {
    until(lab, patience, "the pair is not protected and live", is_live).await
}

/// Brings a pair to protected and live: a new one is protected, from the first region; one that
/// was protected is waited for. A pair in any other state is its operator's, and left as it is.
pub async fn settle(lab: &Lab, patience: Duration) -> anyhow::Result<Vec<RegionView>> {
    let known = |views: &[RegionView]| views.iter().all(|view| view.status.is_some());
    let views = until(lab, patience, "a region does not answer", known).await?;
    let standalone = |view: &RegionView| view.role() == Some(pb::RegionRole::Standalone);
    let never = |view: &RegionView| {
        standalone(view) && view.status.as_ref().is_some_and(|it| it.lineage.is_empty())
    };
    if views.iter().all(never) {
        let first = views.first().map_or("", |view| view.name.as_str());
        regions_of(lab, first, patience)?.protect(false).await?;
        return wait_live(lab, patience).await;
    }
    let paired = |view: &RegionView| {
        matches!(view.role(), Some(pb::RegionRole::Primary | pb::RegionRole::Secondary))
            && view.status.as_ref().is_some_and(|it| !it.peer.is_empty())
    };
    if views.iter().all(paired) { wait_live(lab, patience).await } else { Ok(views) }
}

/// The regions as scripts read them; a lab of one has none.
#[must_use]
pub fn json(lab: &Lab, nodes: &[NodeView], views: &[RegionView]) -> Value {
    let region = |view: &RegionView| {
        let mut value = match &view.status {
            Some(status) => region::status_json(status),
            None => json!({ "region": view.name }),
        };
        if let Some(fields) = value.as_object_mut() {
            fields.remove("ok");
            fields.insert("leader".to_owned(), json!(table::leader(nodes, &view.name)));
            fields.insert("line_cut".to_owned(), json!(is_cut(lab)));
        }
        value
    };
    views.iter().map(region).collect()
}

fn is_cut(lab: &Lab) -> bool {
    lab.file.line.as_ref().is_some_and(|line| line.cut)
}

/// Both regions and the line in one sentence.
#[must_use]
pub fn sentence(lab: &Lab, nodes: &[NodeView], views: &[RegionView]) -> String {
    let one = |view: &RegionView| {
        let leader = table::leader(nodes, &view.name);
        let leader = leader.map_or_else(String::new, |id| format!(", node {id} leads"));
        let Some(status) = &view.status else {
            return format!("{} does not answer", view.name);
        };
        let geo = region::status_name(status.status);
        let geo = geo.map_or_else(String::new, |word| format!(", {word}"));
        let role = region::role_name(status.role);
        format!("{} is {role} ({}{geo}{leader})", view.name, status.redundancy)
    };
    let mut text = views.iter().map(one).collect::<Vec<_>>().join("; ");
    if is_cut(lab) {
        text.push_str("; the line between them is cut");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cli::lab::line::Line;

    fn view(name: &str, role: pb::RegionRole, status: pb::GeoStatus) -> RegionView {
        let status = pb::GetRegionResponse {
            region: name.to_owned(),
            role: role.into(),
            status: status.into(),
            redundancy: "GZRS".to_owned(),
            writable: role == pb::RegionRole::Primary,
            ..pb::GetRegionResponse::default()
        };
        RegionView { name: name.to_owned(), status: Some(status) }
    }

    #[test]
    fn a_pair_is_live_when_one_leads_one_follows_and_both_say_so() {
        let live = |role| view("it", role, pb::GeoStatus::Live);
        let (primary, secondary) = (live(pb::RegionRole::Primary), live(pb::RegionRole::Secondary));
        assert!(is_live(&[primary.clone(), secondary.clone()]));
        assert!(!is_live(&[primary.clone(), primary.clone()]), "two that write");
        assert!(!is_live(&[secondary.clone(), secondary]));
        let late = view("it", pb::RegionRole::Secondary, pb::GeoStatus::Bootstrap);
        assert!(!is_live(&[primary.clone(), late]));
        let silent = RegionView { name: "it".to_owned(), status: None };
        assert!(!is_live(&[primary, silent]));
    }

    #[test]
    fn the_sentence_names_each_region_and_a_cut_line() {
        let mut lab = Lab::new(PathBuf::from("/nowhere"), "c".to_owned(), Vec::new());
        let views = [
            view("east", pb::RegionRole::Primary, pb::GeoStatus::Live),
            RegionView { name: "west".to_owned(), status: None },
        ];
        let text = sentence(&lab, &[], &views);
        assert_eq!(text, "east is primary (GZRS, live); west does not answer");
        lab.file.line = Some(Line { cut: true, ..Line::default() });
        assert!(sentence(&lab, &[], &views).ends_with("; the line between them is cut"));
    }
}
