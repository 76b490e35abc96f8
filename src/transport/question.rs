//! What a node asks others of themselves, and why some do not answer.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::dial::{self, DialError, Resolver, Silence};
use super::proto;
use super::settings::Settings;
use crate::membership::{HelloAnswer, InitialCluster, Local};

/// What came of one round of questions, by the name that was asked.
#[derive(Default)]
pub(super) struct Round {
    pub(super) answers: BTreeMap<String, HelloAnswer>,
    /// Why the others did not answer.
    pub(super) silent: BTreeMap<String, String>,
}

/// The reasons of those that do not answer, to be put behind what is waited for.
pub(super) fn reasons(silent: &BTreeMap<String, String>) -> String {
    use std::fmt::Write;
    silent.iter().fold(String::new(), |mut text, (name, why)| {
        let _ = write!(text, "; {name}: {why}");
        text
    })
}

/// The reasons that were warned of: one warning for each member and change of its reason.
#[derive(Default)]
pub(super) struct Silences(BTreeMap<String, String>);

impl Silences {
    pub(super) fn warn_of(&mut self, silent: &BTreeMap<String, String>) {
        for (name, why) in silent {
            if self.0.get(name) != Some(why) {
                tracing::warn!(peer = name, "a member cannot be asked: {why}");
            }
        }
        self.0.clone_from(silent);
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

/// What a node asks others of themselves.
#[derive(Clone)]
pub(super) struct Question {
    local: Local,
    /// Whether it would be this node that forms the cluster.
    forming: bool,
    resolver: Resolver,
    settings: Settings,
}

impl Question {
    pub(super) fn new(local: &Local, forming: bool, resolver: &Resolver, settings: &Settings) -> Self {
        Self { local: local.clone(), forming, resolver: resolver.clone(), settings: settings.clone() }
    }

    /// What the other members answer, or why they do not, by name.
    pub(super) async fn ask_all(&self, cluster: &InitialCluster, attempt: usize) -> Round {
        let mut round = Round::default();
        for (name, answer) in self.ask_each(cluster, attempt).await {
            match answer {
                Ok(answer) => drop(round.answers.insert(name, answer)),
                Err(error) => drop(round.silent.insert(name, error.explain())),
            }
        }
        round
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
                Ok(answer) => answers.push(answer),
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
            sender: Some(dial::introduction(local, settings.feature_level)),
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
