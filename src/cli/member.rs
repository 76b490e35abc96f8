//! `kuberaft member` and `kuberaft transfer-leader`.

use std::fmt::Write;

use clap::{Args, Subcommand};

use super::client::{ClientFlags, block_on};
use super::output::{Layout, Output};
use super::{CliError, print};
use crate::api::client::ClientError;
use crate::api::cluster::MemberChange;
use crate::api::{Done, MemberDetail, MemberToAdd, MembersReport};
use crate::raft::Outcome;
use crate::types::{Address, LogIndex, Name, NodeId};

/// The commands below `member`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Member {
    /// Show the members and how far each one is
    List(List),
    /// Add a node as a learner, which becomes a voter once it has caught up
    Add(Add),
    /// Make a learner a voter
    Promote(Named),
    /// Make a voter a learner, which it then stays
    Demote(Named),
    /// Remove a member permanently
    Remove(Named),
}

#[derive(Clone, Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Add {
    /// Name of the node
    name: Name,

    /// Id of its data directory, which it says while it waits to be added: 16 hex digits
    #[arg(long, value_name = "ID")]
    id: NodeId,

    /// Where the other members reach it, if they have it in no list
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: Option<Address>,

    /// It stays a learner
    #[arg(long)]
    learner: bool,

    #[command(flatten)]
    order: Order,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Named {
    /// Name or id of the member
    member: String,

    #[command(flatten)]
    order: Order,
}

/// What all changes have in common.
#[derive(Clone, Debug, Args)]
struct Order {
    /// Only if the members are still those of this configuration, as `member list` shows it
    #[arg(long, value_name = "INDEX")]
    expected: Option<u64>,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    output: Output,
}

/// The flags of `transfer-leader`.
#[derive(Clone, Debug, Args)]
pub(super) struct TransferLeader {
    /// Name or id of the member that is to lead [default: the voter that is furthest]
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    output: Output,
}

/// Does what `member` is asked for.
pub(super) fn run(member: Member) -> Result<(), CliError> {
    match member {
        Member::List(args) => list(&args),
        Member::Add(Add { name, id, peer_addr, learner, order }) => {
            let text = if learner {
                format!("{name} is a learner now")
            } else {
                format!("{name} is a learner now and becomes a voter once it has caught up")
            };
            let peer_addr = peer_addr.map(|address| address.to_string());
            let new = MemberToAdd { node_id: id, name: name.to_string(), peer_addr, stays_learner: learner };
            change(&order, &MemberChange::Add(new), &text)
        }
        Member::Promote(Named { member, order }) => {
            let text = format!("{member} is a voter now");
            change(&order, &MemberChange::Promote(member), &text)
        }
        Member::Demote(Named { member, order }) => {
            let text = format!("{member} is a learner now");
            change(&order, &MemberChange::Demote(member), &text)
        }
        Member::Remove(Named { member, order }) => {
            let text = format!("{member} is no member any more; its data is set aside when it hears of it");
            change(&order, &MemberChange::Remove(member), &text)
        }
    }
}

/// Has another member lead.
pub(super) fn transfer(args: &TransferLeader) -> Result<(), CliError> {
    let TransferLeader { to, client, output } = args;
    let mut cluster = client.cluster()?;
    let done = block_on(async {
        let moved = cluster.transfer_leadership(to.as_deref()).await;
        moved.map_err(|error| explain(client, &error))
    })?;
    let text = match to {
        Some(to) => format!("{to} leads now"),
        None => "another member leads now".to_owned(),
    };
    show(*output, done, &text)
}

fn change(order: &Order, change: &MemberChange, text: &str) -> Result<(), CliError> {
    let Order { expected, client, output } = order;
    let mut cluster = client.cluster()?;
    let done = block_on(async {
        let changed = cluster.change_members(change, expected.map(LogIndex)).await;
        changed.map_err(|error| explain(client, &error))
    })?;
    show(*output, done, text)
}

fn show(output: Output, done: Done, text: &str) -> Result<(), CliError> {
    match output.layout() {
        Layout::Table => print::text(&format!("{text} (entry {})\n", done.index)),
        Layout::Json => print::json(&done),
    }
}

/// A refusal, as told to people: also whether it may have been done.
fn explain(client: &ClientFlags, error: &ClientError) -> CliError {
    match (client.explain(error), error.outcome()) {
        (CliError::Failed(message), Outcome::Unknown) => CliError::Failed(format!(
            "{message}; it may have been done or may yet be: see `kuberaft member list`"
        )),
        (explained, _) => explained,
    }
}

fn list(args: &List) -> Result<(), CliError> {
    let mut cluster = args.client.cluster()?;
    let report = block_on(async { cluster.members().await.map_err(|error| args.client.explain(&error)) })?;
    match args.output.layout() {
        Layout::Table => print::text(&table(&report)),
        Layout::Json => print::json(&report),
    }
}

fn table(report: &MembersReport) -> String {
    const HEADINGS: [&str; 7] = ["NAME", "ID", "ROLE", "LAG", "SILENT", "CLIENTS", "PEERS"];
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    let leader = report.leader.as_ref().map(|leader| leader.node_id);
    for voter in &report.voters {
        rows.push(row(voter, if leader == Some(voter.node_id) { "leader" } else { "voter" }));
    }
    for learner in &report.learners {
        rows.push(row(learner, if learner.stays_learner { "learner, stays" } else { "learner" }));
    }
    let widths: [usize; 7] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("writing to a string cannot fail");
        }
        text.extend([line.trim_end(), "\n"]);
    }
    let under_way = if report.joint { "; a change of voters is under way" } else { "" };
    writeln!(text, "configuration {}{under_way}", report.configuration_index)
        .expect("writing to a string cannot fail");
    text
}

fn row(member: &MemberDetail, role: &str) -> [String; 7] {
    let unknown = || "-".to_owned();
    [
        member.name.clone(),
        member.node_id.to_string(),
        role.to_owned(),
        member.lag_entries.map_or_else(unknown, |lag| lag.to_string()),
        member.silent_ms.map_or_else(unknown, |silent| format!("{silent}ms")),
        member.client_addr.clone().unwrap_or_else(unknown),
        member.peer_addr.clone().unwrap_or_else(unknown),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_who_leads_and_who_lags() {
        let member = |id: u64, name: &str, lag: u64| MemberDetail {
            node_id: NodeId(id),
            name: name.to_owned(),
            client_addr: Some(format!("{name}:80")),
            peer_addr: None,
            stays_learner: false,
            match_index: Some(LogIndex(100 - lag)),
            lag_entries: Some(lag),
            silent_ms: Some(12),
        };
        let report = MembersReport {
            configuration_index: LogIndex(7),
            joint: false,
            leader: Some(crate::api::LeaderReport { node_id: NodeId(1), name: None, client_addr: None }),
            voters: vec![member(1, "a", 0)],
            learners: vec![member(2, "b", 40)],
        };
        let expected = "\
NAME  ID                ROLE     LAG  SILENT  CLIENTS  PEERS
a     0000000000000001  leader   0    12ms    a:80     -
b     0000000000000002  learner  40   12ms    b:80     -
configuration 7
";
        assert_eq!(table(&report), expected);
    }
}
