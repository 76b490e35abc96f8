//! What a pod reports of its node as Kubernetes Events: who leads, who came and went, what is wrong with the disk.
//! Hints for people: some may be missing, none is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::ServerError;
use crate::driver::{Configuration, Handle, NextEvent, Observation, RoleName, Status};
use crate::k8s::{Announcement, Announcer};
use crate::storage::StorageError;
use crate::types::NodeId;

/// A node's state is looked at so long after it has reported a change: the report comes first, and one change brings
/// several.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// So long a node waits before it is announced what for, and at least so long between two such.
const WAITS_INTERVAL: Duration = Duration::from_secs(10);

/// Lets the controller look at once when leadership or the members have changed, and announces that, until the replica
/// ends.
pub(super) async fn follow(handle: Handle, wake: Arc<Notify>, announcer: Announcer) {
    let mut events = handle.events(None);
    let mut witness = Witness::default();
    loop {
        let is_news = match events.next().await {
            NextEvent::Event(event) => {
                if let Some(trouble) = disk(&event.observation) {
                    announcer.announce(trouble);
                }
                matches!(
                    event.observation,
                    Observation::LeaderChanged { .. }
                        | Observation::RoleChanged { .. }
                        | Observation::ConfigurationChanged { .. }
                )
            }
            NextEvent::Missed(_) => true,
            NextEvent::End => return,
        };
        if is_news {
            wake.notify_one();
            tokio::time::sleep(SETTLE_TIME).await;
            for announcement in witness.look(&View::of(&handle.status())) {
                announcer.announce(announcement);
            }
        }
    }
}

/// Announces what a node waits for that does not belong to a cluster yet, until dropped. What passes by itself within
/// seconds is not worth it.
pub(super) async fn waits(announcer: Announcer, reasons: watch::Receiver<String>) -> Infallible {
    let mut said = String::new();
    loop {
        tokio::time::sleep(WAITS_INTERVAL).await;
        let why = reasons.borrow().clone();
        if !why.is_empty() && why != said {
            announcer.announce(warning("WaitsForCluster", &why));
            said = why;
        }
    }
}

fn normal(reason: &'static str, note: String) -> Announcement {
    Announcement { reason, note, is_warning: false }
}

fn warning(reason: &'static str, note: &str) -> Announcement {
    Announcement { reason, note: note.to_owned(), is_warning: true }
}

/// What is to be told of the disk.
fn disk(observation: &Observation) -> Option<Announcement> {
    match observation {
        Observation::DiskStalls { .. } => {
            Some(warning("DiskStalls", "the disk does not answer: writes wait for it"))
        }
        Observation::SpaceLow => {
            Some(warning("DiskSpaceLow", "disk space is below the reserve: no more entries are taken"))
        }
        Observation::SpaceFreed => Some(normal("DiskSpaceFreed", "there is disk space again".into())),
        Observation::DataLost { match_index, last_index } => Some(warning(
            "DataLost",
            &format!(
                "the log ends at entry {last_index}, although entries up to {match_index} were acknowledged"
            ),
        )),
        Observation::StateDiffers { index, .. } => Some(warning(
            "StateDiffers",
            &format!("after entry {index} another member's state differs from this node's"),
        )),
        Observation::StateDiverged { index, .. } => Some(warning(
            "StateDiverged",
            &format!("after entry {index} this node's state differs from a majority's: the node stops"),
        )),
        _ => None,
    }
}

/// Why a node ends by itself, as far as someone should have a look at its volume.
pub(super) fn end(error: &ServerError) -> Option<Announcement> {
    let reason = match error.exit_code() {
        3 => "DataDamaged",
        4 => "DiskFailed",
        5 => match error {
            ServerError::Latch { .. } | ServerError::OtherCluster { .. } => "OtherCluster",
            _ => "IdentityRefused",
        },
        // Rights of a volume, most likely; the message says whose it is.
        _ if matches!(error, ServerError::Storage(StorageError::Unusable { .. })) => "VolumeUnusable",
        _ => return None,
    };
    Some(warning(reason, &error.to_string()))
}

/// A node's state, as far as it is announced.
struct View {
    term: u64,
    leads: bool,
    own: NodeId,
    configuration: Arc<Configuration>,
}

impl View {
    fn of(status: &Status) -> Self {
        Self {
            term: status.term.0,
            leads: status.role == RoleName::Leader,
            own: status.node_id,
            configuration: Arc::clone(&status.configuration),
        }
    }
}

/// What was announced last.
#[derive(Default)]
struct Witness {
    /// Name of a member, to its id and whether it votes. At a leader only, which alone announces members.
    members: Option<BTreeMap<String, (NodeId, bool)>>,
    /// Names of members that went while this node led: who comes under one of them takes its place.
    gone: BTreeSet<String>,
}

impl Witness {
    /// What is new.
    fn look(&mut self, view: &View) -> Vec<Announcement> {
        let now: BTreeMap<String, (NodeId, bool)> = view
            .configuration
            .members()
            .into_iter()
            .map(|(id, member)| (member.name.clone(), (id, view.configuration.voters.contains_key(&id))))
            .collect();
        let own = now.iter().find(|(_, (id, _))| *id == view.own).map_or("this node", |(name, _)| name);
        if !view.leads {
            self.gone.clear();
            let note = format!("{own} no longer leads the cluster, which is in term {}", view.term);
            return self.members.take().map(|_| normal("LeaderLost", note)).into_iter().collect();
        }
        let Some(before) = self.members.take() else {
            let note = format!("{own} leads the cluster in term {}", view.term);
            self.members = Some(now);
            return vec![normal("LeaderElected", note)];
        };
        let mut news = Vec::new();
        for (name, (id, votes)) in &now {
            match before.get(name) {
                Some((was, voted)) if was == id => {
                    if *votes && !voted {
                        news.push(normal("MemberPromoted", format!("{name} (node {id}) votes now")));
                    }
                }
                found => {
                    let is_replaced = self.gone.remove(name) || found.is_some();
                    news.push(if is_replaced {
                        normal(
                            "MemberReplaced",
                            format!("{name} is another node now, {id}, with a new volume"),
                        )
                    } else {
                        normal("MemberJoined", format!("{name} (node {id}) has joined the cluster"))
                    });
                }
            }
        }
        for (name, (id, _)) in before.iter().filter(|(name, _)| !now.contains_key(*name)) {
            news.push(normal("MemberRemoved", format!("{name} (node {id}) was removed from the cluster")));
            self.gone.insert(name.clone());
        }
        self.members = Some(now);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Member;
    use crate::types::LogIndex;

    fn view(leads: bool, voters: &[(u64, &str)], learners: &[(u64, &str)]) -> View {
        let members = |list: &[(u64, &str)]| {
            let member = |name: &str| Member { name: name.into(), ..Member::default() };
            list.iter().map(|(id, name)| (NodeId(*id), member(name))).collect()
        };
        let configuration = Configuration {
            voters: members(voters),
            learners: members(learners),
            ..Configuration::default()
        };
        View { term: 7, leads, own: NodeId(1), configuration: Arc::new(configuration) }
    }

    fn reasons(news: Vec<Announcement>) -> Vec<&'static str> {
        news.into_iter().map(|announcement| announcement.reason).collect()
    }

    #[test]
    fn a_volume_that_may_not_be_used_is_told_from_a_disk_that_fails() {
        let reason = |kind: std::io::ErrorKind| {
            let error = StorageError::disk("create", "/data".as_ref())(kind.into());
            end(&ServerError::from(error)).map(|announcement| announcement.reason)
        };
        assert_eq!(reason(std::io::ErrorKind::PermissionDenied), Some("VolumeUnusable"));
        assert_eq!(reason(std::io::ErrorKind::StorageFull), Some("DiskFailed"));
        assert!(end(&ServerError::from(StorageError::NoData("/data".into()))).is_none());
    }

    #[test]
    fn the_leader_tells_who_leads_and_who_comes_and_goes() {
        let mut witness = Witness::default();
        let two = [(1, "kv-0"), (2, "kv-1")];
        let steps: [(View, &[&str]); 9] = [
            (view(false, &two, &[]), &[]),
            (view(true, &two, &[]), &["LeaderElected"]),
            (view(true, &two, &[]), &[]),
            (view(true, &two, &[(3, "kv-2")]), &["MemberJoined"]),
            (view(true, &[(1, "kv-0"), (2, "kv-1"), (3, "kv-2")], &[]), &["MemberPromoted"]),
            (view(true, &two, &[]), &["MemberRemoved"]),
            (view(true, &two, &[(4, "kv-2")]), &["MemberReplaced"]),
            (view(true, &[(1, "kv-0"), (5, "kv-1")], &[]), &["MemberReplaced", "MemberRemoved"]),
            (view(false, &two, &[]), &["LeaderLost"]),
        ];
        for (number, (view, expected)) in steps.into_iter().enumerate() {
            assert_eq!(reasons(witness.look(&view)), expected, "step {number}");
        }
        assert_eq!(reasons(witness.look(&view(true, &two, &[]))), ["LeaderElected"]);
    }

    #[test]
    fn disk_trouble_is_told() {
        let lost = Observation::DataLost { match_index: LogIndex(9), last_index: LogIndex(5) };
        let stalls = Observation::DiskStalls { micros: 5_000_000 };
        for (observation, reason) in [
            (stalls, "DiskStalls"),
            (Observation::SpaceLow, "DiskSpaceLow"),
            (Observation::SpaceFreed, "DiskSpaceFreed"),
            (lost, "DataLost"),
        ] {
            assert_eq!(disk(&observation).map(|announcement| announcement.reason), Some(reason));
        }
        assert_eq!(disk(&Observation::DiskWorks), None);
    }
}
