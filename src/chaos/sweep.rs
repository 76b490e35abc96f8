//! Goes through many keys with several connections: reads what was acknowledged, deletes what was written.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::load::Shared;
use crate::kv::Condition;
use crate::sim::checker::{Answer, Call};
use crate::types::Instant;

/// Pause of a connection after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Lost keys that are named; the others are counted.
const NAMED_MAX: usize = 10;

/// What a read of all acknowledged keys found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadBack {
    /// Keys that hold what was written.
    pub(super) found: u64,
    /// Keys that are missing or hold something else.
    pub(super) lost: u64,
    /// Some of them.
    pub(super) lost_keys: Vec<String>,
    /// Keys of which nobody could say.
    pub(super) unread: u64,
}

impl ReadBack {
    fn add(&mut self, key: &str, expected: &str, answer: Option<&Answer>) {
        match answer {
            None => self.unread += 1,
            Some(Answer::Found { value, .. }) if value == expected.as_bytes() => self.found += 1,
            Some(_) => {
                self.lost += 1;
                if self.lost_keys.len() < NAMED_MAX {
                    self.lost_keys.push(key.to_owned());
                }
            }
        }
    }
}

/// Reads these keys, linearizably, and compares them with their values.
pub(super) async fn read_back(
    shared: &Arc<Shared>,
    keys: impl Iterator<Item = (String, String)> + Send + 'static,
) -> ReadBack {
    let result = Arc::new(Mutex::new(ReadBack::default()));
    let noted = Arc::clone(&result);
    sweep(shared, keys, Call::Get, move |(key, expected), answer| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).add(key, expected, answer);
    })
    .await;
    std::mem::take(&mut *result.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Deletes these keys; returns how many may be left.
pub(super) async fn delete(shared: &Arc<Shared>, keys: impl Iterator<Item = String> + Send + 'static) -> u64 {
    let left = Arc::new(Mutex::new(0));
    let noted = Arc::clone(&left);
    let call = Call::Delete { condition: Condition::Always };
    sweep(shared, keys.map(|key| (key, String::new())), call, move |_, answer| {
        *noted.lock().unwrap_or_else(PoisonError::into_inner) += u64::from(answer.is_none());
    })
    .await;
    *left.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for every key until it is answered. Once nothing was answered for as long as the settings are patient, the
/// rest counts as unanswered.
async fn sweep(
    shared: &Arc<Shared>,
    keys: impl Iterator<Item = (String, String)> + Send + 'static,
    call: Call,
    note: impl Fn((&str, &str), Option<&Answer>) + Clone + Send + 'static,
) {
    let keys = Arc::new(Mutex::new(keys));
    let answered_at = Arc::new(Mutex::new(shared.clock.now()));
    let mut readers = JoinSet::new();
    for reader in 0..shared.settings.readers {
        let (shared, keys, answered_at) = (Arc::clone(shared), Arc::clone(&keys), Arc::clone(&answered_at));
        let (call, note) = (call.clone(), note.clone());
        readers.spawn(async move {
            let mut client = shared.member_client(reader);
            let next = || keys.lock().unwrap_or_else(PoisonError::into_inner).next();
            let latest = |at: Option<Instant>| {
                let mut latest = answered_at.lock().unwrap_or_else(PoisonError::into_inner);
                *latest = at.map_or(*latest, |at| at.max(*latest));
                *latest
            };
            while let Some((key, expected)) = next() {
                let mut answer = None;
                while answer.is_none() && shared.clock.now().since(latest(None)) < shared.settings.patience {
                    match client.perform(&key, &call).await {
                        Ok(answered) => {
                            latest(Some(shared.clock.now()));
                            answer = Some(answered);
                        }
                        Err(_) => sleep(RETRY_PAUSE).await,
                    }
                }
                shared.swept.fetch_add(1, Ordering::Relaxed);
                note((&key, &expected), answer.as_ref());
            }
        });
    }
    while readers.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_key_that_is_missing_or_holds_something_else_is_lost() {
        let found =
            |value: &'static [u8]| Answer::Found { value: Bytes::from_static(value), mod_revision: None };
        let mut read = ReadBack::default();
        read.add("a", "1", Some(&found(b"1")));
        read.add("b", "2", Some(&found(b"1")));
        read.add("c", "3", Some(&Answer::Missing));
        read.add("d", "4", None);
        let expected =
            ReadBack { found: 1, lost: 2, lost_keys: vec!["b".to_owned(), "c".to_owned()], unread: 1 };
        assert_eq!(read, expected);
    }
}
