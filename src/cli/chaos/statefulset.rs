//! A StatefulSet's pods in Kubernetes: deleted, robbed of their volumes, or struck by commands that the user names.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::process::Command;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::faults::Kind;
use super::health::Health;
use super::target::{Target, Trouble};
use super::under_tls::UnderTls;
use crate::chaos::{Connecting, Names, Reach, Stream, dial};
use crate::cli::CliError;
use crate::cli::endpoints::TlsFlags;
use crate::k8s::{Admin, Deletion, KubeError, Seen};

/// How often it is looked where pods are.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time for a command of the user's.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(5);
/// What is shown of a command's output when it fails, in bytes.
const OUTPUT_BYTES: usize = 2_000;

/// What can be done to it besides the user's commands. The first is what is done to whom alone is named.
pub(super) const KINDS: [Kind; 3] = [Kind::Delete, Kind::Force, Kind::Wipe];

/// What is done unless told otherwise; the user's commands come to that.
pub(super) const DEFAULT: [&str; 8] = [
    "delete:leader",
    "delete:follower",
    "delete:random",
    "delete:two",
    "force:leader",
    "force:random",
    "force:two",
    "force:all",
];

/// How pods are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Via {
    /// By their addresses, from inside of the cluster.
    Pods,
    /// Through the API server.
    Forward,
}

/// A fault that the user names, as shell commands with `{pod}`, `{node}` and `{namespace}` of the victim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) strike: String,
    /// Undoes it after the hold.
    pub(super) heal: Option<String>,
}

/// The StatefulSet.
pub(super) struct KubeCluster {
    admin: Admin,
    set: String,
    pods: Arc<Pods>,
    /// To the pods, under TLS if they speak it.
    reach: Arc<dyn Reach>,
    service: Option<Arc<dyn Reach>>,
    follower: JoinHandle<()>,
    commands: BTreeMap<String, Named>,
    /// What heals that which was begun.
    owed: Vec<String>,
}

impl Drop for KubeCluster {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The way to the pods.
struct Pods {
    admin: Admin,
    via: Via,
    /// As seen last.
    seen: RwLock<Seen>,
}

impl Pods {
    fn seen(&self) -> Seen {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what is seen now; of a pod that has no address the last one stays known.
    fn update(&self, mut seen: Seen) {
        let mut last = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        for (name, pod) in &last.pods {
            if let Some(now) = seen.pods.get_mut(name) {
                now.ip = now.ip.or(pod.ip);
            }
        }
        *last = seen;
    }
}

impl Reach for Pods {
    fn members(&self) -> Vec<String> {
        self.seen().workload.pods()
    }

    fn connect<'a>(&'a self, member: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let seen = self.seen();
            match self.via {
                Via::Forward => {
                    let opened = self.admin.forward(member, seen.client_port).await;
                    Ok(Box::new(opened.map_err(io::Error::other)?) as Stream)
                }
                Via::Pods => {
                    let ip = seen.pods.get(member).and_then(|pod| pod.ip);
                    let ip = ip.ok_or_else(|| io::Error::other(format!("pod {member} has no address")))?;
                    dial(SocketAddr::new(ip, seen.client_port)).await
                }
            }
        })
    }
}

impl KubeCluster {
    /// Finds the StatefulSet: the one of this name, or the only one of kuberaft's chart in the namespace. Its clients need
    /// TLS if it says so, or if `tls` has flags.
    ///
    /// # Errors
    /// It cannot be told which, or the API server refuses; files of `tls` that cannot be used.
    pub(super) async fn find(
        namespace: Option<&str>,
        set: Option<&str>,
        via: Via,
        commands: BTreeMap<String, Named>,
        tls: &TlsFlags,
    ) -> Result<Self, CliError> {
        let admin = Admin::connect(namespace).await.map_err(|error| match error {
            KubeError::Config(error) => {
                CliError::Failed(format!("no way to a Kubernetes API server: {error}"))
            }
            error => failed(&error),
        })?;
        let set = match set {
            Some(set) => set.to_owned(),
            None => only(admin.stateful_sets().await.map_err(|error| failed(&error))?, admin.namespace())?,
        };
        let Some(seen) = admin.look(&set).await.map_err(|error| failed(&error))? else {
            let namespace = admin.namespace();
            return Err(CliError::Failed(format!("there is no StatefulSet {set} in namespace {namespace}")));
        };
        if seen.workload.replicas == 0 {
            return Err(CliError::Failed(format!("StatefulSet {set} has no replicas: scale it up first")));
        }
        // The chart gives both the same name.
        let host = format!("{set}.{}.svc", admin.namespace());
        let tls = (seen.is_client_tls || tls.are_given()).then(|| tls.connector()).transpose()?;
        // Certificates are for the Service; pods are reached by their addresses, or through the API server.
        let under_tls = |reach: Arc<dyn Reach>| match &tls {
            Some(tls) => {
                let host = host.clone();
                Arc::new(UnderTls::new(reach, tls.clone(), Box::new(move |_| Some(host.clone()))))
            }
            None => reach,
        };
        let service = ("service".to_owned(), format!("{host}:{}", seen.client_port));
        let service: Option<Arc<dyn Reach>> = match via {
            Via::Pods => {
                let names = Names::fixed(vec![service]).await;
                Some(under_tls(Arc::new(names.map_err(|error| CliError::Failed(error.to_string()))?)))
            }
            Via::Forward => None,
        };
        let pods = Arc::new(Pods { admin: admin.clone(), via, seen: RwLock::new(seen) });
        let reach = under_tls(Arc::clone(&pods) as Arc<dyn Reach>);
        let follower = tokio::spawn(follow(Arc::clone(&pods), set.clone()));
        Ok(Self { admin, set, pods, reach, service, follower, commands, owed: Vec::new() })
    }

    /// What it is, for people.
    pub(super) fn name(&self) -> String {
        format!("StatefulSet {} in namespace {}", self.set, self.admin.namespace())
    }

    async fn see(&self) -> Result<Seen, Trouble> {
        match self.admin.look(&self.set).await {
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => Err(Trouble(format!("{} is gone", self.name()))),
            Err(error) => Err(Trouble(error.to_string())),
        }
    }

    /// Deletes pods, all at the same time, with their volumes if they are to be wiped.
    async fn delete(&self, kind: &Kind, victims: &[String]) -> Result<(), Trouble> {
        let seen = self.see().await?;
        if *kind == Kind::Wipe && seen.volumes.is_empty() {
            return Err(Trouble(format!("{} has no volumes to wipe; `delete` does it", self.name())));
        }
        let deletion = if *kind == Kind::Force { Deletion::Forced } else { Deletion::Graceful };
        let volumes = if *kind == Kind::Wipe { seen.volumes } else { Vec::new() };
        let mut deleting = JoinSet::new();
        for name in victims {
            let Some(pod) = seen.pods.get(name) else { continue };
            let (admin, name, uid) = (self.admin.clone(), name.clone(), pod.pod.uid.clone());
            let volumes = volumes.clone();
            deleting.spawn(async move {
                for volume in &volumes {
                    admin.delete_volume(volume, &name).await?;
                }
                admin.delete_pod(&name, &uid, deletion).await
            });
        }
        let deleted: Result<(), KubeError> = deleting.join_all().await.into_iter().collect();
        deleted.map_err(|error| Trouble(error.to_string()))
    }

    async fn command(&mut self, name: &str, victims: &[String]) -> Result<(), Trouble> {
        let named = self.commands.get(name).cloned();
        let named = named.ok_or_else(|| Trouble(format!("there is no --command {name}")))?;
        let seen = self.see().await?;
        let mut running = JoinSet::new();
        for pod in victims {
            let node = seen.pods.get(pod).map_or("", |pod| &pod.pod.node);
            let fill = |command: &str| filled(command, pod, node, self.admin.namespace());
            // Owed from here on: what was begun may need healing even if it fails or is interrupted.
            self.owed.extend(named.heal.as_deref().map(&fill));
            running.spawn(shell(fill(&named.strike)));
        }
        running.join_all().await.into_iter().collect()
    }
}

impl Target for KubeCluster {
    fn reach(&self) -> Arc<dyn Reach> {
        Arc::clone(&self.reach)
    }

    fn service(&self) -> Option<Arc<dyn Reach>> {
        self.service.clone()
    }

    fn look_interval(&self) -> Duration {
        Duration::from_millis(250)
    }

    async fn look(&mut self) -> Result<Health, Trouble> {
        let seen = match self.admin.look(&self.set).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Err(Trouble(format!("{} is gone", self.name()))),
            // It may be away for a while.
            Err(error) => return Ok(Health::lacking(self.pods.members(), error.to_string())),
        };
        self.pods.update(seen.clone());
        match seen.lacks() {
            Some(what) => Ok(Health::lacking(seen.workload.pods(), what)),
            None => Ok(Health::ask(&self.reach(), seen.workload.pods()).await),
        }
    }

    async fn strike(&mut self, kind: &Kind, victims: &[String]) -> Result<(), Trouble> {
        match kind {
            Kind::Delete | Kind::Force | Kind::Wipe => self.delete(kind, victims).await,
            Kind::Command(name) => self.command(name, victims).await,
            Kind::Kill | Kind::Stop | Kind::Pause | Kind::Cut(_) | Kind::Refuse => {
                Err(Trouble(format!("`{kind}` cannot be done to pods")))
            }
        }
    }

    fn lasts(&self, kind: &Kind) -> bool {
        let Kind::Command(name) = kind else { return false };
        self.commands.get(name).is_some_and(|named| named.heal.is_some())
    }

    async fn heal(&mut self) -> Result<(), Trouble> {
        let mut healed = Ok(());
        // Each stays owed until it is done, and one that fails keeps none of the others from it.
        let mut failed = Vec::new();
        while let Some(command) = self.owed.first().cloned() {
            if let Err(trouble) = shell(command.clone()).await {
                failed.push(command);
                healed = Err(trouble);
            }
            self.owed.remove(0);
        }
        self.owed = failed;
        healed
    }
}

/// Keeps what is known of the pods up to date.
async fn follow(pods: Arc<Pods>, set: String) {
    loop {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        // What was known stays while the API server is away.
        if let Ok(Some(seen)) = pods.admin.look(&set).await {
            pods.update(seen);
        }
    }
}

fn failed(error: &KubeError) -> CliError {
    CliError::Failed(error.to_string())
}

/// The only StatefulSet of these.
fn only(mut sets: Vec<String>, namespace: &str) -> Result<String, CliError> {
    sets.sort();
    match &sets[..] {
        [set] => Ok(set.clone()),
        [] => Err(CliError::Failed(format!(
            "namespace {namespace} has no StatefulSet with the label app.kubernetes.io/name=kuberaft; give --namespace or \
             --statefulset"
        ))),
        several => Err(CliError::Usage(format!(
            "namespace {namespace} has several clusters: choose one with --statefulset {}",
            several.join(" or ")
        ))),
    }
}

/// A user's command with the victim's names in it. Those of Kubernetes need no quotes in a shell.
fn filled(command: &str, pod: &str, node: &str, namespace: &str) -> String {
    command.replace("{pod}", pod).replace("{node}", node).replace("{namespace}", namespace)
}

/// Runs a user's command to its end.
async fn shell(command: String) -> Result<(), Trouble> {
    let mut shell = Command::new("sh");
    // Ctrl-C goes to the terminal's whole group; a command that heals must not be hit by it.
    shell.arg("-c").arg(&command).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    let output = match timeout(COMMAND_TIMEOUT, shell.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Trouble(format!("cannot run `{command}`: {error}"))),
        Err(_elapsed) => {
            let seconds = COMMAND_TIMEOUT.as_secs();
            return Err(Trouble(format!("`{command}` did not end within {seconds} s")));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(OUTPUT_BYTES)..]).trim().to_owned();
    Err(Trouble(format!("`{command}` failed, {}: {said}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::faults::parse;

    #[test]
    fn the_default_faults_are_faults() {
        for word in DEFAULT {
            parse(word, &KINDS).unwrap();
        }
    }

    #[test]
    fn the_only_cluster_is_taken_and_several_are_listed() {
        let sets = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(only(sets(&["kv"]), "ns").unwrap(), "kv");
        assert!(only(sets(&[]), "ns").unwrap_err().to_string().contains("namespace ns has no StatefulSet"));
        let several = only(sets(&["b", "a"]), "ns").unwrap_err();
        assert!(
            matches!(&several, CliError::Usage(text) if text.ends_with("--statefulset a or b")),
            "{several}"
        );
    }

    #[tokio::test]
    async fn a_command_gets_the_names_and_its_failure_is_shown() {
        let command = filled("test {pod}/{node}/{namespace} = kv-0/node-1/ns", "kv-0", "node-1", "ns");
        assert_eq!(shell(command).await, Ok(()));
        let trouble = shell("echo no cable; exit 3".to_owned()).await.unwrap_err();
        assert!(trouble.0.contains("exit status: 3: no cable"), "{trouble}");
    }
}
