//! What a leader sends to one follower, and when.

use super::log::Log;
use super::progress::{Flow, Progress};
use super::{Append, Effect, Entry, Settings, Signal};
use crate::types::{LogPosition, NodeId, Term};

/// What every append of one moment has in common.
pub(super) struct Outgoing<'a> {
    pub(super) term: Term,
    pub(super) round: u64,
    pub(super) log: &'a Log,
    pub(super) settings: &'a Settings,
    pub(super) told_timeout_ms: u32,
}

impl Outgoing<'_> {
    fn append(&self, progress: &mut Progress, entries: Vec<Entry>) -> Signal {
        let prev = if progress.gets_snapshot() {
            // The beginning of every log: matches whatever the follower holds, and vouches for none of it.
            LogPosition::default()
        } else {
            let index = progress.next_index.prev();
            let term = self.log.term_at(index).expect("next_index is in the leader's log or right behind it");
            LogPosition { index, term }
        };
        progress.commit_sent = self.log.commit();
        Signal::Append(Append {
            term: self.term,
            session: progress.session,
            prev,
            entries,
            commit_index: self.log.commit(),
            round: self.round,
            unheard: progress.lost,
            election_timeout_ms: self.told_timeout_ms,
        })
    }

    /// Sends entries that start at the follower's `next_index`, and counts them in its window.
    pub(super) fn send_entries(
        &self,
        to: NodeId,
        progress: &mut Progress,
        entries: Vec<Entry>,
        out: &mut Vec<Effect>,
    ) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        let signal = self.append(progress, entries);
        out.push(Effect::Send { to, signal });
        progress.next_index = last.next();
        if let Flow::Replicate(window) = &mut progress.flow {
            window.push(last, bytes);
        }
    }
}

/// An empty append at `next_index`: tells the leader's term, commit index and read round, and shows the follower
/// whether anything sent before was lost.
pub(super) fn send_heartbeat(
    outgoing: &Outgoing,
    to: NodeId,
    progress: &mut Progress,
    out: &mut Vec<Effect>,
) {
    let signal = outgoing.append(progress, Vec::new());
    out.push(Effect::Send { to, signal });
}

/// Sends the entries that the follower lacks, as far as its window has room.
pub(super) fn send_waiting(outgoing: &Outgoing, to: NodeId, progress: &mut Progress, out: &mut Vec<Effect>) {
    let Settings { window_messages, window_bytes, append_bytes_max, .. } = *outgoing.settings;
    let last = outgoing.log.last().index;
    while progress.next_index <= last {
        let Flow::Replicate(window) = &mut progress.flow else { return };
        if window.loading || window.is_full(window_messages, window_bytes) {
            return;
        }
        let Some((entries, _)) = outgoing.log.slice(progress.next_index, append_bytes_max) else {
            window.loading = true;
            out.push(Effect::Load {
                peer: to,
                from: progress.next_index,
                through: outgoing.log.window_first().prev(),
                bytes_max: append_bytes_max,
            });
            return;
        };
        outgoing.send_entries(to, progress, entries, out);
    }
}
