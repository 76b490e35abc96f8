//! `kuberaft put`, `get`, `del`.

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::client::{ClientFlags, Consistency, block_on};
use super::output::{AnswerFormat, Format, Text};
use super::{CliError, print};
use crate::api::client::Found;
use crate::kv::{Condition, IdempotencyKey};
use crate::types::Revision;

/// Most that is read from standard input, in bytes: no server takes more.
const VALUE_BYTES_MAX: u64 = 4 << 20;

/// The flags of `put`.
#[derive(Clone, Debug, Args)]
pub(super) struct Put {
    /// The key
    key: OsString,

    /// The value; - reads it from standard input
    value: OsString,

    #[command(flatten)]
    condition: IfRevision,

    /// Only if the key is not there
    #[arg(long, conflicts_with = "if_revision")]
    if_absent: bool,

    #[command(flatten)]
    once: Once,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    answer: AnswerFormat,
}

/// The flags of `get`.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("output", |output| output.help("Format of the answer: text, the value as it is, or json, with its revisions")))]
pub(super) struct Get {
    /// The key
    key: OsString,

    /// linearizable, or stale: whatever the asked node holds, even without a leader
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_possible_values = true)]
    consistency: Consistency,

    /// Fail unless the key holds just this
    #[arg(long, value_name = "VALUE")]
    expect: Option<OsString>,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    answer: AnswerFormat,
}

/// The flags of `del`.
#[derive(Clone, Debug, Args)]
pub(super) struct Del {
    /// The key
    key: OsString,

    #[command(flatten)]
    condition: IfRevision,

    #[command(flatten)]
    once: Once,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    answer: AnswerFormat,
}

#[derive(Clone, Copy, Debug, Args)]
struct IfRevision {
    /// Only if the key was last changed at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
}

impl IfRevision {
    fn condition(self) -> Condition {
        self.if_revision.map_or(Condition::Always, |revision| Condition::ModRevision(Revision(revision)))
    }
}

#[derive(Clone, Debug, Args)]
struct Once {
    /// Names this write: given again within ten minutes, it is answered and not done again. Default: a random one
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    idempotency_key: Option<IdempotencyKey>,
}

impl Once {
    /// The key that was given, or one that nobody else uses.
    fn key(self) -> Result<IdempotencyKey, CliError> {
        if let Some(key) = self.idempotency_key {
            return Ok(key);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| CliError::Failed(format!("cannot draw an idempotency key: {error}")))?;
        Ok(IdempotencyKey::new(format!("{:032x}", u128::from_le_bytes(random))).expect("32 digits"))
    }
}

fn parse_idempotency_key(text: &str) -> Result<IdempotencyKey, String> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("an idempotency key consists of visible ASCII characters".to_owned());
    }
    IdempotencyKey::new(text.to_owned()).map_err(|error| error.to_string())
}

/// Sets a key.
pub(super) fn put(args: Put) -> Result<(), CliError> {
    let key = key(args.key)?;
    let value = if args.value == "-" { stdin()? } else { args.value.into_vec().into() };
    let condition = if args.if_absent { Condition::Absent } else { args.condition.condition() };
    let name = args.once.key()?;
    let written = block_on(async {
        let written = args.client.cluster()?.put_once(&key, value, condition, &name).await;
        written.map_err(|error| args.client.explain_write(&error))
    })?;
    match args.answer.output {
        Format::Text => print::text(&format!("revision {}\n", written.revision)),
        Format::Json => print::json(&written),
    }
}

/// Prints what a key holds.
pub(super) fn get(args: Get) -> Result<(), CliError> {
    let key = key(args.key)?;
    let found = block_on(async {
        let found = args.client.cluster()?.get(&key, args.consistency.into()).await;
        found.map_err(|error| args.client.explain(&error))
    })?;
    let Some(found) = found else {
        return Err(CliError::Failed(format!("there is no key `{}`", key.escape_ascii())));
    };
    let expected = args.expect.map(OsString::into_vec);
    if expected.is_some_and(|expected| expected != found.content.value) {
        return Err(CliError::Failed(format!(
            "the key `{}` holds another value, of {} bytes, last changed at revision {}",
            key.escape_ascii(),
            found.content.value.len(),
            found.content.mod_revision
        )));
    }
    match args.answer.output {
        Format::Json => print::json(&Shown::new(&key, &found)),
        Format::Text => {
            print::bytes(&found.content.value)?;
            // Only a person needs the line ended; a program gets the value as it is.
            if std::io::stdout().is_terminal() && !found.content.value.ends_with(b"\n") {
                print::text("\n")?;
            }
            Ok(())
        }
    }
}

/// Deletes a key.
pub(super) fn del(args: Del) -> Result<(), CliError> {
    let key = key(args.key)?;
    let name = args.once.key()?;
    let revision = block_on(async {
        let deleted = args.client.cluster()?.delete_once(&key, args.condition.condition(), &name).await;
        deleted.map_err(|error| args.client.explain_write(&error))
    })?;
    match args.answer.output {
        Format::Text => print::text(&format!("revision {revision}\n")),
        Format::Json => print::json(&serde_json::json!({ "revision": revision })),
    }
}

fn key(key: OsString) -> Result<Vec<u8>, CliError> {
    if key.is_empty() {
        return Err(CliError::Usage("a key has at least one byte".to_owned()));
    }
    Ok(key.into_vec())
}

fn stdin() -> Result<Bytes, CliError> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(VALUE_BYTES_MAX + 1).read_to_end(&mut value);
    read.map_err(|error| CliError::Failed(format!("cannot read the value from standard input: {error}")))?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(CliError::Failed(format!(
            "the value on standard input is above {VALUE_BYTES_MAX} bytes"
        )));
    }
    Ok(value.into())
}

/// What `get -o json` prints.
#[derive(Serialize)]
struct Shown {
    key: Text,
    value: Text,
    create_revision: Revision,
    mod_revision: Revision,
    version: u64,
    /// The store's, when it was read.
    revision: Revision,
}

impl Shown {
    fn new(key: &[u8], found: &Found) -> Self {
        Self {
            key: Text::new(key),
            value: Text::new(&found.content.value),
            create_revision: found.content.create_revision,
            mod_revision: found.content.mod_revision,
            version: found.content.version,
            revision: found.revision,
        }
    }
}
