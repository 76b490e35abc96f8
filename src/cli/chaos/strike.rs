//! `kuberaft chaos` itself: its flags, and a run from the first look at the cluster to the last.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::time::timeout;

use super::dev::{self, DevCluster, Folder};
use super::faults::{self, Fault, Kind, Plan};
use super::health::misunderstanding;
use super::report::Summary;
use super::run::{Progress, Rounds, settled};
use super::statefulset::{self, KubeCluster, Named, Via};
use super::target::{Target, Trouble};
use crate::chaos::{FinalReport, Load, LoadSettings};
use crate::cli::dev::{NODES_DEFAULT, NODES_MAX, Signals};
use crate::cli::endpoints::TlsFlags;
use crate::cli::list::{List, list};
use crate::cli::output::Format;
use crate::cli::{CliError, print};
use crate::config::Span;

/// How long full health is waited for unless told otherwise: Kubernetes takes minutes to notice that a node is dead, and
/// as long to start a pod that crashed a few times.
const SETTLE_DEV: Duration = Duration::from_mins(2);
const SETTLE_KUBE: Duration = Duration::from_mins(10);
/// How long the last reading may take once something went wrong: the cluster may be beyond answering.
const LAST_READING_TIMEOUT: Duration = Duration::from_mins(1);

const HELP: &str = "\
A fault is KIND:WHOM; KIND alone strikes a random member, WHOM alone is of the first kind.
  kinds of a cluster of its own: kill, stop, pause, cut, cut-out, cut-in, refuse, wipe
  kinds in Kubernetes (--kube):  delete, force, wipe, and each --command
  whom:                          leader, follower, random, two, all

Without --kube nodes are started on this machine and ended afterwards. With --kube pods of a cluster that is there \
are deleted; it needs the rights to do so, and `wipe`, which deletes volumes, must be asked for by name. Writes go to \
keys below chaos/ and are deleted at the end.

Clients speak TLS where nodes are started with --client-tls-cert, where the StatefulSet sets it, or with --kube and one of \
the TLS options.

  kuberaft chaos --faults kill:leader,cut,wipe --rounds 30 --seed 7
  kuberaft chaos --kube --faults leader,force:leader,all
  kuberaft chaos --kube --faults cable:leader --hold 30s \\
    --command cable='ssh {node} ip link set eth0 down' --heal cable='...'

Exit codes: 0 if the history is linearizable, nothing was lost and full health came back each time; else 1";

/// The flags of `chaos`.
#[derive(Clone, Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// How many rounds, each with one fault [default: one for each of the faults]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,

    /// Which faults; each has its turn before one comes again [default: all that lose no volume in Kubernetes, all in a
    /// cluster of its own]
    #[arg(long, value_name = "FAULT,…", value_parser = list(str::parse::<String>))]
    faults: Vec<List<String>>,

    /// What the order of faults and the victims are drawn from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// How long faults last that do: pause, cut, refuse, commands with a --heal
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    hold: Span,

    /// Longest wait for full health [default: 2m, in Kubernetes 10m]
    #[arg(long, value_name = "DURATION")]
    settle: Option<Span>,

    /// Format of the results: text or json
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    output: Format,

    /// How many nodes to start [default: 3]
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)),
        conflicts_with = "kube",
        help_heading = "A cluster of its own"
    )]
    nodes: Option<u8>,

    /// New folder for data and logs, which stay [default: a temporary one, kept if something goes wrong]
    #[arg(long, value_name = "DIR", conflicts_with = "kube", help_heading = "A cluster of its own")]
    dir: Option<PathBuf>,

    /// Flags for every node's `serve`
    #[arg(
        last = true,
        value_name = "SERVE FLAGS",
        conflicts_with = "kube",
        help_heading = "A cluster of its own"
    )]
    serve: Vec<OsString>,

    /// Strike a StatefulSet in the Kubernetes cluster that the kubeconfig, or this pod's service account, leads to
    #[arg(long, help_heading = "Kubernetes")]
    kube: bool,

    /// Its namespace [default: the kubeconfig's, or this pod's]
    #[arg(long, value_name = "NAME", requires = "kube", help_heading = "Kubernetes")]
    namespace: Option<String>,

    /// Its name [default: the only one with the label app.kubernetes.io/name=kuberaft]
    #[arg(long, value_name = "NAME", requires = "kube", help_heading = "Kubernetes")]
    statefulset: Option<String>,

    /// How clients reach pods: pods, by their addresses; forward, through the API server [default: pods inside of
    /// Kubernetes, else forward]
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        hide_possible_values = true,
        requires = "kube",
        help_heading = "Kubernetes"
    )]
    via: Option<Via>,

    /// A fault of this name: a shell command, in which {pod}, {node} and {namespace} are the victim's. Repeatable
    #[arg(
        long = "command",
        value_name = "NAME=SHELL",
        value_parser = parse_named,
        requires = "kube",
        help_heading = "Kubernetes"
    )]
    commands: Vec<(String, String)>,

    /// Undoes that after --hold. Repeatable
    #[arg(
        long = "heal",
        value_name = "NAME=SHELL",
        value_parser = parse_named,
        requires = "kube",
        help_heading = "Kubernetes"
    )]
    heals: Vec<(String, String)>,

    #[command(flatten)]
    tls: TlsFlags,
}

/// `NAME=SHELL`; the name can be used in a list of faults.
fn parse_named(text: &str) -> Result<(String, String), String> {
    let expected = "expected NAME=SHELL, the name of lower-case letters, digits and `-`";
    let (name, command) = text.split_once('=').ok_or(expected)?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(is_name) || command.trim().is_empty() {
        return Err(expected.to_owned());
    }
    Ok((name.to_owned(), command.to_owned()))
}

/// Runs it.
pub(super) fn run(args: &Arguments) -> Result<(), CliError> {
    let commands = commands(args)?;
    let plan = plan(args, &commands)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("cannot start a runtime: {error}")))?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        if args.kube {
            on_kubernetes(args, &plan, commands, &mut signals).await
        } else {
            on_dev(args, &plan, &mut signals).await
        }
    });
    // Whatever still runs, such as a look at a pod, is not waited for.
    runtime.shutdown_background();
    ended
}

/// The user's commands by name, each with what heals it.
fn commands(args: &Arguments) -> Result<BTreeMap<String, Named>, CliError> {
    let mut commands = BTreeMap::new();
    for (name, strike) in &args.commands {
        let named = Named { strike: strike.clone(), heal: None };
        let is_taken = statefulset::KINDS.iter().any(|kind| kind.to_string() == *name)
            || faults::is_whom(name)
            || commands.insert(name.clone(), named).is_some();
        if is_taken {
            return Err(CliError::Usage(format!("--command {name}: another fault has this name")));
        }
    }
    for (name, heal) in &args.heals {
        let Some(named) = commands.get_mut(name) else {
            return Err(CliError::Usage(format!("--heal {name}: there is no --command of this name")));
        };
        if named.heal.replace(heal.clone()).is_some() {
            return Err(CliError::Usage(format!("--heal {name} is given twice")));
        }
    }
    Ok(commands)
}

fn plan(args: &Arguments, commands: &BTreeMap<String, Named>) -> Result<Plan, CliError> {
    let (kinds, defaults): (Vec<Kind>, Vec<String>) = if args.kube {
        let kinds = statefulset::KINDS.into_iter().chain(commands.keys().cloned().map(Kind::Command));
        let named = commands.keys().flat_map(|name| [format!("{name}:leader"), format!("{name}:follower")]);
        (kinds.collect(), statefulset::DEFAULT.into_iter().map(str::to_owned).chain(named).collect())
    } else {
        (dev::KINDS.into(), dev::DEFAULT.map(str::to_owned).into())
    };
    let given: Vec<String> = args.faults.iter().flat_map(|list| list.0.clone()).collect();
    let words = if given.is_empty() { &defaults } else { &given };
    let parsed: Result<Vec<Fault>, String> =
        words.iter().map(|word| faults::parse(word.trim(), &kinds)).collect();
    Ok(Plan::new(args.seed, parsed.map_err(CliError::Usage)?))
}

/// A cluster of its own.
async fn on_dev(args: &Arguments, plan: &Plan, signals: &mut Signals) -> Result<(), CliError> {
    let folder = Folder::open(args.dir.as_deref())?;
    let count = args.nodes.unwrap_or(NODES_DEFAULT);
    note!("starting {count} {}", if count == 1 { "node" } else { "nodes" });
    let mut cluster = DevCluster::start(count, folder, args.serve.clone(), &args.tls).await?;
    let done = strike(args, plan, &mut cluster, &format!("{count} nodes on this machine"), signals).await;
    if let Some(folder) = cluster.end(done.is_err(), signals.next()).await {
        note!("data and logs of the nodes are in {}", folder.display());
    }
    done
}

/// A StatefulSet.
async fn on_kubernetes(
    args: &Arguments,
    plan: &Plan,
    commands: BTreeMap<String, Named>,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let is_inside = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let via = args.via.unwrap_or(if is_inside { Via::Pods } else { Via::Forward });
    let (namespace, set) = (args.namespace.as_deref(), args.statefulset.as_deref());
    let mut cluster = tokio::select! {
        found = KubeCluster::find(namespace, set, via, commands, &args.tls) => found?,
        () = signals.next() => return Err(CliError::Failed("interrupted".to_owned())),
    };
    let name = cluster.name();
    note!("striking {name}");
    strike(args, plan, &mut cluster, &name, signals).await
}

/// Runs the rounds, heals, reads all back, prints.
async fn strike<T: Target>(
    args: &Arguments,
    plan: &Plan,
    target: &mut T,
    name: &str,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let rounds = Rounds {
        count: args.rounds.map_or(plan.turn(), |rounds| rounds as usize),
        plan,
        hold: args.hold.0,
        settle: args.settle.map_or(if args.kube { SETTLE_KUBE } else { SETTLE_DEV }, |span| span.0),
    };
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let mut load = None;
    let work = async {
        let (reach, mut progress) = (target.reach(), Progress::new());
        tokio::select! {
            healthy = settled(target, rounds.settle, &mut progress) => drop(healthy?),
            why = misunderstanding(reach) => return Err(Trouble(why)),
        }
        let started = Load::start(target.reach(), target.service(), load_settings(args.seed)).await;
        let load = load.insert(started.map_err(|error| Trouble(error.to_string()))?);
        rounds.run(target, load, &mut rows).await
    };
    let is_interrupted = tokio::select! {
        done = work => {
            problems.extend(done.err().map(|trouble| trouble.0));
            false
        }
        () = signals.next() => {
            note!("interrupted: healing what is broken");
            problems.push(format!("interrupted after {} of {} rounds", rows.len(), rounds.count));
            true
        }
    };
    if let Err(trouble) = target.heal().await {
        problems.push(format!("not healed: {trouble}"));
    }
    let last = match load {
        None => None,
        Some(load) => last_reading(load, !problems.is_empty(), is_interrupted, signals).await,
    };
    match &last {
        Some(last) => problems.extend(last.problems()),
        None => problems.push("the writes were not read once more at the end".to_owned()),
    }
    let summary =
        Summary { target: name, seed: args.seed, rows: &rows, last: last.as_ref(), problems: &problems };
    let printed = match args.output {
        Format::Text => print::text(&summary.text()),
        Format::Json => print::json(&summary.json()),
    };
    if problems.is_empty() { printed } else { Err(CliError::Failed(problems.join("\n       "))) }
}

/// Reads all acknowledged writes once more. After trouble the cluster may be beyond answering: then not for long.
async fn last_reading(
    load: Load,
    is_troubled: bool,
    is_interrupted: bool,
    signals: &mut Signals,
) -> Option<FinalReport> {
    let limit = if is_troubled { LAST_READING_TIMEOUT } else { Duration::MAX };
    if is_interrupted {
        note!("reading the acknowledged writes once more; Ctrl-C again ends that, too");
    }
    tokio::select! {
        read = timeout(limit, load.finish()) => read.ok(),
        () = signals.next() => None,
    }
}

/// Keys of a run of their own: others may strike the same cluster, and earlier ones may have left some.
fn load_settings(seed: u64) -> LoadSettings {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    LoadSettings { seed, ..LoadSettings::new(format!("{now:x}")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Arguments,
    }

    fn planned(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("chaos").chain(line.split_whitespace());
        let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.args;
        let commands = commands(&args).map_err(|error| error.to_string())?;
        plan(&args, &commands).map_err(|error| error.to_string())
    }

    #[test]
    fn faults_are_those_of_the_target() {
        assert_eq!(planned("").unwrap().turn(), dev::DEFAULT.len());
        assert_eq!(planned("--faults kill,pause,cut:leader").unwrap().turn(), 3);
        assert_eq!(planned("--kube").unwrap().turn(), statefulset::DEFAULT.len());
        let named = planned("--kube --command cable=down --heal cable=up").unwrap();
        assert_eq!(named.turn(), statefulset::DEFAULT.len() + 2);
        assert_eq!(planned("--kube --command cable=down --faults cable:leader,force").unwrap().turn(), 2);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |line: &str, part: &str| {
            let message = planned(line).map(|_| ()).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        };
        check("--faults delete", "`delete` is no fault here");
        check("--kube --faults kill", "`kill` is no fault here");
        check("--kube --nodes 3", "cannot be used with");
        check("--namespace a", "--kube");
        check("--kube --command two=x", "another fault has this name");
        check("--kube --command a=x --command a=y", "another fault has this name");
        check("--kube --heal a=x", "there is no --command of this name");
        check("--kube --command Ab=x", "expected NAME=SHELL");
        check("--rounds 0", "0 is not in 1..");
        check("--hold 5", "a duration is a whole number and a unit");
    }
}
