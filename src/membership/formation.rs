//! Forming a cluster: what to do after each round of questions, and what to answer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{InitialCluster, RemovedBy};
use crate::raft::{Configuration, Member};
use crate::types::{ClusterId, NodeId, Session};

/// This node, to itself and to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// From its data directory, durable before it is told to anyone.
    pub node_id: NodeId,
    /// The name its address is looked up by.
    pub name: String,
    /// Where its clients reach it, `host:port`.
    pub client_addr: String,
    /// Where its peers reach it, `host:port`, if its name alone does not tell.
    pub peer_addr: Option<String>,
}

/// What a node does that may not form a cluster, when its peers know one that does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinPolicy {
    /// An empty node asks to join. One that was removed from the cluster waits: the removal was intended.
    #[default]
    Auto,
    /// Asks to join, also after it was removed.
    Always,
    /// Waits until it is added by an administrator.
    Wait,
}

/// How a data directory stands to clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Never heard of one. Only such a directory may form one.
    #[default]
    Empty,
    /// Began to form one and may have told others.
    Intent(Intent),
    /// Belongs to one.
    Member(Formed),
    /// Once belonged to one: it may join one, but never form one, and does not count as empty.
    Retired(ClusterId),
}

/// A cluster about to be formed. Durable before anyone hears of it, so that a founder that crashes
/// continues with the same ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Drawn at random.
    pub cluster_id: ClusterId,
    /// The founding members, all voters: the first log entry.
    pub configuration: Configuration,
}

/// Membership of a cluster. Durable before it is told to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Formed {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The first log entry (index 1, term 1), to be written while the log is empty. None for a node that a
    /// running cluster made contact with: it starts with an empty log and learns the members from it.
    pub configuration: Option<Configuration>,
}

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAnswer {
    /// Its directory's id.
    pub node_id: NodeId,
    /// Its own name, to be compared with the one it was asked under.
    pub name: String,
    /// Where its clients reach it; may be empty.
    pub client_addr: String,
    /// Where it says that its peers reach it.
    pub peer_addr: Option<String>,
    /// The cluster it belongs to, belonged to, or is about to form.
    pub cluster_id: Option<ClusterId>,
    /// To be named in `Form`; void once it has given a newer one.
    pub nonce: u64,
    /// Its configuration holds the asker's node id.
    pub knows_asker: bool,
    /// The committed removal of the asker's node id, if there was one.
    pub removed_asker: Option<RemovedBy>,
    /// It only began to form `cluster_id`: nobody may be a member of that yet.
    pub is_intent: bool,
    /// The names that it was started with, its own among them. Empty: it is in no list, or does not tell.
    pub listed: BTreeSet<String>,
}

/// What to do after a round of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask again; things are on their way.
    Wait {
        /// What is waited for.
        why: String,
    },
    /// Ask again, but someone has to change something.
    StayOut {
        /// What is wrong.
        why: String,
    },
    /// Draw a cluster id, make an intent with these members durable, and ask again.
    Intend(Configuration),
    /// Drop the intent, which nobody has accepted nor can accept any more, and ask again.
    GiveWay {
        /// For whom.
        why: String,
    },
    /// Send `Form` to these, and ask again.
    Form(Vec<Invitation>),
    /// A majority of the founding members has accepted the intended cluster: make the membership durable and start.
    Formed,
    /// Ask one of these peers, by name, to be added to their cluster, and ask all again.
    Join {
        /// The cluster.
        cluster_id: ClusterId,
        /// Those that know it.
        peers: Vec<String>,
    },
}

/// A peer that is to be told of the intended cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Its name.
    pub name: String,
    /// The node meant.
    pub node_id: NodeId,
    /// From its newest answer.
    pub nonce: u64,
}

impl Standing {
    /// The cluster that this directory is bound to, if any.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        match self {
            Self::Empty => None,
            Self::Intent(intent) => Some(intent.cluster_id),
            Self::Member(formed) => Some(formed.cluster_id),
            Self::Retired(cluster_id) => Some(*cluster_id),
        }
    }

    /// Whether the founding configuration, as far as it is known here, has `id` as a member.
    #[must_use]
    pub fn founded_with(&self, id: NodeId) -> bool {
        self.founded_as(id).is_some()
    }

    /// The name of `id` in the founding configuration, as far as that is known here.
    #[must_use]
    pub fn founded_as(&self, id: NodeId) -> Option<&str> {
        let configuration = match self {
            Self::Intent(intent) => Some(&intent.configuration),
            Self::Member(formed) => formed.configuration.as_ref(),
            Self::Empty | Self::Retired(_) => None,
        };
        configuration?.voters.get(&id).map(|member| member.name.as_str())
    }
}

#[cfg(test)]
impl Default for HelloAnswer {
    /// An answer of an empty node, without an id and a name.
    fn default() -> Self {
        Self {
            node_id: NodeId(0),
            name: String::new(),
            client_addr: String::new(),
            peer_addr: None,
            cluster_id: None,
            nonce: 0,
            knows_asker: false,
            removed_asker: None,
            is_intent: false,
            listed: BTreeSet::new(),
        }
    }
}

impl From<Intent> for Formed {
    fn from(intent: Intent) -> Self {
        Self { cluster_id: intent.cluster_id, configuration: Some(intent.configuration) }
    }
}

/// What to do, given the answers of those peers that answered in this round, by the name they were asked under.
#[must_use]
pub fn decide(
    local: &Local,
    standing: &Standing,
    policy: JoinPolicy,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Decision {
    if let Some(why) = contradiction(local, cluster, answers) {
        return Decision::StayOut { why };
    }
    match standing {
        Standing::Member(_) => Decision::Formed,
        Standing::Intent(intent) => go_on_forming(local, intent, cluster, answers),
        Standing::Retired(own) => retired(local, *own, policy, answers),
        Standing::Empty => {
            if let Some(decision) = known_cluster(local, policy, answers) {
                return decision;
            }
            if let Some(why) = other_list(local, cluster, answers) {
                return Decision::StayOut { why };
            }
            if let Some((name, answer)) = answers.iter().find(|(_, answer)| answer.is_intent) {
                let cluster_id = answer.cluster_id.unwrap_or(ClusterId(0));
                return Decision::Wait { why: format!("waiting for {name} to form cluster {cluster_id}") };
            }
            if let Some(why) = unanswered(local, cluster, answers) {
                return Decision::Wait { why };
            }
            if cluster.founder() != local.name {
                return Decision::Wait {
                    why: format!("waiting for {} to form the cluster", cluster.founder()),
                };
            }
            Decision::Intend(founding_members(local, answers))
        }
    }
}

/// As [`decide`], for a node with an intent of which nobody was told for sure: it starts again, as if it was empty.
/// `None` if what it intended is what it would intend now, or if somebody knows of it after all.
#[must_use]
pub fn decide_anew(
    local: &Local,
    intent: &Intent,
    policy: JoinPolicy,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<Decision> {
    if answers.values().any(|answer| answer.cluster_id == Some(intent.cluster_id)) {
        return None;
    }
    match decide(local, &Standing::Empty, policy, cluster, answers) {
        Decision::Intend(configuration) if configuration == intent.configuration => None,
        decision => Some(decision),
    }
}

/// Answers that cannot all be right, whatever the state of the cluster.
fn contradiction(
    local: &Local,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<String> {
    let mut names: BTreeMap<NodeId, &str> = BTreeMap::from([(local.node_id, local.name.as_str())]);
    for (name, answer) in answers {
        let address = cluster.address(name).unwrap_or("its address");
        if answer.node_id == local.node_id && answer.name == local.name {
            return Some(format!("{address}, given for {name}, leads to this node itself"));
        }
        if &answer.name != name {
            return Some(format!("{address}, given for {name}, is answered by {}", answer.name));
        }
        if let Some(other) = names.insert(answer.node_id, name) {
            return Some(format!(
                "{other} and {name} have the same node id {}: one data directory is a copy of the other",
                answer.node_id
            ));
        }
    }
    None
}

fn unanswered(
    local: &Local,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<String> {
    let missing: Vec<&str> = cluster
        .others(&local.name)
        .map(|member| member.name.as_str())
        .filter(|name| !answers.contains_key(*name))
        .collect();
    (!missing.is_empty()).then(|| format!("waiting for {} to answer", missing.join(", ")))
}

/// A founding member that was started with other names than this one: each of the two might form a cluster of its own.
fn other_list(
    local: &Local,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<String> {
    let own: BTreeSet<&str> = cluster.members().iter().map(|member| member.name.as_str()).collect();
    if !own.contains(local.name.as_str()) {
        return None;
    }
    let differs = |answer: &HelloAnswer| {
        !answer.listed.is_empty() && !answer.listed.iter().map(String::as_str).eq(own.iter().copied())
    };
    let is_founding = |answer: &HelloAnswer| answer.cluster_id.is_none() || answer.is_intent;
    let (name, answer) = answers.iter().find(|(_, answer)| is_founding(answer) && differs(answer))?;
    let theirs: Vec<&str> = answer.listed.iter().map(String::as_str).collect();
    Some(format!(
        "the lists of members differ: this node has {}; {name} has {}: start all founding members with the same names \
         in --initial-cluster (their order does not matter)",
        own.into_iter().collect::<Vec<_>>().join(", "),
        theirs.join(", ")
    ))
}

/// An empty node among peers of which some know a cluster.
fn known_cluster(
    local: &Local,
    policy: JoinPolicy,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<Decision> {
    let formed = answers.iter().filter(|(_, answer)| !answer.is_intent);
    let known: BTreeMap<ClusterId, &str> =
        formed.filter_map(|(name, answer)| Some((answer.cluster_id?, name.as_str()))).collect();
    let (cluster_id, peer) = known.iter().next()?;
    if known.len() > 1 {
        let list: Vec<String> = known.iter().map(|(id, name)| format!("{name} to {id}")).collect();
        let why = format!("the peers belong to different clusters: {}", list.join(", "));
        return Some(Decision::StayOut { why });
    }
    if let Some(decision) = counted(*cluster_id, answers) {
        return Some(decision);
    }
    Some(match policy {
        JoinPolicy::Auto | JoinPolicy::Always => join(*cluster_id, answers),
        JoinPolicy::Wait => Decision::StayOut {
            why: format!(
                "cluster {cluster_id}, known to {peer}, has no member with this node's id {}: its data directory \
                 is new or was emptied, and it does not vote as the previous node; add it with `{}`",
                local.node_id,
                add_command(local, *cluster_id, answers)
            ),
        },
    })
}

/// The cluster counts this node's id already.
fn counted(cluster_id: ClusterId, answers: &BTreeMap<String, HelloAnswer>) -> Option<Decision> {
    let of_cluster = |answer: &&HelloAnswer| answer.cluster_id == Some(cluster_id);
    answers.values().filter(of_cluster).any(|answer| answer.knows_asker).then(|| Decision::Wait {
        why: format!(
            "cluster {cluster_id} counts this node as a member; waiting for a member to make contact"
        ),
    })
}

fn join(cluster_id: ClusterId, answers: &BTreeMap<String, HelloAnswer>) -> Decision {
    let of_cluster = answers.iter().filter(|(_, answer)| answer.cluster_id == Some(cluster_id));
    Decision::Join { cluster_id, peers: of_cluster.map(|(name, _)| name.clone()).collect() }
}

/// What an administrator types to add this node.
fn add_command(local: &Local, cluster_id: ClusterId, answers: &BTreeMap<String, HelloAnswer>) -> String {
    let mut command = format!("kuberaft member add {} --id {}", local.name, local.node_id);
    if let Some(address) = &local.peer_addr {
        command.extend([" --peer-addr ", address]);
    }
    let member =
        |answer: &&HelloAnswer| answer.cluster_id == Some(cluster_id) && !answer.client_addr.is_empty();
    if let Some(peer) = answers.values().find(member) {
        command.extend([" --endpoints ", &peer.client_addr]);
    }
    command
}

/// A node that was removed from its cluster, with a new id.
fn retired(
    local: &Local,
    own: ClusterId,
    policy: JoinPolicy,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Decision {
    if let Some(decision) = counted(own, answers) {
        return decision;
    }
    if !answers.values().any(|answer| answer.cluster_id == Some(own)) {
        let why = format!(
            "this node was removed from cluster {own}, which no peer knows now: it may join it again but never \
             form one"
        );
        return Decision::StayOut { why };
    }
    match policy {
        JoinPolicy::Always => join(own, answers),
        JoinPolicy::Auto | JoinPolicy::Wait => Decision::StayOut {
            why: format!(
                "this node was removed from cluster {own}; its data is set aside; to have it back, start it with \
                 --join always, or add it with `{}`",
                add_command(local, own, answers)
            ),
        },
    }
}

fn founding_members(local: &Local, answers: &BTreeMap<String, HelloAnswer>) -> Configuration {
    let member = |name: &str, peer_addr: &Option<String>| Member {
        name: name.to_owned(),
        session: Session(1),
        peer_addr: peer_addr.clone(),
        ..Member::default()
    };
    let mut voters = BTreeMap::from([(local.node_id, member(&local.name, &local.peer_addr))]);
    voters.extend(answers.iter().map(|(name, answer)| (answer.node_id, member(name, &answer.peer_addr))));
    Configuration { voters, ..Configuration::default() }
}

/// What a founder does about peers that belong to another cluster than `intent`, or began to form one. If all expected
/// peers have answered in this round, and nobody holds the intent, then nobody ever will: its questions have made void
/// what it sent before. So it may give way, to a cluster that is formed, and to the founder. To a cluster it does so, too,
/// once most founding members are lost to the intent, whatever the others hold: nothing can come of it.
fn give_way(
    local: &Local,
    intent: &Intent,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<Decision> {
    let elsewhere = |answer: &HelloAnswer| answer.cluster_id.filter(|id| *id != intent.cluster_id);
    let (name, other, is_intent) = answers
        .iter()
        .filter_map(|(name, answer)| Some((name, elsewhere(answer)?, answer.is_intent)))
        .min_by_key(|(_, _, is_intent)| *is_intent)?;
    let own = intent.cluster_id;
    let all_listed = intent.configuration.voters.values().all(|m| cluster.address(&m.name).is_some());
    let nobody_holds = answers.values().all(|answer| answer.cluster_id != Some(own));
    if is_intent && !nobody_holds {
        // Others have accepted this one; the other founder gives way.
        return None;
    }
    if is_intent && cluster.founder() == local.name {
        let why =
            format!("{name} began to form cluster {other}, this node {own}: waiting for {name} to give way");
        return Some(Decision::Wait { why });
    }
    if nobody_holds && all_listed && unanswered(local, cluster, answers).is_none()
        || !may_get_a_majority(intent, answers)
    {
        return Some(Decision::GiveWay { why: format!("{name} is of cluster {other}") });
    }
    let why = format!(
        "this node began to form cluster {own}, but {name} belongs to cluster {other}: start all members of the list, so \
         that they can say whether somebody accepted {own}; if this node was started by mistake, stop it and remove its \
         data directory"
    );
    Some(Decision::StayOut { why })
}

/// Whether most founding members of the intent may still accept it. A member of another cluster does not, and a node that
/// answers under another id than the intent has took the place of one that cannot any more.
fn may_get_a_majority(intent: &Intent, answers: &BTreeMap<String, HelloAnswer>) -> bool {
    let founders = &intent.configuration;
    founders.has_quorum(|id| {
        let answer = founders.voters.get(&id).and_then(|member| answers.get(&member.name));
        answer.is_none_or(|answer| {
            let is_elsewhere = answer.cluster_id.is_some_and(|other| other != intent.cluster_id);
            answer.node_id == id && (!is_elsewhere || answer.is_intent)
        })
    })
}

/// A founder with a durable intent, in its first life or a later one.
///
/// An intent is replaced by a new one only when every expected peer has answered in this round that it is
/// empty, and one of them under another node id than the intent has. Then nobody holds the old id; a `Form`
/// of it that is still on its way names a nonce that this round's questions have made void. In any other case
/// someone may hold it, so the founder continues: it invites as soon as a majority of the founding members can
/// be had, and starts when a majority has accepted. A founding member that lost its directory meanwhile then
/// stays out like any other emptied node; the rest are reached by the running cluster.
fn go_on_forming(
    local: &Local,
    intent: &Intent,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Decision {
    if let Some(why) = other_list(local, cluster, answers) {
        return Decision::StayOut { why };
    }
    if let Some(decision) = give_way(local, intent, cluster, answers) {
        return decision;
    }
    let founders = &intent.configuration;
    let (mut formed, mut empty) = (BTreeSet::from([local.node_id]), BTreeMap::new());
    for (name, answer) in answers.iter().filter(|(_, answer)| founders.is_voter(answer.node_id)) {
        if answer.cluster_id == Some(intent.cluster_id) {
            formed.insert(answer.node_id);
        } else if answer.cluster_id.is_none() {
            empty.insert(
                answer.node_id,
                Invitation { name: name.clone(), node_id: answer.node_id, nonce: answer.nonce },
            );
        }
    }
    if founders.has_quorum(|id| formed.contains(&id)) {
        return Decision::Formed;
    }
    let replaced: Vec<&str> = answers
        .iter()
        .filter(|(_, answer)| !founders.is_voter(answer.node_id))
        .map(|(name, _)| name.as_str())
        .collect();
    let missing = unanswered(local, cluster, answers);
    let listed = founders.voters.values().all(|member| cluster.address(&member.name).is_some());
    let nobody_formed = answers.values().all(|answer| answer.cluster_id.is_none());
    if !replaced.is_empty() && missing.is_none() && listed && nobody_formed {
        return Decision::Intend(founding_members(local, answers));
    }
    if founders.has_quorum(|id| formed.contains(&id) || empty.contains_key(&id)) {
        return Decision::Form(empty.into_values().collect());
    }
    match missing {
        Some(why) => Decision::Wait { why },
        None => Decision::StayOut { why: too_few_founders(intent, cluster, &replaced) },
    }
}

fn too_few_founders(intent: &Intent, cluster: &InitialCluster, replaced: &[&str]) -> String {
    let mut why =
        format!("cluster {} cannot be formed: a majority of its founding members is gone", intent.cluster_id);
    if !replaced.is_empty() {
        why.extend(["; not in it: ", &replaced.join(", ")]);
    }
    let founders = intent.configuration.voters.values().map(|member| member.name.as_str());
    let unlisted: Vec<&str> = founders.filter(|name| cluster.address(name).is_none()).collect();
    if !unlisted.is_empty() {
        why.extend([
            "; not expected any more: ",
            &unlisted.join(", "),
            ", who may know of it: have them back",
        ]);
    }
    why
}

#[cfg(test)]
#[path = "formation_tests.rs"]
mod tests;
