//! From a data directory to a member of a cluster: asks the peers, does what
//! [`membership`](crate::membership) decides, and asks again.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::administration::ask_to_join;
use super::dial::{self, DialError, Resolver, Silence};
use super::proto;
use super::service::{Outcome, PeerService};
use super::settings::Settings;
use crate::membership::{
    AdminError, AdminReason, Decision, Formed, HelloAnswer, InitialCluster, Intent, Invitation, JoinPolicy,
    Local, Standing, decide, decide_anew, forgotten_by, majority_elsewhere,
};
use crate::raft::Configuration;
use crate::types::{ClusterId, LogIndex};

/// Pause between two rounds of questions whether the members are in another cluster.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before the surroundings are asked again that expect nobody.
const SURROUNDINGS_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before a refused request to join is repeated.
const JOIN_INTERVAL: Duration = Duration::from_millis(300);

/// Any error of a store.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// Where a node remembers its way into a cluster. A call returns once the record is durable; it may block.
/// After an error it is not called again.
pub trait BootstrapStore: Send + Sync {
    /// Remembers that this node forms a cluster. Replaces an earlier intent.
    ///
    /// # Errors
    /// The record may not be durable.
    fn save_intent(&self, intent: &Intent) -> Result<(), StoreError>;

    /// Remembers membership, for ever: the cluster's id and, where given, the configuration, which must survive
    /// until it is the first entry of the log. Takes the place of the intent.
    ///
    /// # Errors
    /// The record may not be durable.
    fn save_membership(&self, formed: &Formed) -> Result<(), StoreError>;
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// What the disk holds is not known any more.
    #[error("cannot remember the cluster: {0}")]
    Store(String),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Another node of this name is a member of the cluster, and answers.
    #[error("this node cannot join: {0}")]
    NameInUse(AdminError),
}

/// Who is expected, and who else has a say before a cluster is formed. Asked afresh in every round.
pub trait Surroundings: Send + Sync {
    /// The founders, or members to ask; this node is among them, unless it shall only join.
    ///
    /// # Errors
    /// Nobody is to be asked now; says what is waited for.
    fn expected(&self) -> Answer<'_, InitialCluster>;

    /// Before an intent to form a cluster becomes durable.
    ///
    /// # Errors
    /// Not now, or never; says what is waited for.
    fn may_intend(&self) -> Answer<'_, ()>;

    /// Before anyone is told of the cluster that this node forms under this id.
    ///
    /// # Errors
    /// As [`Surroundings::may_intend`].
    fn may_form(&self, cluster_id: ClusterId) -> Answer<'_, ()>;

    /// Before an empty node lets a cluster that counts it make it a member of that cluster, which cannot be undone.
    ///
    /// # Errors
    /// As [`Surroundings::may_intend`].
    fn may_be_bound(&self, _: ClusterId) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Whether nobody was told of the cluster that this node intends to form, for sure.
    fn is_untold(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// An answer of the surroundings, or what is waited for.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// A list that never changes; nobody else has a say.
impl Surroundings for InitialCluster {
    fn expected(&self) -> Answer<'_, InitialCluster> {
        Box::pin(async { Ok(self.clone()) })
    }

    fn may_intend(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn may_form(&self, _: ClusterId) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn is_untold(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { false })
    }
}

/// How a node comes into a cluster.
#[derive(Clone)]
pub struct Entrance {
    /// The founders, or members to ask.
    pub surroundings: Arc<dyn Surroundings>,
    /// What to do if they have a cluster already.
    pub policy: JoinPolicy,
    /// For how long another node of this name must have answered without a break, until this one gives up.
    pub name_in_use_max: Duration,
}

/// Returns once this node belongs to a cluster: at once if it did before. While it waits,
/// [`PeerService::reasons`] says for what. `service` must be served already, as peers ask it.
///
/// # Errors
/// The store failed, there are no random numbers, or another node has this one's name. Unreachable or contradictory
/// peers are waited for.
pub async fn bootstrap(
    service: &PeerService,
    entrance: &Entrance,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<Formed, BootstrapError> {
    let Entrance { surroundings, policy, name_in_use_max } = entrance;
    let mut outcome = service.outcome();
    let mut name_in_use = None;
    loop {
        match &*outcome.borrow_and_update() {
            Outcome::Pending => {}
            Outcome::Member(formed) => return Ok(formed.clone()),
            Outcome::Failed(error) => return Err(BootstrapError::Store(error.clone())),
        }
        let (cluster, answers) = tokio::select! {
            round = ask_expected(service.local(), &**surroundings, resolver, settings) => match round {
                Ok(round) => round,
                Err(why) => {
                    service.set_reason(&why);
                    wait(SURROUNDINGS_INTERVAL, &mut outcome).await;
                    continue;
                }
            },
            _ = outcome.changed() => continue,
        };
        let standing = service.standing().await;
        let anew = anew(service, &**surroundings, &standing, *policy, &cluster, &answers).await;
        let decision =
            anew.unwrap_or_else(|| decide(service.local(), &standing, *policy, &cluster, &answers));
        let why = match decision {
            Decision::Wait { why } | Decision::StayOut { why } => Some(why),
            Decision::Intend(configuration) => intend(service, &**surroundings, configuration).await?,
            Decision::Form(invitations) => match may_form(&**surroundings, &standing).await {
                Ok(()) => invite(service.local(), &standing, invitations, resolver, settings).await,
                Err(why) => Some(why),
            },
            Decision::Formed => match may_form(&**surroundings, &standing).await {
                Ok(()) => {
                    service.complete().await;
                    None
                }
                Err(why) => Some(why),
            },
            Decision::Join { cluster_id, peers } => {
                let joined = tokio::select! {
                    joined = join(service.local(), cluster_id, &peers, resolver, settings) => joined,
                    _ = outcome.changed() => continue,
                };
                let error = match joined {
                    Ok(why) => {
                        service.set_reason(&why);
                        // The leader makes contact.
                        wait(settings.bootstrap_interval, &mut outcome).await;
                        continue;
                    }
                    Err(error) => error,
                };
                let since: Option<Instant> = (error.reason == AdminReason::NameInUse)
                    .then(|| name_in_use.unwrap_or_else(Instant::now));
                name_in_use = since;
                if since.is_some_and(|since| since.elapsed() > *name_in_use_max) {
                    return Err(BootstrapError::NameInUse(error));
                }
                service.set_reason(&format!("waiting to join cluster {cluster_id}: {error}"));
                wait(JOIN_INTERVAL, &mut outcome).await;
                continue;
            }
        };
        let Some(why) = why else { continue };
        service.set_reason(&why);
        wait(settings.bootstrap_interval, &mut outcome).await;
    }
}

/// What to do instead with an intent that nobody was told of.
async fn anew(
    service: &PeerService,
    surroundings: &dyn Surroundings,
    standing: &Standing,
    policy: JoinPolicy,
    cluster: &InitialCluster,
    answers: &BTreeMap<String, HelloAnswer>,
) -> Option<Decision> {
    let Standing::Intent(intent) = standing else { return None };
    if !surroundings.is_untold().await {
        return None;
    }
    let decision = decide_anew(service.local(), intent, policy, cluster, answers)?;
    if let Decision::Join { .. } = &decision {
        service.give_up_intent().await;
    }
    Some(decision)
}

/// Makes the intent to form a cluster durable; returns why that must wait.
async fn intend(
    service: &PeerService,
    surroundings: &dyn Surroundings,
    configuration: Configuration,
) -> Result<Option<String>, BootstrapError> {
    if let Err(why) = surroundings.may_intend().await {
        return Ok(Some(why));
    }
    let cluster_id = new_cluster_id()?;
    tracing::info!(%cluster_id, voters = configuration.voters.len(), "forming a cluster");
    service.intend(Intent { cluster_id, configuration }).await;
    Ok(None)
}

async fn may_form(surroundings: &dyn Surroundings, standing: &Standing) -> Result<(), String> {
    match standing {
        Standing::Intent(intent) => surroundings.may_form(intent.cluster_id).await,
        Standing::Empty | Standing::Member(_) | Standing::Retired(_) => Ok(()),
    }
}

/// Waits until something may have changed.
async fn wait(pause: Duration, outcome: &mut watch::Receiver<Outcome>) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = outcome.changed() => {}
    }
}

/// Asks one of `peers` after the other to add this node; returns what to wait for then.
async fn join(
    local: &Local,
    cluster_id: ClusterId,
    peers: &[String],
    resolver: &Resolver,
    settings: &Settings,
) -> Result<String, AdminError> {
    let mut refused = AdminError::new(AdminReason::NoLeader, "no member is known");
    for peer in peers {
        match ask_to_join(local, cluster_id, peer, resolver, settings).await {
            Ok(index) => {
                tracing::info!(%cluster_id, index = index.0, "added to the cluster");
                return Ok(format!("cluster {cluster_id} has added this node; waiting for its leader"));
            }
            // Another member may know more.
            Err(error) if error.reason.is_retryable() => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// What peers say to a node that finds no leader among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// A majority of the expected members belongs to this other cluster.
    OtherCluster(ClusterId),
    /// This node was removed by this committed entry.
    Removed(LogIndex),
}

/// Whom a node asks that finds no leader.
pub struct Asked {
    /// The members that there should be: a majority of them decides which cluster is the right one.
    pub expected: InitialCluster,
    /// All that may know more.
    pub everyone: InitialCluster,
    /// Whether it asks to be added again if none of them counts it.
    pub rejoins: bool,
}

/// Asks the members until they show that this node is not one of theirs. If its addition was lost, it asks to be added
/// again. `whom` says before each round who is to be asked, or that it is not worth asking.
pub async fn watch_elsewhere(
    local: &Local,
    own: ClusterId,
    whom: impl AsyncFn() -> Option<Asked>,
    resolver: &Resolver,
    settings: &Settings,
) -> Elsewhere {
    let question = Question::new(local, false, resolver, settings);
    // Each round asks at the next of each member's addresses: what a foreign directory's configuration says of them
    // is not where the expected ones are.
    let mut round = 0;
    let mut refused = None;
    loop {
        tokio::time::sleep(ELSEWHERE_INTERVAL).await;
        let Some(Asked { expected, everyone, rejoins }) = whom().await else { continue };
        let mut answers = question.ask_all(&everyone, round).await;
        round += 1;
        let of_own = answers.values().filter(|answer| answer.cluster_id == Some(own));
        if let Some(index) = of_own.filter_map(|answer| answer.removed_asker).max() {
            return Elsewhere::Removed(index);
        }
        let peers = if rejoins { forgotten_by(own, &answers) } else { Vec::new() };
        answers.retain(|name, _| expected.address(name).is_some());
        if let Some(other) = majority_elsewhere(own, &expected, &answers) {
            return Elsewhere::OtherCluster(other);
        }
        if !peers.is_empty()
            && let Err(error) = join(local, own, &peers, resolver, settings).await
            && refused.as_ref() != Some(&error)
        {
            tracing::info!(cluster_id = %own, %error, "counted by nobody that answers, and not added again");
            refused = Some(error);
        }
    }
}

fn new_cluster_id() -> Result<ClusterId, getrandom::Error> {
    loop {
        let id = getrandom::u64()?;
        if id != 0 {
            return Ok(ClusterId(id));
        }
    }
}

/// What each of the other members says of itself, by name, or how it is silent at the first two of its addresses.
pub async fn who_answers(
    local: &Local,
    cluster: &InitialCluster,
    resolver: &Resolver,
    settings: &Settings,
) -> BTreeMap<String, Result<HelloAnswer, Silence>> {
    let question = Question::new(local, false, resolver, settings);
    let mut found: BTreeMap<String, Result<HelloAnswer, Silence>> = BTreeMap::new();
    for attempt in 0..2 {
        for (name, answer) in question.ask_each(cluster, attempt).await {
            let answer = answer.map_err(|error| Silence::from(&error));
            match (found.get_mut(&name), answer) {
                (None, answer) => drop(found.insert(name, answer)),
                (Some(before), Ok(answer)) => *before = Ok(answer),
                (Some(Err(before)), Err(silence)) => *before = silence.max(*before),
                (Some(Ok(_)), Err(_)) => {}
            }
        }
    }
    found
}

/// One round of questions: who is expected now, and what they answer.
async fn ask_expected(
    local: &Local,
    surroundings: &dyn Surroundings,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<(InitialCluster, BTreeMap<String, HelloAnswer>), String> {
    let cluster = surroundings.expected().await?;
    let is_former = cluster.first() == local.name;
    let answers = Question::new(local, is_former, resolver, settings).ask_all(&cluster, 0).await;
    Ok((cluster, answers))
}

/// What a node asks others of themselves.
#[derive(Clone)]
struct Question {
    local: Local,
    /// Whether it would be this node that forms the cluster.
    forming: bool,
    resolver: Resolver,
    settings: Settings,
}

impl Question {
    fn new(local: &Local, forming: bool, resolver: &Resolver, settings: &Settings) -> Self {
        Self { local: local.clone(), forming, resolver: resolver.clone(), settings: settings.clone() }
    }

    /// Those other members that answer in time, by name.
    async fn ask_all(&self, cluster: &InitialCluster, attempt: usize) -> BTreeMap<String, HelloAnswer> {
        let answers = self.ask_each(cluster, attempt).await;
        answers.into_iter().filter_map(|(name, answer)| Some((name, answer.ok()?))).collect()
    }

    /// Asks every other member at the same time, beginning at its `attempt`th address.
    async fn ask_each(
        &self,
        cluster: &InitialCluster,
        attempt: usize,
    ) -> Vec<(String, Result<HelloAnswer, DialError>)> {
        let mut questions = JoinSet::new();
        for member in cluster.others(&self.local.name) {
            let (question, name) = (self.clone(), member.name.clone());
            questions.spawn(async move {
                let answer = question.ask(&name, attempt).await;
                (name, answer)
            });
        }
        let mut answers = Vec::new();
        while let Some(joined) = questions.join_next().await {
            match joined {
                Ok((name, answer)) => {
                    if let Err(error) = &answer {
                        tracing::debug!(peer = name, "no answer: {error}");
                    }
                    answers.push((name, answer));
                }
                Err(error) => tracing::error!("a question failed: {error}"),
            }
        }
        answers
    }

    async fn ask(&self, name: &str, attempt: usize) -> Result<HelloAnswer, DialError> {
        let Self { local, forming, resolver, settings } = self;
        let (mut client, address) = dial::connect(name, resolver, attempt, settings).await?;
        let route = proto::Route { cluster_id: 0, from: local.node_id.0, to: 0 };
        let question = proto::HelloRequest {
            route: Some(route),
            sender: Some(local.into()),
            forming: *forming,
            ..Default::default()
        };
        let answer = match dial::ask(&address, settings, client.hello(question)).await {
            // It has taken the connection.
            Err(DialError::Timeout(address)) => return Err(DialError::Unanswered(address)),
            answer => answer?,
        };
        HelloAnswer::try_from(answer).map_err(|_| DialError::Incomplete)
    }
}

/// Sends `Form` to all at the same time. None: all have accepted; else what went wrong, to be asked about again.
async fn invite(
    local: &Local,
    standing: &Standing,
    invitations: Vec<Invitation>,
    resolver: &Resolver,
    settings: &Settings,
) -> Option<String> {
    let Standing::Intent(Intent { cluster_id, configuration }) = standing else {
        return Some("nothing is being formed".into());
    };
    let mut attempts = JoinSet::new();
    for invitation in invitations {
        let (local, resolver, settings) = (local.clone(), resolver.clone(), settings.clone());
        let (cluster_id, configuration) = (*cluster_id, configuration.clone());
        attempts.spawn(async move {
            let result = form(&local, cluster_id, &configuration, &invitation, &resolver, &settings).await;
            result.map_err(|error| format!("{} does not join: {error}", invitation.name))
        });
    }
    let mut why = None;
    while let Some(joined) = attempts.join_next().await {
        if let Ok(Err(error)) = joined {
            why = Some(error);
        }
    }
    why
}

async fn form(
    local: &Local,
    cluster_id: ClusterId,
    configuration: &Configuration,
    invitation: &Invitation,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<(), DialError> {
    let (mut client, address) = dial::connect(&invitation.name, resolver, 0, settings).await?;
    let route = proto::Route { cluster_id: cluster_id.0, from: local.node_id.0, to: invitation.node_id.0 };
    let configuration = configuration.encode();
    let request = proto::FormRequest { route: Some(route), nonce: invitation.nonce, configuration };
    dial::ask(&address, settings, client.form(request)).await?;
    Ok(())
}
