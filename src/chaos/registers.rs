//! Register clients: they read and write the same few keys, and what they saw is judged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant as Moment, sleep, sleep_until};

use super::load::{Clock, Shared};
use super::member_client::MemberClient;
use super::tally::Tally;
use crate::kv::Condition;
use crate::sim::checker::{self, Answer, Call, Operation, Returned};
use crate::sim::random::Random;
use crate::types::{Instant, Revision};

/// How long keys that are left for others are read back; what cannot be read then says nothing.
const CHAPTER_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a read that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Longest text of a violation that is kept.
const VIOLATION_BYTES_MAX: usize = 16 << 10;

/// What the register clients of one round saw.
#[derive(Default)]
pub(super) struct RegistersResult {
    pub(super) operations: u64,
    pub(super) acknowledged: u64,
    pub(super) tally: Tally,
    pub(super) chapters: u64,
    /// The first one.
    pub(super) violation: Option<String>,
}

/// Runs the clients until `end` is set or its sender has gone, and judges all they saw. A long round is judged in
/// chapters, each with keys of its own.
pub(super) async fn run(
    shared: Arc<Shared>,
    round: u64,
    end: watch::Receiver<Option<Instant>>,
) -> RegistersResult {
    let mut result = RegistersResult::default();
    let mut judging: Option<JoinHandle<Option<String>>> = None;
    loop {
        let chapter = result.chapters;
        result.chapters += 1;
        let mut history = run_chapter(&shared, round, chapter, &end, &mut result).await;
        let is_over = end.borrow().is_some() || end.has_changed().is_err();
        let patience =
            if is_over { shared.settings.patience } else { CHAPTER_PATIENCE.min(shared.settings.patience) };
        read_back(&shared, round, chapter, patience, &mut history).await;
        // At most one history waits to be judged while the next one is recorded.
        if let Some(judged) = judging.take() {
            note(&mut result, judged.await.unwrap_or_else(|_| Some(NOT_JUDGED.to_owned())));
        }
        let judged = spawn_blocking(move || judge(&history));
        if is_over {
            note(&mut result, judged.await.unwrap_or_else(|_| Some(NOT_JUDGED.to_owned())));
            return result;
        }
        judging = Some(judged);
    }
}

const NOT_JUDGED: &str = "not judged: the checker itself failed";

fn note(result: &mut RegistersResult, violation: Option<String>) {
    if result.violation.is_none() {
        result.violation = violation;
    }
}

/// What is wrong with a history, if anything.
fn judge(history: &[Operation]) -> Option<String> {
    let mut text = checker::check(history).err()?.to_string();
    if text.len() > VIOLATION_BYTES_MAX {
        let end = (0..=VIOLATION_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    Some(text)
}

async fn run_chapter(
    shared: &Arc<Shared>,
    round: u64,
    chapter: u64,
    end: &watch::Receiver<Option<Instant>>,
    result: &mut RegistersResult,
) -> Vec<Operation> {
    let settings = &shared.settings;
    let budget = Arc::new(AtomicUsize::new(settings.history_max));
    let mut clients = JoinSet::new();
    for id in 0..settings.register_clients {
        let keys =
            (0..settings.register_keys).map(|key| shared.speller.register(round, chapter, key)).collect();
        let seed = settings.seed ^ round.rotate_left(32) ^ chapter.rotate_left(16);
        let register = Register {
            id: u64::from(id),
            client: shared.member_client(id as usize),
            clock: shared.clock,
            interval: settings.register_interval,
            random: Random::new(seed, u64::from(id)),
            keys,
            seen: BTreeMap::new(),
            written: 0,
            budget: Arc::clone(&budget),
            seen_by_client: Seen::default(),
        };
        clients.spawn(register.run(end.clone()));
    }
    let mut history = Vec::new();
    for seen in clients.join_all().await {
        result.operations += seen.count;
        result.acknowledged += seen.acknowledged;
        result.tally.merge(seen.tally);
        history.extend(seen.operations);
    }
    history
}

/// One client.
struct Register {
    id: u64,
    client: MemberClient,
    clock: Clock,
    interval: Duration,
    random: Random,
    keys: Vec<String>,
    /// Latest revision that it was told of each key.
    seen: BTreeMap<usize, Revision>,
    written: u64,
    /// Operations that the clients of this chapter may still record.
    budget: Arc<AtomicUsize>,
    seen_by_client: Seen,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    operations: Vec<Operation>,
    /// All operations, those without effect among them.
    count: u64,
    acknowledged: u64,
    tally: Tally,
}

impl Register {
    async fn run(mut self, mut end: watch::Receiver<Option<Instant>>) -> Seen {
        while end.borrow().is_none() && end.has_changed().is_ok() && take_one(&self.budget) {
            let next = Moment::now() + self.interval;
            self.step().await;
            tokio::select! {
                () = sleep_until(next) => {}
                _ = end.changed() => {}
            }
        }
        self.seen_by_client
    }

    /// One operation, recorded unless it certainly had no effect.
    async fn step(&mut self) {
        let (key, call) = self.choose();
        let invoked_at = self.clock.now();
        let answered = self.client.perform(&self.keys[key], &call).await;
        let at = self.clock.now();
        let seen = &mut self.seen_by_client;
        seen.count += 1;
        let returned = match answered {
            Ok(answer) => {
                if let Answer::Written { mod_revision } | Answer::Found { mod_revision, .. } = &answer {
                    self.seen.extend(mod_revision.map(|revision| (key, revision)));
                }
                seen.acknowledged += u64::from(matches!(answer, Answer::Written { .. }));
                Some(Returned { at, answer })
            }
            Err(error) => {
                if !seen.tally.add(&error, call != Call::Get) {
                    return;
                }
                None
            }
        };
        let key = Bytes::copy_from_slice(self.keys[key].as_bytes());
        seen.operations.push(Operation { client: self.id, key, call, invoked_at, returned });
    }

    /// The next operation. Every value is another one.
    fn choose(&mut self) -> (usize, Call) {
        let key = self.random.index(self.keys.len());
        self.written += 1;
        let value = Bytes::from(format!("{}-{}", self.id, self.written));
        let at_seen = self.seen.get(&key).copied().map_or(Condition::Present, Condition::ModRevision);
        let call = match self.random.below(20) {
            0..8 => Call::Get,
            8..14 => Call::Put { value, condition: Condition::Always },
            14..16 => Call::Put { value, condition: at_seen },
            16..18 => Call::Put { value, condition: Condition::Absent },
            18 => Call::Delete { condition: Condition::Always },
            _ => Call::Delete { condition: at_seen },
        };
        (key, call)
    }
}

/// Takes one from what is left; false if nothing is.
fn take_one(budget: &AtomicUsize) -> bool {
    budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Reads each register once more, so that the last writes are seen by somebody.
async fn read_back(
    shared: &Shared,
    round: u64,
    chapter: u64,
    patience: Duration,
    history: &mut Vec<Operation>,
) {
    let mut client = shared.member_client(0);
    let deadline = Moment::now() + patience;
    for register in 0..shared.settings.register_keys {
        let key = shared.speller.register(round, chapter, register);
        loop {
            let invoked_at = shared.clock.now();
            if let Ok(answer) = client.perform(&key, &Call::Get).await {
                let returned = Some(Returned { at: shared.clock.now(), answer });
                let client = u64::from(shared.settings.register_clients);
                history.push(Operation { client, key: key.into(), call: Call::Get, invoked_at, returned });
                break;
            }
            if Moment::now() >= deadline {
                return;
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::scripted::{Does, NO_LEADER, Scripted};

    #[test]
    fn the_budget_of_a_chapter_is_shared_and_ends() {
        let budget = AtomicUsize::new(2);
        assert_eq!([take_one(&budget), take_one(&budget), take_one(&budget)], [true, true, false]);
    }

    /// What a client of a member that does this has recorded after 20 operations.
    async fn recorded(does: Does) -> Seen {
        let reach = Arc::new(Scripted::new(&[("a", does)]));
        let mut register = Register {
            id: 0,
            client: MemberClient::new(reach, Duration::from_millis(20), 0),
            clock: Clock::start(),
            interval: Duration::from_millis(1),
            random: Random::new(1, 0),
            keys: vec!["k".to_owned()],
            seen: BTreeMap::new(),
            written: 0,
            budget: Arc::new(AtomicUsize::new(20)),
            seen_by_client: Seen::default(),
        };
        for _ in 0..20 {
            register.step().await;
        }
        register.seen_by_client
    }

    #[tokio::test]
    async fn writes_of_unknown_outcome_stay_open_and_what_had_no_effect_is_not_recorded() {
        for does in [Does::Nothing, Does::Break] {
            let seen = recorded(does).await;
            let unknown: u64 = seen.tally.unknown.values().sum();
            assert!(unknown > 0 && seen.operations.len() as u64 == unknown, "{:?}", seen.tally);
            assert!(seen.operations.iter().all(|made| made.returned.is_none() && made.call != Call::Get));
            let reads: u64 = seen.tally.failed.values().sum();
            assert_eq!((seen.count, seen.acknowledged), (unknown + reads, 0));
        }
        for (does, code) in [(Does::Refuse, "connect"), (Does::Answer(NO_LEADER), "no_leader")] {
            let seen = recorded(does).await;
            assert!(seen.operations.is_empty() && seen.tally.unknown.is_empty(), "{:?}", seen.tally);
            assert_eq!(seen.tally.failed.get(code), Some(&20), "{:?}", seen.tally);
        }
    }

    #[test]
    fn a_stale_read_is_told_with_the_operations_that_show_it() {
        let put = Call::Put { value: Bytes::from_static(b"0-1"), condition: Condition::Always };
        let operation = |call, from, to, answer| Operation {
            client: 0,
            key: Bytes::from_static(b"chaos/x/0/r0/0"),
            call,
            invoked_at: Instant(from),
            returned: Some(Returned { at: Instant(to), answer }),
        };
        let written = operation(put, 0, 10, Answer::Written { mod_revision: Some(Revision(1)) });
        let missed = operation(Call::Get, 20, 30, Answer::Missing);
        assert_eq!(judge(std::slice::from_ref(&written)), None);
        let text = judge(&[written, missed]).unwrap();
        assert!(text.contains("not linearizable") && text.contains("chaos/x/0/r0/0"), "{text}");
    }
}
