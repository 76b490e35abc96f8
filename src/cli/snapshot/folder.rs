//! A folder of backups: how they are called, which is the newest, and which are to go.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::super::CliError;
use super::super::file::{Partial, failed};
use super::super::output::utc;
use crate::replica::snapshot::file::About;
use crate::types::ClusterId;

const PREFIX: &str = "kuberaft-";
const SUFFIX: &str = ".snapshot";
/// What a backup is called while it is written, before it is known when it was taken.
const UNNAMED: &str = "kuberaft.snapshot";

/// A file in the folder that is called like a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backup {
    pub(super) path: PathBuf,
    /// The cluster that it is of, 16 hex digits.
    pub(super) cluster: String,
    /// When it was taken, as `20260131T120000Z`: in the order of time, too.
    stamp: String,
}

/// `kuberaft-<cluster>-20260131T120000Z.snapshot`.
pub(super) fn name(about: &About) -> String {
    let digits: String = utc(about.taken_unix_ms).chars().filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at(digits.len().saturating_sub(6));
    format!("{PREFIX}{}-{day}T{time}Z{SUFFIX}", about.cluster_id)
}

/// A file for the next backup, under a temporary name. Those that killed writers left behind are removed.
pub(super) fn begin(folder: &Path) -> Result<Partial, CliError> {
    let entries = fs::read_dir(folder).map_err(|error| failed("read", folder, &error))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let file_name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // Whoever still writes it holds its lock.
        let is_left = || File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if file_name.starts_with(&format!(".{UNNAMED}{}", Partial::MARK)) && is_left() {
            fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?;
        }
    }
    Partial::create(&folder.join(UNNAMED))
}

/// All backups in the folder, the newest first. Other files are none of this program's business.
pub(super) fn list(folder: &Path) -> Result<Vec<Backup>, CliError> {
    let mut backups = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed("read", folder, &error))? {
        let entry = entry.map_err(|error| failed("read", folder, &error))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        backups.extend(parse(entry.path()).filter(|_| is_file));
    }
    backups.sort_by(|a, b| (&b.stamp, &b.path).cmp(&(&a.stamp, &a.path)));
    Ok(backups)
}

fn parse(path: PathBuf) -> Option<Backup> {
    let name = path.file_name()?.to_str()?;
    let (cluster, stamp) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    let is_id = cluster.len() == 16 && cluster.bytes().all(|byte| byte.is_ascii_hexdigit());
    let form = stamp.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    let is_stamp = form.eq(*b"00000000T000000Z");
    let (cluster, stamp) = (cluster.to_owned(), stamp.to_owned());
    (is_id && is_stamp).then_some(Backup { path, cluster, stamp })
}

/// The file itself, or a folder's newest backup. Of two clusters' backups none is the newest: they have nothing to do
/// with each other.
pub(super) fn newest(path: &Path) -> Result<PathBuf, CliError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let backups = list(path)?;
    let Some(newest) = backups.first() else {
        return Err(CliError::Failed(format!("{} holds no backup ({PREFIX}…{SUFFIX})", path.display())));
    };
    if let Some(other) = backups.iter().find(|backup| backup.cluster != newest.cluster) {
        return Err(CliError::Usage(format!(
            "{} holds backups of several clusters; name a file, for example {} or {}",
            path.display(),
            newest.path.display(),
            other.path.display()
        )));
    }
    Ok(newest.path.clone())
}

/// Removes the oldest backups of the cluster until `keep` are left, never the one that was just saved, whatever
/// clocks say, and never another cluster's. Returns what was removed.
pub(super) fn prune(
    folder: &Path,
    cluster: ClusterId,
    saved: &Path,
    keep: usize,
) -> Result<Vec<PathBuf>, CliError> {
    let cluster = cluster.to_string();
    let others = list(folder)?.into_iter().filter(|one| one.cluster == cluster && one.path != saved);
    let mut removed = Vec::new();
    for Backup { path, .. } in others.skip(keep.saturating_sub(1)) {
        fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?;
        removed.push(path);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "00000000000000aa";
    const B: &str = "00000000000000bb";

    fn backup(cluster: &str, day: u32) -> String {
        format!("kuberaft-{cluster}-202601{day:02}T120000Z.snapshot")
    }

    /// A folder with these files in it.
    fn folder(names: &[String]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_of_the_same_cluster_go_and_nothing_else() {
        let foreign = ["notes.txt", "kuberaft-aa-1.snapshot", ".kuberaft.snapshot.partial-1-2", "x.snapshot"];
        let mut all: Vec<String> = foreign.map(str::to_owned).into();
        all.extend((1..=5).map(|day| backup(A, day)));
        all.push(backup(B, 1));
        let folder = folder(&all);
        fs::create_dir(folder.path().join(backup(A, 6))).unwrap();
        let saved = folder.path().join(backup(A, 5));
        let cluster: ClusterId = A.parse().unwrap();

        assert_eq!(prune(folder.path(), cluster, &saved, 5).unwrap(), Vec::<PathBuf>::new());
        let removed = prune(folder.path(), cluster, &saved, 2).unwrap();
        assert_eq!(removed, [3, 2, 1].map(|day| folder.path().join(backup(A, day))));
        let mut left: Vec<String> = foreign.map(str::to_owned).into();
        left.extend([backup(A, 4), backup(A, 5), backup(A, 6), backup(B, 1)]);
        left.sort();
        assert_eq!(names(folder.path()), left);
    }

    #[test]
    fn the_one_just_saved_stays_though_its_clock_is_behind() {
        let folder = folder(&[backup(A, 1), backup(A, 2), backup(A, 3)]);
        let saved = folder.path().join(backup(A, 1));
        prune(folder.path(), A.parse().unwrap(), &saved, 2).unwrap();
        assert_eq!(names(folder.path()), [backup(A, 1), backup(A, 3)]);
        prune(folder.path(), A.parse().unwrap(), &saved, 1).unwrap();
        assert_eq!(names(folder.path()), [backup(A, 1)]);
    }

    #[test]
    fn a_folder_stands_for_its_newest_backup_of_one_cluster() {
        let one = folder(&[backup(A, 2), backup(A, 9), backup(A, 10), "zzz".into()]);
        assert_eq!(newest(one.path()).unwrap(), one.path().join(backup(A, 10)));
        let file = one.path().join("zzz");
        assert_eq!(newest(&file).unwrap(), file);
        let two = folder(&[backup(A, 2), backup(B, 1)]);
        let refused = newest(two.path()).unwrap_err().to_string();
        assert!(refused.contains("several clusters") && refused.contains(&backup(B, 1)), "{refused}");
        let none = folder(&[]);
        assert!(newest(none.path()).unwrap_err().to_string().contains("no backup"));
    }

    #[test]
    fn what_killed_writers_left_goes_and_what_is_being_written_stays() {
        let folder = folder(&[".kuberaft.snapshot.partial-1-2".into(), ".other.partial-1-2".into()]);
        let writing = begin(folder.path()).unwrap();
        assert_eq!(names(folder.path()).len(), 2, "the one left is gone");
        let second = begin(folder.path()).unwrap();
        assert_eq!(names(folder.path()).len(), 3, "the first one is still written");
        drop((writing, second));
        assert_eq!(names(folder.path()), [".other.partial-1-2"]);
    }
}
