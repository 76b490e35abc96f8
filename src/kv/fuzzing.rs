//! Commands from arbitrary bytes, compared with a model of plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::outcomes::REMEMBERED_MICROS;
use super::{Answer, Command, Condition, IdempotencyKey, Operation, Store};
use crate::fuzzing::Input;
use crate::types::{LogIndex, LogTime, Revision};

/// A key's value, revision of its creation and of its last write, and number of writes.
type Row = (Bytes, u64, u64, u64);

#[derive(Default)]
struct Model {
    keys: BTreeMap<Bytes, Row>,
    revision: u64,
    /// Answers by idempotency key, with the request and the time.
    outcomes: BTreeMap<Bytes, (Operation, Answer, u64)>,
}

impl Model {
    fn apply(&mut self, command: &Command, time: u64) -> Answer {
        let name = command.idempotency_key.as_ref().map(|name| name.as_bytes().clone());
        if let Some(name) = &name
            && let Some((operation, answer, at)) = self.outcomes.get(name)
            && time - at < REMEMBERED_MICROS
        {
            return if *operation == command.operation {
                answer.clone()
            } else {
                Answer::IdempotencyConflict
            };
        }
        let answer = self.carry_out(&command.operation);
        if let Some(name) = name {
            self.outcomes.insert(name, (command.operation.clone(), answer.clone(), time));
        }
        answer
    }

    fn carry_out(&mut self, operation: &Operation) -> Answer {
        let (Operation::Put { key, condition, .. } | Operation::Delete { key, condition }) = operation;
        let there = self.keys.get(key).cloned();
        let mod_revision = there.as_ref().map(|row| Revision(row.2));
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => there.is_none(),
            Condition::Present => there.is_some(),
            Condition::ModRevision(revision) => mod_revision == Some(*revision),
        };
        if !holds {
            return Answer::PreconditionFailed { mod_revision };
        }
        match operation {
            Operation::Put { key, value, .. } => {
                self.revision += 1;
                let (created, version) =
                    there.map_or((self.revision, 1), |(_, created, _, version)| (created, version + 1));
                self.keys.insert(key.clone(), (value.clone(), created, self.revision, version));
                let (revision, create_revision) = (Revision(self.revision), Revision(created));
                Answer::Put { revision, create_revision, version }
            }
            Operation::Delete { key, .. } => {
                if self.keys.remove(key).is_none() {
                    return Answer::KeyNotFound { revision: Revision(self.revision) };
                }
                self.revision += 1;
                Answer::Deleted { revision: Revision(self.revision) }
            }
        }
    }

    fn check(&self, store: &Store) {
        assert_eq!((store.revision().0, store.len()), (self.revision, self.keys.len()));
        for (key, (value, created, modified, version)) in &self.keys {
            let found = store.get(key).expect("a key of the model");
            assert_eq!(found.value, value);
            let numbers = (found.create_revision.0, found.mod_revision.0, found.version);
            assert_eq!(numbers, (*created, *modified, *version));
        }
    }
}

/// A command of few keys and names, or whatever the bytes are.
fn command(input: &mut Input<'_>) -> Option<Command> {
    if input.below(4) == 0 {
        let data = Bytes::copy_from_slice(input.bytes());
        let command = Command::decode(&data).ok()?;
        let again = if Command::feature_level(&data).0 == 0 { command.encode() } else { command.encode_2() };
        assert_eq!(again, data, "a command has one encoding of each version");
        return Some(command);
    }
    let key = Bytes::from(vec![b'a' + input.below(5)]);
    let condition = match input.below(8) {
        0 => Condition::Absent,
        1 => Condition::Present,
        2 => Condition::ModRevision(Revision(input.number())),
        _ => Condition::Always,
    };
    let name = [input.below(6)];
    let idempotency_key =
        (name[0] < 3).then(|| IdempotencyKey::new(Bytes::copy_from_slice(&name)).expect("one byte"));
    let operation = if input.below(4) == 0 {
        Operation::Delete { key, condition }
    } else {
        Operation::Put { key, value: Bytes::copy_from_slice(input.bytes()), condition }
    };
    let command = Command { operation, idempotency_key };
    assert_eq!(Command::decode(&command.encode()), Ok(command.clone()));
    Some(command)
}

/// The store answers as the model does, its digest depends on the content alone, and its records make it again.
pub(crate) fn commands(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut store, mut model, mut records) = (Store::default(), Model::default(), Vec::new());
    let (mut index, mut time) = (0, 0);
    while !input.is_empty() {
        index += 1 + u64::from(input.below(3));
        time += if input.below(16) == 0 { REMEMBERED_MICROS / 2 } else { 1000 };
        let Some(command) = command(&mut input) else { continue };
        let expected = model.apply(&command, time);
        let answer = store.apply(LogIndex(index), LogTime(time), command, &mut records);
        assert_eq!(answer, expected);
    }
    model.check(&store);
    let mut again = Store::default();
    store.view().records().for_each(|record| again.restore(record));
    model.check(&again);
    assert_eq!(again.hash(), store.hash(), "what a snapshot holds is the state");
    let mut replayed = Store::default();
    for record in records {
        replayed.restore(record);
    }
    assert_eq!(replayed.hash(), store.hash(), "what a checkpoint wrote is the state");
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let put = [1, 1, 1, 0, 7, 0, 5, 1, 3, b'o', b'n', b'e'];
    let deletion = [1, 1, 1, 0, 7, 5, 4];
    let raw = Command::from(Operation::Put {
        key: Bytes::from_static(b"key"),
        value: Bytes::from_static(b"value"),
        condition: Condition::ModRevision(Revision(1)),
    });
    let raw = raw.encode();
    let mut decoded = vec![0, 1, 4, u8::try_from(raw.len()).unwrap_or(0)];
    decoded.extend_from_slice(&raw);
    vec![put.to_vec(), [&put[..], &deletion, &put, &decoded].concat(), [decoded.clone(), decoded].concat()]
}
