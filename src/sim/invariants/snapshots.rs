//! Logs that begin behind a snapshot, and what a restart finds. A log counts here as if it still held what its
//! node's state covers: that was committed, so it is known.

use std::sync::Arc;

use super::{Checked, Invariants, broken};
use crate::raft::{Entry, HardState, Settings, Snapshot, Status};
use crate::sim::marks::{MarkedLog, Prefix, Write, place};
use crate::types::{Instant, IoId, LogIndex, LogPosition};

/// What a node found when it opened its log and its state.
pub struct Found<'a> {
    /// Term and vote.
    pub hard_state: HardState,
    /// The log begins behind this entry.
    pub before: LogIndex,
    /// The log's entries.
    pub entries: &'a [Entry],
    /// Up to where entries are applied.
    pub applied: LogIndex,
    /// The entry of an installed snapshot behind which the log has not restarted yet.
    pub begins_anew: Option<LogIndex>,
}

impl Invariants {
    /// What was agreed on up to an entry, as a log.
    fn agreed_log(&self, through: LogIndex, hard_state: HardState) -> MarkedLog {
        let marks = self.agreed.iter().take(place(through.next())).map(|agreed| agreed.mark).collect();
        let covered = self.members.history.iter().filter(|(index, _)| *index <= through);
        MarkedLog { marks, hard_state, configurations: covered.cloned().collect() }
    }

    /// A core makes a snapshot its state.
    ///
    /// # Errors
    /// It is of what was not committed, or does not bring the configuration that it should.
    pub fn installing(
        &mut self,
        node: usize,
        io: IoId,
        snapshot: &Snapshot,
        hard_state: HardState,
        keeps_tail: bool,
        since: Instant,
    ) -> Checked {
        self.is_sound(node, snapshot)?;
        let log = self.agreed_log(snapshot.position.index, hard_state);
        let memory = &self.nodes[node].memory;
        let holds = log.marks.last().is_some_and(|mark| memory.has(snapshot.position.index, *mark));
        if keeps_tail && !holds {
            let what = format!(
                "n{} keeps its log behind snapshot {}, of which it held another entry",
                node + 1,
                snapshot.position
            );
            return broken("log matching", what);
        }
        let prefix = Some(Prefix { log, keeps_tail });
        let (marks, configurations) = (Vec::new(), Vec::new());
        let write = Write { io, truncate_from: None, hard_state, marks, configurations, prefix, since };
        let this = &mut self.nodes[node];
        this.memory.take(&write);
        this.queued.push_back(write);
        Ok(())
    }

    /// A snapshot is of what was agreed on.
    fn is_sound(&self, node: usize, snapshot: &Snapshot) -> Checked {
        let LogPosition { index, term } = snapshot.position;
        if self.agreed.get(place(index)).is_none_or(|agreed| agreed.mark.term != term) {
            let what =
                format!("n{} has a snapshot of {}, which is not committed", node + 1, snapshot.position);
            return broken("state-machine safety", what);
        }
        let newest = self.members.history.iter().rfind(|(at, _)| *at <= index);
        let is_newest = newest.is_none_or(|(at, configuration)| {
            *at == snapshot.configuration_index
                && (Arc::ptr_eq(configuration, &snapshot.configuration)
                    || *configuration == snapshot.configuration)
        });
        if is_newest {
            return Ok(());
        }
        let what = format!(
            "n{}'s snapshot of {} brings the members of entry {}",
            node + 1,
            snapshot.position,
            snapshot.configuration_index
        );
        broken("members of a snapshot", what)
    }

    /// A leader, by its own clock at `now` at the end of a turn.
    ///
    /// # Errors
    /// Its disk stalls, there are others, and it continues to lead.
    pub fn leads_with_disk(
        &self,
        node: usize,
        now: Instant,
        status: &Status,
        settings: &Settings,
    ) -> Checked {
        let limit = settings.disk_stall_timeout.max(settings.election_timeout * 2);
        let this = &self.nodes[node];
        // A sole voter leads on, and may be given others meanwhile.
        let others = this.durable.last().index >= status.configuration_index
            && status.configuration.as_ref().is_some_and(|members| members.voters.len() > 1);
        let oldest = this.queued.front();
        if !others || oldest.is_none_or(|write| now.since(write.since) <= limit) {
            return Ok(());
        }
        let what = format!("n{} leads while its disk has hung for more than {limit:?}", node + 1);
        broken("a leader's disk works", what)
    }

    /// A node's core goes by the newest configuration in its log.
    pub(super) fn follows_newest(&self, node: usize, status: &Status) -> Checked {
        let memory = &self.nodes[node].memory;
        let newest = memory.configurations.last().map_or(LogIndex(0), |(index, _)| *index);
        if status.configuration_index == newest {
            return Ok(());
        }
        let what = format!(
            "n{} goes by the members of entry {}; the newest in its log are those of {newest}",
            node + 1,
            status.configuration_index
        );
        broken("members in force", what)
    }

    /// A node's state is that of a snapshot now.
    ///
    /// # Errors
    /// It covers no more than what was applied, or is not durably the state.
    pub fn installed(&mut self, node: usize, position: LogPosition) -> Checked {
        let this = &mut self.nodes[node];
        if position.index <= this.applied {
            let what = format!("n{} goes back from {} to snapshot {position}", node + 1, this.applied);
            return broken("monotonic", what);
        }
        this.applied = position.index;
        let is_durable = self.agreed.get(place(position.index)).is_some_and(|agreed| {
            agreed.mark.term == position.term && this.durable.has(position.index, agreed.mark)
        });
        if is_durable {
            return Ok(());
        }
        broken("state-machine safety", format!("n{} applies snapshot {position} too early", node + 1))
    }

    /// A node opened its log again.
    ///
    /// # Errors
    /// It is neither what was durable nor that and the write that was under way.
    pub fn recovered(&mut self, node: usize, found: &Found<'_>) -> Checked {
        let Found { hard_state, before, applied, .. } = *found;
        if before.0 > self.agreed.len() as u64 {
            let what = format!("n{}'s log begins behind {before}, which is not committed", node + 1);
            return broken("state-machine safety", what);
        }
        let mut log = self.agreed_log(found.begins_anew.unwrap_or(before), hard_state);
        if found.begins_anew.is_none() {
            let rest = MarkedLog::of(found.entries, hard_state);
            log.marks.extend(rest.marks);
            log.configurations.extend(rest.configurations);
        }
        self.lost_nothing(node, &log, found.begins_anew.is_some())?;
        if let Some(at) = (0..place(applied.next()))
            .find(|at| self.agreed.get(*at).map(|agreed| agreed.mark) != log.marks.get(*at).copied())
        {
            let what = format!("n{} starts with entry {} applied, which is not committed", node + 1, at + 1);
            return broken("state-machine safety", what);
        }
        let this = &mut self.nodes[node];
        this.memory = log;
        this.held = this.memory.last().index;
        (this.commit, this.applied, this.term) = (applied, applied, hard_state.term);
        Ok(())
    }

    /// A log as found is what was durable, or that and some of the writes that were under way.
    fn lost_nothing(&mut self, node: usize, found: &MarkedLog, begins_anew: bool) -> Checked {
        let this = &mut self.nodes[node];
        let is = |log: &MarkedLog| {
            // A start that finishes an installation may lose its term, which was promised to nobody.
            (log.hard_state == found.hard_state || begins_anew) && log.marks == found.marks
        };
        let mut log = this.durable.clone();
        if is(&log) && log.hard_state == found.hard_state {
            this.queued.clear();
            this.writing = 0;
            return Ok(());
        }
        // Between two writes the log flushes only for an installation.
        let installs: Vec<bool> = this.queued.iter().map(|write| write.prefix.is_some()).collect();
        for at in 0..installs.len() {
            log.take(&this.queued[at]);
            let is_flushed = at + 1 == installs.len() || installs[at] || installs[at + 1];
            if is_flushed && is(&log) {
                this.writing = this.queued.len();
                return Ok(());
            }
        }
        // The log's own end may be lost where the snapshot covers it.
        let covers =
            |write: &Write| write.prefix.as_ref().is_some_and(|prefix| prefix.log.marks == found.marks);
        if begins_anew && (is(&this.durable) || this.queued.iter().any(covers)) {
            this.writing = this.queued.len();
            return Ok(());
        }
        let what = format!(
            "n{} finds {:?}, {}; flushed was {:?}, {}; under way {:?}, {}",
            node + 1,
            found.hard_state,
            found.last(),
            this.durable.hard_state,
            this.durable.last(),
            log.hard_state,
            log.last()
        );
        broken("a restart loses nothing", what)
    }
}
