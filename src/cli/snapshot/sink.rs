//! Where `snapshot save` puts what comes: a file that is checked before it gets its name, or a stream that is checked while
//! it passes, such as standard output or a pipe.

use std::io::{BufReader, PipeWriter, Write, pipe, stdout};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::super::CliError;
use super::super::file::{Partial, Target, failed, open_special};
use super::read;
use crate::replica::snapshot::file::{About, FileError, Totals};

/// What a snapshot is written to.
pub(super) enum Sink {
    /// A regular file, which it will replace.
    Replaces(Partial),
    /// Something that takes bytes as they come.
    Streams(Stream),
}

/// A snapshot that passes through.
pub(super) struct Stream {
    /// For messages.
    path: PathBuf,
    to: Box<dyn Write + Send>,
    /// Whether it goes to standard output.
    pub(super) is_output: bool,
    bytes: u64,
    check: Check,
}

/// Reads what passes, in a thread of its own.
struct Check {
    to: PipeWriter,
    result: JoinHandle<Result<(About, Totals), FileError>>,
}

impl Sink {
    pub(super) fn open(target: Target) -> Result<Self, CliError> {
        match target {
            Target::Regular(path) => Ok(Self::Replaces(Partial::create(&path)?)),
            Target::Output => Stream::new(Path::new("-"), Box::new(stdout()), true).map(Self::Streams),
            Target::Special(path) => {
                Stream::new(&path, Box::new(open_special(&path)?), false).map(Self::Streams)
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        match self {
            Self::Replaces(partial) => partial.write(bytes),
            Self::Streams(stream) => stream.write(bytes),
        }
    }
}

impl Stream {
    fn new(path: &Path, to: Box<dyn Write + Send>, is_output: bool) -> Result<Self, CliError> {
        let failed = |error| failed("check what is written to", path, &error);
        let (from, passes) = pipe().map_err(failed)?;
        let check = move || {
            let read = read(BufReader::with_capacity(1 << 20, from), |reader| {
                while reader.next_chunk()?.is_some() {}
                Ok(())
            });
            // The pipe is read up to here: what is written after damage goes nowhere.
            read
        };
        let result = std::thread::Builder::new().name("check".to_owned()).spawn(check).map_err(failed)?;
        let check = Check { to: passes, result };
        Ok(Self { path: path.to_owned(), to, is_output, bytes: 0, check })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.to.write_all(bytes).map_err(|error| failed("write", &self.path, &error))?;
        self.bytes += bytes.len() as u64;
        // It fails once the check has found damage, which the result tells.
        let _ = self.check.to.write_all(bytes);
        Ok(())
    }

    /// What the snapshot says of itself, if it is whole, and its size in bytes.
    pub(super) fn finish(mut self) -> Result<(About, Totals, u64), CliError> {
        self.to.flush().map_err(|error| failed("write", &self.path, &error))?;
        drop(self.check.to);
        let result = self.check.result.join();
        let checked =
            result.map_err(|_| CliError::Failed("the check of the snapshot panicked".to_owned()))?;
        let (about, totals) = checked.map_err(|error| {
            CliError::Failed(format!("the snapshot {error}; what was written cannot be used"))
        })?;
        Ok((about, totals, self.bytes))
    }
}
