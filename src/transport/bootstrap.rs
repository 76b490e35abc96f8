//! From a data directory to a member of a cluster: asks the peers, does what
//! [`membership`](crate::membership) decides, and asks again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use super::dial::{self, DialError, Resolver};
use super::proto;
use super::service::{Outcome, PeerService};
use super::settings::Settings;
use crate::membership::{
    Decision, Formed, HelloAnswer, InitialCluster, Intent, Invitation, Local, Standing, decide,
    majority_elsewhere,
};
use crate::raft::Configuration;
use crate::types::ClusterId;

/// Pause between two rounds of questions whether the members are in another cluster.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(1);

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
}

/// Returns once this node belongs to a cluster: at once if it did before. While it waits,
/// [`PeerService::reason`] says for what. `service` must be served already, as peers ask it.
///
/// # Errors
/// The store failed, or there are no random numbers. Unreachable or contradictory peers are waited for.
pub async fn bootstrap(
    service: &PeerService,
    cluster: &InitialCluster,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<Formed, BootstrapError> {
    let mut outcome = service.outcome();
    let is_former = cluster.first() == service.local().name;
    loop {
        match &*outcome.borrow_and_update() {
            Outcome::Pending => {}
            Outcome::Member(formed) => return Ok(formed.clone()),
            Outcome::Failed(error) => return Err(BootstrapError::Store(error.clone())),
        }
        let answers = tokio::select! {
            answers = ask_all(service.local(), cluster, is_former, resolver, settings) => answers,
            _ = outcome.changed() => continue,
        };
        let standing = service.standing().await;
        let why = match decide(service.local(), &standing, cluster, &answers) {
            Decision::Wait { why } | Decision::StayOut { why } => Some(why),
            Decision::Intend(configuration) => {
                let cluster_id = new_cluster_id()?;
                tracing::info!(%cluster_id, voters = configuration.voters.len(), "forming a cluster");
                service.intend(Intent { cluster_id, configuration }).await;
                None
            }
            Decision::Form(invitations) => {
                invite(service.local(), &standing, invitations, resolver, settings).await
            }
            Decision::Formed => {
                service.complete().await;
                None
            }
        };
        let Some(why) = why else { continue };
        service.set_reason(&why);
        tokio::select! {
            () = tokio::time::sleep(settings.bootstrap_interval) => {}
            _ = outcome.changed() => {}
        }
    }
}

/// Asks the expected members until a majority of them belongs to one cluster that is not `own`, and returns that.
/// `wanted` says before each round whether it is worth asking.
pub async fn found_elsewhere(
    local: &Local,
    own: ClusterId,
    cluster: &InitialCluster,
    resolver: &Resolver,
    settings: &Settings,
    wanted: impl Fn() -> bool,
) -> ClusterId {
    loop {
        tokio::time::sleep(ELSEWHERE_INTERVAL).await;
        if wanted() {
            let answers = ask_all(local, cluster, false, resolver, settings).await;
            if let Some(other) = majority_elsewhere(own, cluster, &answers) {
                return other;
            }
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

/// Asks every other expected member at the same time. Those that do not answer in time are left out.
async fn ask_all(
    local: &Local,
    cluster: &InitialCluster,
    forming: bool,
    resolver: &Resolver,
    settings: &Settings,
) -> BTreeMap<String, HelloAnswer> {
    let mut questions = JoinSet::new();
    for member in cluster.others(&local.name) {
        let (local, resolver, settings) = (local.clone(), resolver.clone(), settings.clone());
        let name = member.name.clone();
        questions.spawn(async move {
            let answer = hello(&local, &name, forming, &resolver, &settings).await;
            (name, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(joined) = questions.join_next().await {
        match joined {
            Ok((name, Ok(answer))) => {
                answers.insert(name, answer);
            }
            Ok((name, Err(error))) => tracing::debug!(peer = name, "no answer: {error}"),
            Err(error) => tracing::error!("a question failed: {error}"),
        }
    }
    answers
}

async fn hello(
    local: &Local,
    name: &str,
    forming: bool,
    resolver: &Resolver,
    settings: &Settings,
) -> Result<HelloAnswer, DialError> {
    let (mut client, address) = dial::connect(name, resolver, settings).await?;
    let route = proto::Route { cluster_id: 0, from: local.node_id.0, to: 0 };
    let question = proto::HelloRequest { route: Some(route), sender: Some(local.into()), forming };
    let answer = dial::ask(&address, settings, client.hello(question)).await?;
    HelloAnswer::try_from(answer).map_err(|_| DialError::Incomplete)
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
    let (mut client, address) = dial::connect(&invitation.name, resolver, settings).await?;
    let route = proto::Route { cluster_id: cluster_id.0, from: local.node_id.0, to: invitation.node_id.0 };
    let configuration = configuration.encode();
    let request = proto::FormRequest { route: Some(route), nonce: invitation.nonce, configuration };
    dial::ask(&address, settings, client.form(request)).await?;
    Ok(())
}
