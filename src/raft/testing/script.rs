//! The scripts' commands. `N` is a node, such as `n1`; `T` a time, such as `300ms`; output shows what they cause.
//!
//! | command | does |
//! | --- | --- |
//! | `cluster nodes=3` | starts n1 to n3 with empty disks. `voters='n1 n2'`: who they take for voters (else all); a node that is not among them knows no configuration. `only='n3'`: only these run, the script plays the others. `seed=1`, and any of the settings, sizes in bytes |
//! | `disk N log='1 1 2'` | starts the node again with this on its disk: entries of these terms; `term=3 vote=n2 applied=2 voters='n1 n2'`: the rest of its state |
//! | `timeout N…` | fires the node's timer: time passes to its deadline |
//! | `advance T` | time passes, timers fire, messages stay under way |
//! | `run T` | time passes, timers fire, messages arrive at once |
//! | `run T latency=T [only='…']` | time passes, timers fire, messages arrive this much later; shows only lines with one of these words |
//! | `deliver [N N] [from=N] [to=N] [kind=K] [count=1] [order=newest]` | hands over those messages that are under way now |
//! | `drop …`, `duplicate …` | loses or doubles messages, chosen like `deliver` does |
//! | `stabilize` | delivers everything, and what comes of it, until nothing is under way; no time passes |
//! | `campaign N` | fires the node's timer and stabilizes |
//! | `hold-disk N…`, `release-disk N…` | appends wait to be flushed; all are flushed, and again at once from now on |
//! | `flush N [count=1]` | makes appends that wait durable |
//! | `fail-disk N` | the node's log fails to write |
//! | `crash N…`, `restart N…` | ends a node without notice: what was not flushed is lost; starts it again |
//! | `partition 'n1 \| n2 n3'`, `cut N N`, `heal` | messages between the groups, or from the first node to the second, are lost from now on; no longer |
//! | `snapshot-taken N… [index=5]` | the state as of this entry (or all that is applied) is durable |
//! | `cut-snapshot N N term=1` | a snapshot of what the first node has applied is under way to the second, although no leader asked for it |
//! | `snapshot-received N from=N` | the latest snapshot that is under way between them arrives, and stays under way |
//! | `snapshot-sent N N [failed=true]` | the first node learns that the second has that snapshot, or did not get it |
//! | `space-low N…`, `space-freed N…` | free space falls below the reserve; there is room again |
//! | `lose-log N from=3` | of a node that is down: what its disk had flushed is gone from this entry on |
//! | `send-dropped N N [unsent='1 2']` | tells the first node that a message for the second never left, with these forwarded writes |
//! | `propose N x=1 y=2 [within=10s]` | clients ask the node for writes, all at once; `size=100` makes one of that many bytes |
//! | `read N [count=1] [within=10s]` | clients ask the node for linearizable reads, all at once |
//! | `change N [add='N…'] [add-learner='N…'] [promote='N…'] [demote='N…'] [remove='N…'] [expected=3] [within=10s]` | an administrator asks the node for other members; `name=x`: the name of the first to be added (else as the node) |
//! | `transfer N [to=N] [within=10s]` | an administrator asks the node to transfer leadership |
//! | `message N N Kind name=value…` | the second node gets this message as if the first had sent it |
//! | `status [N…]`, `log [N…]`, `messages` | shows the nodes; their logs, `\|` after what they know to be committed; what is under way |

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer, Command, Context, Runner};
use test_each_file::test_each_path;

use super::super::{Entry, Event, HardState, Settings};
use super::cluster::{Cluster, Envelope, Founding};
use super::parse::{self, Result};
use super::trace::{self, entries_text, name};
use crate::types::{LogIndex, NodeId, ProposalId, Session, Term};

test_each_path! { in "src/raft/testscripts" as scripts => run_script }

fn run_script(path: &std::path::Path) {
    goldenscript::run(&mut Script::default(), path).expect("the script runs");
}

/// A script under way.
#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let mut args = command.consume_args();
        if command.name == "cluster" {
            self.cluster = Some(new_cluster(&mut args)?);
            args.reject_next()?;
        }
        let cluster = self.cluster.as_mut().ok_or("the first command must be cluster")?;
        let mut lines = Vec::new();
        if command.name != "cluster" {
            lines = carry_out(cluster, &command.name, &mut args)?;
            args.reject_next()?;
        }
        lines.splice(0..0, cluster.trace.take());
        match &cluster.violation {
            None => Ok(lines.join("\n")),
            Some(violation) => Err(format!("{violation}\n{}", lines.join("\n")).into()),
        }
    }
}

fn carry_out(cluster: &mut Cluster, name: &str, args: &mut ArgumentConsumer) -> Result<Vec<String>> {
    match name {
        "disk" => replace_disk(cluster, args)?,
        "timeout" => each_node(args, |id| cluster.timeout(id))?,
        "campaign" => each_node(args, |id| {
            cluster.timeout(id);
            cluster.stabilize();
        })?,
        "advance" => cluster.advance(parse::duration(args.next_pos().ok_or("how long?")?)?, false),
        "run" => run_for(cluster, args)?,
        "stabilize" => cluster.stabilize(),
        "deliver" | "drop" | "duplicate" => move_messages(cluster, name, args)?,
        "crash" => each_node(args, |id| cluster.crash(id))?,
        "restart" => each_node(args, |id| cluster.start(id))?,
        "partition" => partition(cluster, args.next_pos().ok_or("who from whom?")?)?,
        "cut" => {
            let (from, to) = pair(args)?;
            cluster.cuts.insert((from, to));
        }
        "heal" => cluster.cuts.clear(),
        "send-dropped" => {
            let (from, to) = pair(args)?;
            let ids = args.take_key("unsent").unwrap_or_default().split_whitespace();
            let unsent = ids.map(|id| Ok(ProposalId(id.parse()?))).collect::<Result<_>>()?;
            cluster.step(from, Event::SendDropped { to, unsent });
        }
        "propose" => propose(cluster, args)?,
        "read" => {
            let within = args.take_key("within").map_or(Ok(Duration::from_secs(10)), parse::duration)?;
            let count = args.take_key("count").map_or(Ok(1), str::parse)?;
            each_node(args, |id| cluster.read(id, count, within))?;
        }
        "change" => {
            let id = parse::node(args.next_pos().ok_or("which node?")?)?;
            let within = args.take_key("within").map_or(Ok(Duration::from_secs(10)), parse::duration)?;
            let expected = args.take_key("expected").map(str::parse).transpose()?.map(LogIndex);
            let change = parse::change(args)?;
            cluster.change(id, change, expected, within);
        }
        "transfer" => {
            let id = parse::node(args.next_pos().ok_or("which node?")?)?;
            let within = args.take_key("within").map_or(Ok(Duration::from_secs(10)), parse::duration)?;
            let to = args.take_key("to").map(parse::node).transpose()?;
            cluster.transfer(id, to, within);
        }
        "message" => {
            let (from, to) = pair(args)?;
            let message = parse::message(args)?;
            cluster.hand_over(from, to, message);
        }
        "status" => return Ok(chosen(cluster, args)?.map(|id| status_line(cluster, id)).collect()),
        "log" => return Ok(chosen(cluster, args)?.map(|id| log_line(cluster, id)).collect()),
        "messages" => return Ok(message_lines(cluster)),
        _ => disk_and_snapshots(cluster, name, args)?,
    }
    Ok(Vec::new())
}

fn run_for(cluster: &mut Cluster, args: &mut ArgumentConsumer) -> Result<()> {
    let duration = parse::duration(args.next_pos().ok_or("how long?")?)?;
    match args.take_key("latency").map(parse::duration).transpose()? {
        Some(latency) => cluster.advance_slowly(duration, latency),
        None => cluster.advance(duration, true),
    }
    if let Some(words) = args.take_key("only") {
        let words: Vec<&str> = words.split(' ').collect();
        cluster.trace.keep(|line| words.iter().any(|word| line.contains(word)));
    }
    Ok(())
}

/// The commands on snapshots and on a disk's trouble.
fn disk_and_snapshots(cluster: &mut Cluster, name: &str, args: &mut ArgumentConsumer) -> Result<()> {
    match name {
        "hold-disk" => each_node(args, |id| hold_disk(cluster, id, true))?,
        "release-disk" => each_node(args, |id| {
            hold_disk(cluster, id, false);
            cluster.flush(id, usize::MAX);
        })?,
        "flush" => {
            let count = args.take_key("count").map_or(Ok(usize::MAX), str::parse)?;
            each_node(args, |id| cluster.flush(id, count))?;
        }
        "fail-disk" => each_node(args, |id| cluster.step(id, Event::AppendFailed))?,
        "snapshot-taken" => {
            let index = args.take_key("index").map(str::parse).transpose()?.map(LogIndex);
            each_node(args, |id| cluster.take_snapshot(id, index))?;
        }
        "cut-snapshot" => {
            let (from, to) = pair(args)?;
            let term = Term(args.take_key("term").ok_or("term=?")?.parse()?);
            cluster.cut_snapshot(from, to, Session(0), term);
        }
        "snapshot-received" => {
            let to = parse::node(args.next_pos().ok_or("which node?")?)?;
            let from = parse::node(args.take_key("from").ok_or("from=?")?)?;
            let place = transfer(cluster, from, to)?;
            if !cluster.receive_snapshot(place) {
                return Err("it cannot arrive".into());
            }
        }
        "snapshot-sent" => {
            let (from, to) = pair(args)?;
            let is_failed = args.take_key("failed").map_or(Ok(false), str::parse)?;
            let place = transfer(cluster, from, to)?;
            cluster.end_transfer(place, !is_failed);
        }
        "space-low" => each_node(args, |id| cluster.step(id, Event::SpaceLow))?,
        "space-freed" => each_node(args, |id| cluster.step(id, Event::SpaceFreed))?,
        "lose-log" => {
            let id = parse::node(args.next_pos().ok_or("which node?")?)?;
            let from = LogIndex(args.take_key("from").ok_or("from=?")?.parse()?);
            let node = cluster.nodes.get_mut(&id).filter(|node| node.raft.is_none());
            let node = node.ok_or("only a node that is down loses its log")?;
            node.has_lost_data = true;
            node.disk.lose_from(from);
            let last = usize::try_from(node.disk.last_durable().index.0)?;
            node.applied.truncate(last);
        }
        other => return Err(format!("no command is called {other}").into()),
    }
    Ok(())
}

fn each_node(args: &mut ArgumentConsumer, mut act: impl FnMut(NodeId)) -> Result<()> {
    let mut id = parse::node(args.next_pos().ok_or("which node?")?)?;
    loop {
        act(id);
        let Some(next) = args.next_pos() else { return Ok(()) };
        id = parse::node(next)?;
    }
}

/// The nodes that are named, or all.
fn chosen(cluster: &Cluster, args: &mut ArgumentConsumer) -> Result<impl Iterator<Item = NodeId>> {
    let chosen = std::iter::from_fn(|| args.next_pos()).map(parse::node).collect::<Result<Vec<_>>>()?;
    let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    Ok(ids.into_iter().filter(move |id| chosen.is_empty() || chosen.contains(id)))
}

fn pair(args: &mut ArgumentConsumer) -> Result<(NodeId, NodeId)> {
    let mut one = || parse::node(args.next_pos().ok_or("from whom to whom?")?);
    Ok((one()?, one()?))
}

/// The latest snapshot under way between two nodes.
fn transfer(cluster: &Cluster, from: NodeId, to: NodeId) -> Result<usize> {
    let place = cluster.transfers.iter().rposition(|transfer| transfer.from == from && transfer.to == to);
    place.ok_or_else(|| "no such snapshot is under way".into())
}

fn new_cluster(args: &mut ArgumentConsumer) -> Result<Cluster> {
    let count: u64 = args.take_key("nodes").ok_or("nodes=?")?.parse()?;
    let all: Vec<NodeId> = (1..=count).map(NodeId).collect();
    let voters = args.take_key("voters").map_or(Ok(all.clone()), parse::nodes)?;
    let only = args.take_key("only").map_or(Ok(all), parse::nodes)?;
    let seed = args.take_key("seed").map_or(Ok(1), str::parse)?;
    let mut cluster = Cluster::new(settings(args)?, seed, true);
    for id in only {
        let voters = voters.contains(&id).then(|| parse::configuration(&voters));
        cluster.found(Founding { id, voters, hard_state: HardState::default(), log: Vec::new(), applied: 0 });
    }
    Ok(cluster)
}

fn replace_disk(cluster: &mut Cluster, args: &mut ArgumentConsumer) -> Result<()> {
    let id = parse::node(args.next_pos().ok_or("whose disk?")?)?;
    let log = args.take_key("log").map_or(Ok(Vec::new()), parse::log)?;
    let last_term = log.last().map_or(Term(0), |entry| entry.term);
    let term = args.take_key("term").map(str::parse).transpose()?.map_or(last_term, Term);
    let voted_for = args.take_key("vote").map(parse::node).transpose()?;
    let applied = args.take_key("applied").map_or(Ok(0), str::parse)?;
    let voters = args.take_key("voters").map(parse::nodes).transpose()?;
    let before = cluster.nodes.get(&id).and_then(|node| node.first.clone());
    let voters = voters.map(|voters| parse::configuration(&voters)).or(before);
    cluster.found(Founding { id, voters, hard_state: HardState { term, voted_for }, log, applied });
    Ok(())
}

fn settings(args: &mut ArgumentConsumer) -> Result<Settings> {
    let mut settings = Settings::default();
    while let Some((key, value)) = args.next_key() {
        match key {
            "heartbeat_interval" => settings.heartbeat_interval = parse::duration(value)?,
            "election_timeout" => settings.election_timeout = parse::duration(value)?,
            "pre_vote" => settings.pre_vote = value.parse()?,
            "check_quorum" => settings.check_quorum = value.parse()?,
            "batch_entries" => settings.batch_entries = value.parse()?,
            "batch_bytes" => settings.batch_bytes = value.parse()?,
            "append_bytes_max" => settings.append_bytes_max = value.parse()?,
            "window_messages" => settings.window_messages = value.parse()?,
            "window_bytes" => settings.window_bytes = value.parse()?,
            "cache_bytes" => settings.cache_bytes = value.parse()?,
            "promotion" => settings.promotion = value.parse()?,
            "uncommitted_bytes_max" => settings.uncommitted_bytes_max = value.parse()?,
            "trailing_entries" => settings.trailing_entries = value.parse()?,
            "transfer_log_entries_max" => settings.transfer_log_entries_max = value.parse()?,
            "lease_reads" => settings.lease_reads = value.parse()?,
            "clock_drift_ppm" => settings.clock_drift_ppm = value.parse()?,
            "disk_stall_timeout" => settings.disk_stall_timeout = parse::duration(value)?,
            other => return Err(format!("no setting is called {other}").into()),
        }
    }
    Ok(settings)
}

fn move_messages(cluster: &mut Cluster, how: &str, args: &mut ArgumentConsumer) -> Result<()> {
    let from = args.next_pos().or_else(|| args.take_key("from")).map(parse::node).transpose()?;
    let to = args.next_pos().or_else(|| args.take_key("to")).map(parse::node).transpose()?;
    let kind = args.take_key("kind");
    let count = args.take_key("count").map_or(Ok(usize::MAX), str::parse)?;
    let is_newest_first = args.take_key("order") == Some("newest");
    let is_chosen = |envelope: &Envelope| {
        from.is_none_or(|from| from == envelope.from)
            && to.is_none_or(|to| to == envelope.to)
            && kind.is_none_or(|kind| kind == trace::kind(&envelope.message))
    };
    let network = std::mem::take(&mut cluster.network);
    let (mut chosen, mut rest) = (Vec::new(), Vec::new());
    for envelope in network {
        if is_chosen(&envelope) && (chosen.len() < count || is_newest_first) {
            chosen.push(envelope);
        } else {
            rest.push(envelope);
        }
    }
    if is_newest_first {
        chosen.reverse();
        rest.extend(chosen.drain(count.min(chosen.len())..).rev());
    }
    if chosen.is_empty() {
        return Err("no such message is under way".into());
    }
    cluster.network = rest;
    for Envelope { from, to, message, sent_at } in chosen {
        match how {
            "deliver" => cluster.hand_over(from, to, message),
            "drop" => cluster
                .trace
                .line(|trace| format!("{} → {} {} (lost)", name(from), name(to), trace.message(&message))),
            _ => {
                let envelope = Envelope { from, to, message, sent_at };
                cluster.network.extend([envelope.clone(), envelope]);
            }
        }
    }
    Ok(())
}

fn hold_disk(cluster: &mut Cluster, id: NodeId, is_held: bool) {
    if let Some(node) = cluster.nodes.get_mut(&id) {
        node.disk.is_held = is_held;
    }
}

fn partition(cluster: &mut Cluster, groups: &str) -> Result<()> {
    let groups = groups.split('|').map(parse::nodes).collect::<Result<Vec<_>>>()?;
    for (i, left) in groups.iter().enumerate() {
        for right in groups.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, right)| right) {
            cluster.cuts.extend(left.iter().map(|left| (*left, *right)));
        }
    }
    Ok(())
}

fn propose(cluster: &mut Cluster, args: &mut ArgumentConsumer) -> Result<()> {
    let id = parse::node(args.next_pos().ok_or("to which node?")?)?;
    let within = args.take_key("within").map_or(Ok(Duration::from_secs(10)), parse::duration)?;
    let mut commands = Vec::new();
    for argument in args {
        commands.push(match argument {
            Argument::KeyValue(key, size) if key == "size" => Bytes::from(vec![b'.'; size.parse()?]),
            other => Bytes::from(other.to_string()),
        });
    }
    cluster.propose(id, commands, within);
    Ok(())
}

fn status_line(cluster: &Cluster, id: NodeId) -> String {
    let node = &cluster.nodes[&id];
    let Some(raft) = &node.raft else { return format!("{} is down", name(id)) };
    let status = raft.status(cluster.now);
    let or_none = |id: Option<NodeId>| id.map_or("none".to_owned(), name);
    format!(
        "{} {:<13} term={} vote={:<4} leader={:<4} last={:<4} commit={:<2} applied={:<2} durable={}",
        name(id),
        status.role.as_str().replace('_', "-"),
        status.term,
        or_none(raft.hard_state.voted_for),
        or_none(status.leader),
        raft.log.last().to_string(),
        status.commit_index,
        node.applied.len(),
        raft.log.durable(),
    )
}

fn log_line(cluster: &Cluster, id: NodeId) -> String {
    let node = &cluster.nodes[&id];
    let commit = node.raft.as_ref().map(|raft| raft.log.commit()).unwrap_or_default();
    let is_committed = |entry: &&Entry| entry.index <= commit;
    let (committed, rest): (Vec<_>, Vec<_>) = node.disk.written.entries.iter().partition(is_committed);
    let strip = |entries: Vec<&Entry>| entries_text(entries).trim_matches(['[', ']']).to_owned();
    let before = node.disk.written.before;
    let covered = if before.index.0 > 0 { format!("(…{before}) ") } else { String::new() };
    let mut line = format!("{} {covered}{} | {}", name(id), strip(committed), strip(rest));
    line.truncate(line.trim_end().len());
    if node.disk.has_pending() {
        let _ = write!(line, " (durable: {})", node.disk.last_durable());
    }
    line
}

fn message_lines(cluster: &mut Cluster) -> Vec<String> {
    let network = cluster.network.clone();
    let lines = network.into_iter().map(|Envelope { from, to, message, .. }| {
        format!("{} → {} {}", name(from), name(to), cluster.trace.message(&message))
    });
    lines.collect()
}
