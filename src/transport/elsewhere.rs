//! A node that runs looks whether it is in the right place: it asks the members of its list, and those that it knows.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::administration::Joining;
use super::dial::Resolver;
use super::question::{Question, Round, Silences, reasons};
use super::settings::Settings;
use crate::membership::{
    AdminError, Astray, HelloAnswer, InitialCluster, InitialMember, Local, Removal, astray, forgotten_by,
    proven_removal,
};
use crate::raft::Configuration;
use crate::types::{ClusterId, LogIndex};

/// Pause between two rounds of questions.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(1);
/// Members of a claimed configuration that are asked, too; a cluster has fewer.
const CLAIMED_MAX: usize = 16;

/// What peers say to a node that is not in the right place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// A majority of the expected members belongs to this other cluster.
    OtherCluster(ClusterId),
    /// This node was removed by this committed entry.
    Removed(LogIndex),
}

/// Whom a node asks.
pub struct Asked {
    /// The expected members: a majority of them decides which cluster is the right one.
    pub expected: InitialCluster,
    /// All that may know more.
    pub everyone: InitialCluster,
    /// Whether it asks to be added again if none of them counts it.
    pub rejoins: bool,
    /// The latest configuration in its log.
    pub known: Arc<Configuration>,
    /// It finds no leader.
    pub is_lost: bool,
}

/// What is wrong with a running node, for those who ask whether it is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Why this node must not serve, whether it finds a leader or not.
    pub astray: Option<String>,
    /// Why no leader is found.
    pub lost: Option<String>,
}

/// A running node that looks whether it is in the right place.
pub struct Watched<'a> {
    /// This node.
    pub local: &'a Local,
    /// Its cluster.
    pub own: ClusterId,
    /// Where members are.
    pub resolver: &'a Resolver,
    /// Limits and timing.
    pub settings: &'a Settings,
    /// In Kubernetes, the uid of its pod.
    pub pod_uid: Option<String>,
}

/// What was said already: each warning once for each change.
#[derive(Default)]
struct Said {
    warning: Option<String>,
    silences: Silences,
    refused: Option<AdminError>,
}

impl Said {
    fn warn(&mut self, warning: Option<&String>) {
        if let Some(warning) = warning.filter(|warning| self.warning.as_ref() != Some(warning)) {
            tracing::warn!("{warning}");
        }
        self.warning = warning.cloned();
    }
}

impl Watched<'_> {
    /// Asks until the answers show that this node is not one of theirs. If its addition was lost, it asks to be added again.
    /// `whom` says before each round which members to ask, or that it is not worth asking; `report` is told what is wrong
    /// after each round.
    pub async fn watch(
        &self,
        whom: impl AsyncFn() -> Option<Asked>,
        report: impl Fn(Trouble) + Sync,
    ) -> Elsewhere {
        let claimed = Claimed::default();
        let question = Question::new(self.local, false, &claimed.resolver(self.resolver), self.settings);
        // Each round asks at the next of each member's addresses: what a foreign directory's configuration says of them
        // is not where the expected ones are.
        let mut round = 0;
        let mut said = Said::default();
        loop {
            tokio::time::sleep(ELSEWHERE_INTERVAL).await;
            let Some(asked) = whom().await else {
                report(Trouble::default());
                continue;
            };
            let everyone = if asked.is_lost { claimed.and(&asked.everyone) } else { asked.expected.clone() };
            let found = question.ask_all(&everyone, round).await;
            round += 1;
            if let Some(elsewhere) = self.judge(&asked, &found, &claimed, &mut said, &report) {
                return elsewhere;
            }
            if asked.is_lost && asked.rejoins {
                self.rejoin(&found.answers, &mut said).await;
            }
        }
    }

    /// What one round of questions shows.
    fn judge(
        &self,
        asked: &Asked,
        found: &Round,
        claimed: &Claimed,
        said: &mut Said,
        report: impl Fn(Trouble),
    ) -> Option<Elsewhere> {
        let Round { answers, silent } = found;
        let mut trouble = Trouble::default();
        let mut warning = None;
        if asked.is_lost {
            said.silences.warn_of(silent);
            claimed.learn(answers);
            match proven_removal(self.local.node_id, self.own, &asked.known, answers) {
                Removal::Proven(index) => return Some(Elsewhere::Removed(index)),
                Removal::Unproven(why) => {
                    warning = Some(why.clone());
                    trouble.lost = Some(why);
                }
                Removal::Unheard => {
                    trouble.lost = (!silent.is_empty()).then(|| format!("no answer{}", reasons(silent)));
                }
            }
        }
        match astray(&self.local.name, self.own, &asked.expected, answers) {
            Astray::This(other) => return Some(Elsewhere::OtherCluster(other)),
            Astray::Unclear(why) => {
                warning = Some(why.clone());
                trouble.astray = Some(why);
            }
            Astray::Others(why) => warning = Some(why),
            Astray::Nobody => {}
        }
        said.warn(warning.as_ref());
        report(trouble);
        None
    }

    async fn rejoin(&self, answers: &BTreeMap<String, HelloAnswer>, said: &mut Said) {
        let peers = forgotten_by(self.own, answers);
        if peers.is_empty() {
            return;
        }
        let joining = Joining {
            local: self.local,
            cluster_id: self.own,
            pod_uid: self.pod_uid.clone(),
            resolver: self.resolver,
            settings: self.settings,
        };
        if let Err(error) = joining.ask(&peers).await
            && said.refused.as_ref() != Some(&error)
        {
            tracing::info!(cluster_id = %self.own, %error, "counted by nobody that answers, and not added again");
            said.refused = Some(error);
        }
    }
}

/// Members that this node does not know, of configurations by which others say that it was removed: they are asked whether
/// that is so.
#[derive(Clone, Default)]
struct Claimed(Arc<RwLock<BTreeMap<String, String>>>);

impl Claimed {
    fn learn(&self, answers: &BTreeMap<String, HelloAnswer>) {
        let removed = answers.values().filter_map(|answer| answer.removed_asker.as_ref());
        let members = removed.filter_map(|removed| removed.configuration.as_ref()).flat_map(|claimed| {
            claimed
                .voters
                .values()
                .filter_map(|member| Some((member.name.clone(), member.peer_addr.clone()?)))
        });
        let members = members.take(CLAIMED_MAX).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// These and the claimed ones.
    fn and(&self, known: &InitialCluster) -> InitialCluster {
        let mut members = known.members().to_vec();
        for (name, address) in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if !members.iter().any(|member| member.name == *name || member.address == *address) {
                members.push(InitialMember { name: name.clone(), address: address.clone() });
            }
        }
        InitialCluster::new(members).unwrap_or_else(|_| known.clone())
    }

    /// Finds those that are claimed, too.
    fn resolver(&self, resolver: &Resolver) -> Resolver {
        let (claimed, resolver) = (self.clone(), Arc::clone(resolver));
        Arc::new(move |name| {
            let mut addresses = resolver(name);
            if addresses.is_empty() {
                addresses.extend(claimed.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned());
            }
            addresses
        })
    }
}
