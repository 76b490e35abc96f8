//! Compaction: dropping the log's beginning (paper, 7). What the state covers durably is no longer needed for a
//! restart; some entries are kept for followers, since entries are cheaper to send than the whole state.

use super::progress::{Flow, Progress, Transfer};
use super::role::Role;
use super::{Effect, Observation, Raft};
use crate::types::{Instant, LogIndex, LogPosition};

/// The log is compacted when that drops at least one in this many of the trailing entries, not at every checkpoint.
const STEPS: u64 = 8;

impl Raft {
    /// The state as of this entry is durable.
    pub(super) fn on_snapshot_taken(&mut self, now: Instant, position: LogPosition, out: &mut Vec<Effect>) {
        self.covered = self.covered.max(position.index);
        self.compact(now, out);
    }

    /// Drops what nobody needs, if that is enough to be worth it.
    pub(super) fn compact(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let through = self.compactable(now);
        let step = if self.is_space_low() { 1 } else { (self.settings.trailing_entries / STEPS).max(1) };
        let before = self.log.before().index;
        if through.0 < before.0.saturating_add(step) {
            return;
        }
        self.log.compact(through);
        if let Role::Leader(leader) = &mut self.role {
            for progress in leader.progress.values_mut() {
                progress.on_compacted(through);
            }
        }
        out.push(Effect::Compact { through });
        out.push(Effect::Observe(Observation::LogCompacted { through }));
    }

    /// The last entry that nobody needs. Kept are the trailing entries and, at a leader, what followers in touch lack
    /// and what will be needed behind snapshots under way; the latter two only up to `transfer_log_entries_max` entries.
    /// While space is low, nothing is kept but what a restart needs.
    fn compactable(&self, now: Instant) -> LogIndex {
        // What was applied is known a little later than what was made durable of it.
        let covered = self.covered.min(self.log.applied());
        let unwanted = if self.is_space_low() { covered } else { self.unwanted(now, covered) };
        self.settings.rules.may_drop_through(&self.log, self.covered, unwanted)
    }

    /// The last entry, of those up to `covered`, that is not kept for followers.
    fn unwanted(&self, now: Instant, covered: LogIndex) -> LogIndex {
        let keep = |entries: u64| LogIndex(covered.0.saturating_sub(entries));
        let mut through = keep(self.settings.trailing_entries);
        if let Role::Leader(leader) = &self.role {
            let needed = |progress: &Progress| match progress.flow {
                Flow::Snapshot(Transfer::Running { from }) => Some(from),
                Flow::Snapshot(Transfer::Due) => None,
                Flow::Probe | Flow::Replicate(_) => {
                    progress.is_active(now, self.election_timeout()).then_some(progress.match_index)
                }
            };
            let needed = leader.progress.values().filter_map(needed).min().unwrap_or(through);
            through = through.min(needed.max(keep(self.settings.transfer_log_entries_max)));
        }
        through
    }
}
