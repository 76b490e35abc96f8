//! `kuberaft recover`: the dialogue. Nothing is changed before it is said what will be, and agreed to.

mod report;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;

use super::output::{AnswerFormat, Format};
use super::place::{LatchBefore, LatchReport, PlaceFlags};
use super::{CliError, print};
use crate::config::{InitialCluster, PeerTlsFlags};
use crate::membership::InitialMember;
use crate::server::{Majority, PeerPods, PeersToAsk, Presence, RecoveredDirectory, Recovery, Target, survey};
use crate::types::{LogIndex, Name, NodeId};
use report::Report;

const WHEN: &str = "Only for a cluster that has lost a majority of its voters for good: their disks are gone. If they come \
     back, start them instead. If several nodes are left, run this on each without --yes, and continue with the one \
     whose log ends at the highest term, then index; empty the directories of the others, and they join it.\n\n\
     With --adopt, for a directory that was copied or moved from another namespace or StatefulSet: it keeps its data, \
     and becomes a cluster of its own with another id, so that it and the original are never taken for each other.\n\n\
     In Kubernetes it runs in a pod of its own that mounts the volume, while the StatefulSet has no replicas: \
     docs/operations.md.\n\n\
     With -o json there is one JSON document on standard output, whether it was done or not, and nothing else.";

const MAY_BE_LOST: &str = "writes that were acknowledged, and are not among these entries";

/// The flags of `recover`.
#[derive(Clone, Debug, Args)]
#[command(after_help = WHEN)]
pub(super) struct Recover {
    /// The data directory of the node that is left; the node must not be running
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Do it without asking
    #[arg(long)]
    yes: bool,

    /// Do it although a majority of the voters answers, or cannot be asked
    #[arg(long)]
    force: bool,

    /// Where to ask for the other members, besides the addresses that the node knows
    #[arg(long, value_name = "NAME/HOST:PORT,…", visible_alias = "raft_cluster")]
    initial_cluster: Option<InitialCluster>,

    /// Leave this entry out, as no program can apply it; may be given several times
    #[arg(long, value_name = "INDEX")]
    skip: Vec<u64>,

    /// Do it with a directory that is at home in another namespace or StatefulSet, or has another name
    #[arg(long, requires = "kube_namespace")]
    adopt: bool,

    /// Name of the node from now on, only with --adopt [default: the name that it has]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    #[command(flatten)]
    place: PlaceFlags,

    /// The headless Service of the StatefulSet, by which the other pods are asked whether they run
    #[arg(long, value_name = "NAME", env = "KUBERAFT_KUBE_SERVICE", help_heading = "Kubernetes")]
    kube_service: Option<String>,

    /// Port at which pods reach each other
    #[arg(
        long,
        value_name = "PORT",
        env = "KUBERAFT_KUBE_PEER_PORT",
        help_heading = "Kubernetes",
        default_value_t = 7000
    )]
    kube_peer_port: u16,

    /// How the other members are asked: as `serve` has them
    #[command(flatten)]
    tls: PeerTlsFlags,

    #[command(flatten)]
    answer: AnswerFormat,
}

impl Recover {
    /// A majority that is there does not matter.
    fn is_free(&self) -> bool {
        self.force || self.adopt
    }
}

/// Says what would be lost, asks, and does it.
pub(super) fn run(args: &Recover) -> Result<(), CliError> {
    let recovery = look(args)?;
    args.place.check_name(&recovery.name)?;
    let latch = args.place.latch();
    let plan = describe(&recovery) + &latch.as_ref().map(LatchBefore::plan).unwrap_or_default();
    match args.answer.output {
        Format::Text => print::text(&plan)?,
        // Nobody can agree to what is not seen.
        Format::Json if !args.yes && io::stdin().is_terminal() => note_part!("{plan}"),
        Format::Json => {}
    }
    let mut report = Report::new(args, &recovery, latch.as_ref());
    let done = go_on(args, recovery, latch.as_ref(), &mut report);
    if args.answer.output == Format::Json {
        report.problem = done.as_ref().err().map(ToString::to_string);
        let printed = print::json(&report);
        return done.and(printed);
    }
    done
}

/// Looks at the directory, and who else is there.
fn look(args: &Recover) -> Result<Recovery, CliError> {
    let peers = args.initial_cluster.as_ref().map(InitialCluster::peers).unwrap_or_default();
    let listed = peers
        .iter()
        .map(|peer| InitialMember { name: peer.name.to_string(), address: peer.address.to_string() });
    let target = Target {
        place: args.place.place(),
        name: args.name.as_ref().map(ToString::to_string),
        adopt: args.adopt,
        skip: args.skip.iter().map(|index| LogIndex(*index)).collect(),
    };
    let pods = args
        .kube_service
        .clone()
        .filter(|service| !service.is_empty())
        .map(|service| PeerPods { service, port: args.kube_peer_port });
    let peers = PeersToAsk { listed: listed.collect(), pods, tls: args.tls.settings()? };
    Ok(survey(&args.data_dir, target, peers)?)
}

/// Does it, if it may be done and is agreed to; notes in the report what was done.
fn go_on(
    args: &Recover,
    recovery: Recovery,
    latch: Option<&LatchBefore<'_>>,
    report: &mut Report,
) -> Result<(), CliError> {
    let mut printed = Ok(());
    let mut say = |text: &str| {
        if args.answer.output == Format::Text && printed.is_ok() {
            printed = print::text(text);
        }
    };
    if let Some(unfinished) = unfinished(args, &recovery, latch) {
        report.latch = Some(unfinished);
    }
    check(args, &recovery, latch)?;
    if !args.yes && !is_agreed()? {
        return Err(CliError::Failed("nothing was changed".to_owned()));
    }
    let (cluster_id, name) = (recovery.cluster_id, recovery.name.clone());
    let RecoveredDirectory { before, warning } = recovery.carry_out()?;
    if let Some(warning) = warning {
        note!("warning: {warning}");
    }
    let kept = before.as_ref().map(|path| format!("What was there before is kept in {}.\n", path.display()));
    say(&format!(
        "\nDone: this node is the only voter of cluster {cluster_id}.\n{}",
        kept.unwrap_or_default()
    ));
    (report.done, report.kept_in) = (true, before);
    if let Some(latch) = latch {
        let replaced = latch.replace(cluster_id);
        say(&replaced.told());
        report.latch = Some(replaced);
    }
    let data_dir = args.data_dir.display();
    say(&match args.place.place() {
        Some(place) => format!(
            "Next: give the other pods of {place} empty volumes, then scale it up so far that {name} is among its pods. \
             The others join, and become voters once they have caught up.\n"
        ),
        None => format!(
            "Next: kuberaft serve --name {name} --data-dir {data_dir}, with its other flags as before.\nThen start the \
             others with empty directories: they join, and become voters once they have caught up.\n"
        ),
    });
    printed
}

/// What a recovery before this one left to be done about the latch, perhaps: the cluster is there, and not named.
fn unfinished(args: &Recover, recovery: &Recovery, latch: Option<&LatchBefore<'_>>) -> Option<LatchReport> {
    let id = recovery.old_cluster_id;
    let stops_here = recovery.majority == Majority::There && !args.is_free();
    let latch = latch.filter(|latch| stops_here && !latch.names(id))?;
    Some(latch.by_hand(id, "as far as can be seen here"))
}

/// Whether it may be done.
fn check(args: &Recover, recovery: &Recovery, latch: Option<&LatchBefore<'_>>) -> Result<(), CliError> {
    let Recovery { identity, place, old_cluster_id, majority, .. } = recovery;
    if args.adopt && identity.place == *place && identity.name == recovery.name {
        return Err(CliError::Failed(format!(
            "nothing was changed: there is nothing to adopt, {} is at home here. Without --adopt this recovers a lost \
             quorum",
            args.data_dir.display()
        )));
    }
    if *majority == Majority::Unknown && !args.is_free() {
        let mut unknown: Vec<String> = recovery.others_that_are(Presence::Unknown).into_values().collect();
        unknown.sort_unstable();
        return Err(CliError::Failed(format!(
            "nothing was changed: {} cannot be asked from here, and may be running. Say where the other members are: in \
             Kubernetes by --kube-service, where the API server or DNS answers, elsewhere by --initial-cluster; with --peer-tls-… if they ask for certificates. \
             --force continues nevertheless: if they are a majority with this node, two clusters have the same data",
            unknown.join(", ")
        )));
    }
    if *majority == Majority::There && !args.is_free() {
        let latch = unfinished(args, recovery, latch).map(|latch| latch.told());
        return Err(CliError::Failed(format!(
            "nothing was changed: with this node, a majority of the voters is there, so no recovery is needed. Start \
             this node again; or give it an empty directory, and it joins. --force continues nevertheless: then two \
             clusters have the same data, and writes to one are unknown to the other{}{}",
            if latch.is_some() { ". " } else { "" },
            latch.unwrap_or_default()
        )));
    }
    latch.map_or(Ok(()), |latch| latch.check(*old_cluster_id, args.force))
}

/// Asks on a terminal; on standard error, as the answer may go to a file.
fn is_agreed() -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Failed(
            "nothing was changed: there is no terminal to ask on; --yes continues without asking".to_owned(),
        ));
    }
    note_part!("\nGo on? Type yes: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(answer.trim() == "yes")
}

/// What is there, what becomes of it, what may be lost.
fn describe(recovery: &Recovery) -> String {
    let Recovery { identity, old_cluster_id, cluster_id, survivor, plan, .. } = recovery;
    let last = survivor.snapshot.position;
    let unknown = survivor.uncommitted();
    let mut text = format!(
        "This is node {} ({}) of cluster {old_cluster_id}.\n\
         It holds entries up to index {} of term {}, revision {}, {} keys.\n",
        identity.name,
        identity.node_id,
        last.index,
        last.term,
        survivor.view.revision(),
        survivor.view.len(),
    );
    let _ = match unknown {
        0 => writeln!(text, "All of them are known to be committed."),
        _ => writeln!(
            text,
            "Up to index {} they are known to be committed; the {unknown} above count as committed from now on, even \
             if their writes were never acknowledged.",
            survivor.commit_index
        ),
    };
    for index in &recovery.skipped {
        let _ = writeln!(text, "Entry {index} is left out: it cannot be applied.");
    }
    let _ = writeln!(
        text,
        "\nWhat is lost: {MAY_BE_LOST}. If other nodes are left, continue with the one whose log ends at the highest \
         term, then index.\n\nIt becomes the only voter of a new cluster, {cluster_id}, by entry {} of term {}. Dropped \
         permanently: {}.",
        plan.position.index,
        plan.position.term,
        names(&plan.dropped)
    );
    let stays = identity.place == recovery.place && identity.name == recovery.name;
    if let Some(place) = recovery.place.as_ref().filter(|_| !stays) {
        let home = identity.place.as_ref().map(|home| format!(", was {} of {home}", identity.name));
        let _ = writeln!(text, "It will be {} of {place}{}.", recovery.name, home.unwrap_or_default());
    }
    for (presence, what) in [(Presence::Running, "are running"), (Presence::Unknown, "may be running")] {
        let others = recovery.others_that_are(presence);
        if !others.is_empty() {
            let _ = writeln!(text, "\nWARNING: these members of the old cluster {what}: {}.", names(&others));
        }
    }
    text
}

fn names(members: &BTreeMap<NodeId, String>) -> String {
    if members.is_empty() {
        return "nobody".to_owned();
    }
    let members = members.iter().map(|(id, name)| format!("{name} ({id})"));
    members.collect::<Vec<_>>().join(", ")
}
