//! From a data directory to a member of a cluster: asks the peers, does what
//! [`membership`](crate::membership) decides, and asks again.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::administration::Joining;
use super::dial::{self, DialError, Resolver};
use super::proto;
use super::question::{Question, Round, Silences, reasons};
use super::service::{Outcome, PeerService};
use super::settings::Settings;
use crate::membership::{
    AdminError, AdminReason, Decision, Formed, HelloAnswer, InitialCluster, Intent, Invitation, JoinPolicy,
    Local, Standing, decide, decide_anew,
};
use crate::raft::Configuration;
use crate::types::ClusterId;

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

    /// Remembers membership, permanently: the cluster's id and, where given, the configuration, which must survive
    /// until it is the first entry of the log. Takes the place of the intent.
    ///
    /// # Errors
    /// The record may not be durable.
    fn save_membership(&self, formed: &Formed) -> Result<(), StoreError>;
}

/// Why a node cannot continue.
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
    /// The cluster writes what this program does not understand.
    #[error("this node cannot join: {0}")]
    Outdated(AdminError),
}

/// Which nodes are expected, and what else has a say before a cluster is formed. Asked in every round.
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

    /// In Kubernetes, the uid of this node's pod, by which a leader tells it from the pod before it.
    fn pod_uid(&self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + '_>> {
        Box::pin(async { None })
    }
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
    /// For how long another node of this name must have answered without a break, until this one stops.
    pub name_in_use_max: Duration,
}

/// Returns once this node belongs to a cluster: at once if it did before. While it waits,
/// [`PeerService::reasons`] says for what. `service` must be served already, as peers ask it.
///
/// # Errors
/// The store failed, there are no random numbers, another node has this one's name, or the cluster's feature level is
/// above that of this program. Unreachable or contradictory peers are waited for.
pub async fn bootstrap(
    service: &PeerService,
    entrance: &Entrance,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<Formed, BootstrapError> {
    let Entrance { surroundings, policy, name_in_use_max } = entrance;
    let mut outcome = service.outcome();
    let mut name_in_use = None;
    let mut silences = Silences::default();
    loop {
        if let Some(entered) = entered(&outcome.borrow_and_update()) {
            return entered;
        }
        let (cluster, Round { answers, silent }) = tokio::select! {
            round = ask_expected(service, &**surroundings, resolver, settings) => match round {
                Ok(round) => round,
                Err(why) => {
                    service.set_reason(&why);
                    wait(SURROUNDINGS_INTERVAL, &mut outcome).await;
                    continue;
                }
            },
            _ = outcome.changed() => continue,
        };
        silences.warn_of(&silent);
        let standing = service.standing().await;
        let anew = anew(service, &**surroundings, &standing, *policy, &cluster, &answers).await;
        let decision =
            anew.unwrap_or_else(|| decide(service.local(), &standing, *policy, &cluster, &answers));
        let why = match decision {
            Decision::Wait { why } | Decision::StayOut { why } => Some(why + &reasons(&silent)),
            Decision::GiveWay { why } => {
                tracing::warn!("what this node began to form was accepted by nobody; it gives way: {why}");
                service.give_up_intent().await;
                None
            }
            Decision::Intend(configuration) => intend(service, &**surroundings, configuration).await?,
            Decision::Form(invitations) => match may_form(&**surroundings, &standing).await {
                Ok(()) => invite(service.local(), &standing, invitations, resolver, settings).await,
                Err(why) => Some(why),
            },
            Decision::Formed => complete(service, &**surroundings, &standing).await.err(),
            Decision::Join { cluster_id, peers } => {
                let joining = Joining {
                    local: service.local(),
                    cluster_id,
                    pod_uid: surroundings.pod_uid().await,
                    resolver,
                    settings,
                };
                let joined = tokio::select! {
                    joined = joining.ask(&peers) => joined,
                    _ = outcome.changed() => continue,
                };
                let pause = match joined {
                    Ok(why) => {
                        service.set_reason(&why);
                        // The leader makes contact.
                        settings.bootstrap_interval
                    }
                    Err(error) => {
                        name_in_use =
                            after_refusal(error, cluster_id, name_in_use, *name_in_use_max, service)?;
                        JOIN_INTERVAL
                    }
                };
                wait(pause, &mut outcome).await;
                continue;
            }
        };
        let Some(why) = why else { continue };
        service.set_reason(&why);
        wait(settings.bootstrap_interval, &mut outcome).await;
    }
}

/// How forming or joining has ended, if it has.
fn entered(outcome: &Outcome) -> Option<Result<Formed, BootstrapError>> {
    match outcome {
        Outcome::Pending => None,
        Outcome::Member(formed) => Some(Ok(formed.clone())),
        Outcome::Failed(error) => Some(Err(BootstrapError::Store(error.clone()))),
    }
}

/// Makes this node a member of the cluster that it intended to form, unless there is a reason against it now.
async fn complete(
    service: &PeerService,
    surroundings: &dyn Surroundings,
    standing: &Standing,
) -> Result<(), String> {
    may_form(surroundings, standing).await?;
    service.complete().await;
    Ok(())
}

/// Whether a refused addition is asked for again: since when another node has had this one's name.
///
/// # Errors
/// Asking again would not help.
fn after_refusal(
    error: AdminError,
    cluster_id: ClusterId,
    name_in_use: Option<Instant>,
    name_in_use_max: Duration,
    service: &PeerService,
) -> Result<Option<Instant>, BootstrapError> {
    if error.reason == AdminReason::FeatureLevel {
        return Err(BootstrapError::Outdated(error));
    }
    let since = (error.reason == AdminReason::NameInUse).then(|| name_in_use.unwrap_or_else(Instant::now));
    if since.is_some_and(|since| since.elapsed() > name_in_use_max) {
        return Err(BootstrapError::NameInUse(error));
    }
    service.set_reason(&format!("waiting to join cluster {cluster_id}: {error}"));
    Ok(since)
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

fn new_cluster_id() -> Result<ClusterId, getrandom::Error> {
    loop {
        let id = getrandom::u64()?;
        if id != 0 {
            return Ok(ClusterId(id));
        }
    }
}

/// One round of questions: the nodes that are expected now, and their answers.
async fn ask_expected(
    service: &PeerService,
    surroundings: &dyn Surroundings,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<(InitialCluster, Round), String> {
    let local = service.local();
    let cluster = surroundings.expected().await?;
    let names = cluster.members().iter().map(|member| member.name.clone()).collect();
    service.list(names);
    // Questions of one that forms, or may have begun to, make void what it has sent before.
    let is_former = cluster.founder() == local.name;
    let forming = is_former || matches!(service.standing().await, Standing::Intent(_));
    let round = Question::new(local, forming, resolver, settings).ask_all(&cluster, 0).await;
    Ok((cluster, round))
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
