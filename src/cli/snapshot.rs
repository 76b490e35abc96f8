//! `kuberaft snapshot`: backups. `save` asks a running cluster, `inspect` and `restore` need none.

mod folder;
mod sink;
mod source;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use serde::Serialize;

use self::sink::Sink;
use super::client::{ClientFlags, block_on, unless_interrupted};
use super::endpoints::Endpoint;
use super::file::{Target, failed};
use super::output::{Layout, Output, utc};
use super::place::PlaceFlags;
use super::{CliError, print};
use crate::api::client::{Client, ClientError};
use crate::replica::snapshot::file::{About, FileError, Nowhere, Reader, Totals};
use crate::server::{Backup, RefoundError, Restored, restore};
use crate::tls::Connector;
use crate::types::{Name, Revision};

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// A node may pause its snapshot for so long, whatever the time limit of its first word is.
const PIECE_TIMEOUT_MIN: Duration = Duration::from_secs(30);

/// The commands below `snapshot`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Snapshot {
    /// Save the whole state, with every write acknowledged before, to a file; the cluster continues to serve meanwhile
    Save(Save),
    /// Show the backups in a folder, the newest first
    List(List),
    /// Verify every byte of a file and show what it holds
    Inspect(Inspect),
    /// Make a new cluster of one node out of a file; further nodes join it
    Restore(Restore),
}

/// The flags of `snapshot save`.
#[derive(Clone, Debug, Args)]
pub(super) struct Save {
    /// File to write; if it is there, it is replaced once the new one is whole. `-` is standard output
    #[arg(value_name = "FILE", required_unless_present = "dir", conflicts_with = "dir")]
    file: Option<PathBuf>,

    /// Folder to write to, under a name of the cluster's id and the time: kuberaft-ID-20260131T120000Z.snapshot
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Afterwards remove the oldest backups of this cluster in the folder, so that this many are left [default: all]
    #[arg(long, value_name = "COUNT", requires = "dir", conflicts_with = "file", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,

    #[command(flatten)]
    client: ClientFlags,

    #[command(flatten)]
    output: Output,
}

/// The flags of `snapshot list`.
#[derive(Clone, Debug, Args)]
pub(super) struct List {
    /// A folder that `snapshot save --dir` writes to
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// The flags of `snapshot inspect`.
#[derive(Clone, Debug, Args)]
pub(super) struct Inspect {
    /// A file that `snapshot save` wrote, `-` for standard input, or a folder: its newest backup
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// The flags of `snapshot restore`.
#[derive(Clone, Debug, Args)]
pub(super) struct Restore {
    /// A file that `snapshot save` wrote, `-` for standard input, or a folder: its newest backup
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Folder for the new node's data; must be empty or absent
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Name of the new node, the only voter of the new cluster at first
    #[arg(long, value_name = "NAME")]
    name: Name,

    /// Do it although the latch names another cluster than the snapshot's
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    place: PlaceFlags,

    #[command(flatten)]
    output: Output,
}

/// What is told of a file.
#[derive(Debug, Serialize)]
struct Report<'a> {
    file: &'a Path,
    file_bytes: u64,
    #[serde(flatten)]
    about: &'a About,
    #[serde(flatten)]
    totals: Totals,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<New>,
    /// Older backups that were removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<PathBuf>,
}

/// One backup of a folder; its first bytes are read, not all.
#[derive(Debug, Serialize)]
struct Listed {
    file: PathBuf,
    file_bytes: u64,
    #[serde(flatten)]
    about: Option<About>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What was made of a file.
#[derive(Debug, Serialize)]
struct New {
    cluster_id: String,
    node_id: String,
    name: String,
    data_dir: PathBuf,
    /// The revision that it begins with.
    revision: Revision,
    /// What became of the latch, or is to be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    latch: Option<String>,
}

/// Does what `snapshot` is asked for.
pub(super) fn run(args: &Snapshot) -> Result<(), CliError> {
    match args {
        Snapshot::Save(args) => save(args),
        Snapshot::List(args) => list(args),
        Snapshot::Inspect(args) => inspect(args),
        Snapshot::Restore(args) => restore_file(args),
    }
}

fn save(args: &Save) -> Result<(), CliError> {
    let sink = match (&args.file, &args.dir) {
        (Some(file), _) => Sink::open(Target::of(file)?)?,
        (None, Some(dir)) => Sink::Replaces(folder::begin(dir)?),
        (None, None) => return Err(CliError::Usage("give a file, or a folder with --dir".to_owned())),
    };
    let unsaved = |error: FileError| CliError::Failed(format!("the snapshot {error}; nothing was saved"));
    match block_on(unless_interrupted(download(&args.client, sink)))? {
        Sink::Replaces(partial) => {
            let (about, totals) = verify(&partial.path).map_err(unsaved)?;
            let target = match (&args.file, &args.dir) {
                (Some(file), _) => file.clone(),
                (None, dir) => dir.as_deref().unwrap_or(Path::new(".")).join(folder::name(&about)),
            };
            let Target::Regular(place) = Target::of(&target)? else {
                return Err(CliError::Failed(format!("{} was replaced meanwhile", target.display())));
            };
            partial.publish(&place)?;
            let removed = prune(args, &about, &target)?;
            let file_bytes = size(&place)?;
            let told = Report { removed, ..Report::new(&target, file_bytes, &about, totals) };
            report(&told, args.output)
        }
        Sink::Streams(stream) => {
            let is_output = stream.is_output;
            let (about, totals, file_bytes) = stream.finish()?;
            let file = args.file.as_deref().unwrap_or(Path::new("-"));
            let told = Report::new(file, file_bytes, &about, totals);
            if is_output {
                // Standard output holds the snapshot.
                note_part!("{}", table(&told));
                return Ok(());
            }
            report(&told, args.output)
        }
    }
}

fn prune(args: &Save, about: &About, saved: &Path) -> Result<Vec<PathBuf>, CliError> {
    let (Some(dir), Some(keep)) = (&args.dir, args.keep) else { return Ok(Vec::new()) };
    folder::prune(dir, about.cluster_id, saved, keep.into()).map_err(|error| {
        CliError::Failed(format!("{} was saved, but an older one stays: {error}", saved.display()))
    })
}

fn size(path: &Path) -> Result<u64, CliError> {
    Ok(fs::metadata(path).map_err(|error| failed("look at", path, &error))?.len())
}

fn list(args: &List) -> Result<(), CliError> {
    let look = |backup: folder::Backup| {
        let file_bytes = fs::metadata(&backup.path).map_or(0, |metadata| metadata.len());
        let first_bytes = File::open(&backup.path).map_err(FileError::Io);
        let (about, error) = match first_bytes.and_then(|file| read(BufReader::new(file), |_| Ok(()))) {
            Ok((about, _)) => (Some(about), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Listed { file: backup.path, file_bytes, about, error }
    };
    let listed: Vec<Listed> = folder::list(&args.dir)?.into_iter().map(look).collect();
    let lines = listed.iter().map(|Listed { file, file_bytes, about, error }| match about {
        Some(about) => {
            let (taken, revision, keys) = (utc(about.taken_unix_ms), about.revision, about.keys);
            format!("{}  {taken}  {file_bytes} bytes  revision {revision}  {keys} keys\n", file.display())
        }
        None => format!("{}  {}\n", file.display(), error.as_deref().unwrap_or_default()),
    });
    match args.output.layout() {
        Layout::Table => print::text(&lines.collect::<String>()),
        Layout::Json => print::json(&listed),
    }
}

/// The first endpoint that hands out a snapshot is the one.
async fn download(flags: &ClientFlags, mut sink: Sink) -> Result<Sink, CliError> {
    let mut refusals = Vec::new();
    let (tls, token) = (flags.endpoints.connector()?, flags.endpoints.token()?);
    for endpoint in flags.endpoints.all() {
        match tokio::time::timeout(flags.timeout.0, ask(&endpoint, tls.as_ref(), token.as_deref())).await {
            Ok(Ok(body)) => {
                let timeout = flags.timeout.0.max(PIECE_TIMEOUT_MIN);
                return receive(body, &mut sink, timeout).await.map(|()| sink);
            }
            Ok(Err(error)) => refusals.push(format!("{endpoint}: {error}")),
            Err(_) => refusals.push(format!("{endpoint}: no answer in {:?}", flags.timeout.0)),
        }
    }
    Err(CliError::Failed(format!(
        "no node gives a snapshot; give others with --endpoints\n  {}",
        refusals.join("\n  ")
    )))
}

async fn ask(
    endpoint: &Endpoint,
    tls: Option<&Connector>,
    token: Option<&str>,
) -> Result<hyper::body::Incoming, ClientError> {
    let tls = tls.filter(|_| endpoint.is_tls);
    let client = Client::connect_with(&endpoint.address.to_string(), tls).await?;
    Ok(client.with_token(token).snapshot().await?.into_body())
}

async fn receive(
    mut body: hyper::body::Incoming,
    sink: &mut Sink,
    timeout: Duration,
) -> Result<(), CliError> {
    let broken = |why: String| CliError::Failed(format!("the snapshot broke off: {why}; nothing was saved"));
    let mut progress = Progress::new();
    loop {
        let piece = tokio::time::timeout(timeout, body.frame()).await;
        let piece = piece.map_err(|_| broken(format!("nothing came for {timeout:?}")))?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| broken(error.to_string()))?;
        if let Ok(bytes) = piece.into_data() {
            sink.write(&bytes)?;
            progress.add(bytes.len());
        }
    }
    progress.end();
    Ok(())
}

/// Shows on a terminal how much has come.
struct Progress {
    is_shown: bool,
    bytes: u64,
    shown: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), bytes: 0, shown: Instant::now() }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.is_shown && self.shown.elapsed() >= PROGRESS_INTERVAL {
            self.shown = Instant::now();
            note_part!("\r{} MiB", self.bytes >> 20);
        }
    }

    fn end(&self) {
        if self.is_shown {
            note_part!("\r\u{1b}[K");
        }
    }
}

fn inspect(args: &Inspect) -> Result<(), CliError> {
    let file = folder::newest(&args.file)?;
    let (from, bytes) = source::open(&file)?;
    let read = read(from, |reader| reader.restore(Nowhere).map(drop));
    let (about, totals) = read.map_err(|error| RefoundError::File { path: file.clone(), error })?;
    report(&Report::new(&file, bytes.so_far(), &about, totals), args.output)
}

/// Reads a snapshot to its end.
fn verify(path: &Path) -> Result<(About, Totals), FileError> {
    let file = File::open(path).map_err(FileError::Io)?;
    read(BufReader::with_capacity(1 << 20, file), |reader| {
        while reader.next_chunk()?.is_some() {}
        Ok(())
    })
}

/// Opens a snapshot and reads of it what `to_end` does.
fn read<R: Read>(
    from: R,
    to_end: impl FnOnce(&mut Reader<R>) -> Result<(), FileError>,
) -> Result<(About, Totals), FileError> {
    let mut reader = Reader::open(from)?;
    to_end(&mut reader)?;
    Ok((reader.about().clone(), reader.totals()))
}

fn restore_file(args: &Restore) -> Result<(), CliError> {
    let file = folder::newest(&args.file)?;
    args.place.check_name(args.name.as_str())?;
    let latch = args.place.latch();
    let may_replace = |of| latch.as_ref().map_or(Ok(()), |latch| latch.check(of, args.force));
    let place = args.place.place();
    let (from, bytes) = source::open(&file)?;
    let backup = Backup { file: &file, from };
    let restored = restore::<CliError>(backup, &args.data_dir, args.name.as_str(), place, may_replace)?;
    let Restored { about, totals, cluster_id, node_id, revision, warning } = restored;
    if let Some(warning) = warning {
        note!("warning: {warning}");
    }
    let new = New {
        cluster_id: cluster_id.to_string(),
        node_id: node_id.to_string(),
        name: args.name.to_string(),
        data_dir: args.data_dir.clone(),
        revision,
        latch: latch.map(|latch| latch.replace(cluster_id).told()),
    };
    report(&Report { restored: Some(new), ..Report::new(&file, bytes.so_far(), &about, totals) }, args.output)
}

impl<'a> Report<'a> {
    fn new(file: &'a Path, file_bytes: u64, about: &'a About, totals: Totals) -> Self {
        Self { file, file_bytes, about, totals, restored: None, removed: Vec::new() }
    }
}

fn report(report: &Report, output: Output) -> Result<(), CliError> {
    match output.layout() {
        Layout::Table => print::text(&table(report)),
        Layout::Json => print::json(report),
    }
}

fn table(report: &Report) -> String {
    let Report { file, file_bytes, about, totals, restored, removed } = report;
    let members: Vec<&str> =
        about.configuration.members().into_values().map(|member| member.name.as_str()).collect();
    let rows = [
        ("FILE", format!("{} ({file_bytes} bytes, whole)", file.display())),
        (
            "TAKEN",
            format!("{} by node {}, version {}", utc(about.taken_unix_ms), about.node_id, about.version),
        ),
        ("CLUSTER", format!("{} of {}", about.cluster_id, members.join(", "))),
        ("ENTRY", about.position.to_string()),
        ("REVISION", about.revision.to_string()),
        ("KEYS", about.keys.to_string()),
        ("OUTCOMES", totals.records.saturating_sub(about.keys).to_string()),
        ("DIGEST", about.state_hash.clone()),
    ];
    let mut text: String =
        rows.iter().flat_map(|(name, value)| [format!("{name:<9} "), value.clone(), "\n".into()]).collect();
    for file in removed {
        let _ = writeln!(text, "REMOVED   {}", file.display());
    }
    if let Some(New { cluster_id, node_id, name, data_dir, revision, latch }) = restored {
        let data_dir = data_dir.display();
        let _ = write!(
            text,
            "\nRestored to {data_dir}: node {node_id}, the only voter of the new cluster {cluster_id}.\n\
             Its revision is {revision}: none from before fits it.\n\
             Next: kuberaft serve --name {name} --data-dir {data_dir}\n\
             Other nodes join it with empty directories; with --initial-cluster, list this node among them.\n{}",
            latch.as_deref().unwrap_or_default()
        );
    }
    text
}
