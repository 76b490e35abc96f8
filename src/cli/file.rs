//! Files that commands write and read. What is written is for its owner alone and replaces what was there only once it is
//! whole and on the disk; links are followed; `-`, pipes and devices are written to as they are.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Write, stdin, stdout};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::CliError;

/// Links that are followed one after the other, as the system does.
const LINKS_MAX: usize = 40;
/// What is new is for its owner alone: backups hold everything.
const MODE_NEW: u32 = 0o600;

/// Where a command writes a file to.
pub(super) enum Target {
    /// A regular file, or one that is not there yet; links are resolved.
    Regular(PathBuf),
    /// Standard output.
    Output,
    /// A pipe or a device.
    Special(PathBuf),
}

impl Target {
    /// What `path` stands for.
    ///
    /// # Errors
    /// It is a folder or a socket, or standard output and that is a terminal.
    pub(super) fn of(path: &Path) -> Result<Self, CliError> {
        if is_named(path, "stdout", "1") {
            if stdout().is_terminal() {
                return Err(CliError::Usage(
                    "standard output is a terminal: redirect it to a file or a program".to_owned(),
                ));
            }
            return Ok(Self::Output);
        }
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::Regular(resolved(path)?));
            }
            Err(error) => return Err(failed("look at", path, &error)),
        };
        if kind.is_dir() {
            return Err(CliError::Usage(format!("{} is a folder: name a file", path.display())));
        }
        if kind.is_socket() {
            return Err(CliError::Usage(format!("{} is a socket: name a file", path.display())));
        }
        if kind.is_file() { Ok(Self::Regular(resolved(path)?)) } else { Ok(Self::Special(path.to_owned())) }
    }
}

/// `-`, or one of the names that the system has for a standard stream.
fn is_named(path: &Path, name: &str, number: &str) -> bool {
    let names = [format!("/dev/{name}"), format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")];
    path == Path::new("-") || names.iter().any(|name| path == Path::new(name))
}

/// Follows links, also to a file that is not there yet.
fn resolved(path: &Path) -> Result<PathBuf, CliError> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            // A relative link counts from its own folder.
            Ok(next) => path = path.parent().unwrap_or(Path::new("")).join(next),
            Err(_) if path.file_name().is_some() => return Ok(path),
            Err(_) => break,
        }
    }
    Err(CliError::Usage(format!("{} is no name for a file", path.display())))
}

/// Writes a small file whole.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    match Target::of(path)? {
        Target::Output => super::print::bytes(bytes),
        Target::Special(path) => {
            open_special(&path)?.write_all(bytes).map_err(|error| failed("write", &path, &error))
        }
        Target::Regular(path) => {
            let mut partial = Partial::create(&path)?;
            partial.write(bytes)?;
            partial.publish(&path)
        }
    }
}

/// Opens a pipe or a device to write to it. A pipe waits for its reader.
pub(super) fn open_special(path: &Path) -> Result<File, CliError> {
    OpenOptions::new().write(true).open(path).map_err(|error| failed("open", path, &error))
}

/// A file that is being written next to the one that it is to replace. Removed when dropped, unless published.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    file: File,
}

impl Partial {
    /// Between the name that the file is to have and what tells writers apart.
    pub(super) const MARK: &str = ".partial-";

    /// For the file `target`, a resolved path.
    pub(super) fn create(target: &Path) -> Result<Self, CliError> {
        // In a container every process has the number 1.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!("{}{}-{now}", Self::MARK, std::process::id()));
        let path = target.with_file_name(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE_NEW).open(&path);
        let file = file.map_err(|error| failed("create", &path, &error))?;
        // Says that it is being written. Where files cannot be locked, what is left behind stays there.
        let _ = file.try_lock();
        Ok(Self { path, file })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(|error| failed("write", &self.path, &error))
    }

    /// Gives it its name once it is on the disk, with mode and owner of the file that it replaces.
    pub(super) fn publish(self, target: &Path) -> Result<(), CliError> {
        if let Ok(before) = fs::metadata(target) {
            // Only root may give files away; for others it is their own already.
            let _ = fchown(&self.file, Some(before.uid()), Some(before.gid()));
            let mode = Permissions::from_mode(before.mode() & 0o7777);
            self.file.set_permissions(mode).map_err(|error| failed("set the mode of", &self.path, &error))?;
        }
        self.file.sync_all().map_err(|error| failed("flush", &self.path, &error))?;
        fs::rename(&self.path, target).map_err(|error| failed("rename", &self.path, &error))?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flushed = File::open(parent).and_then(|parent| parent.sync_all());
        flushed.map_err(|error| failed("flush", parent, &error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Once published it has another name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens what a command reads: a file, a pipe, or standard input for `-`.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if !is_named(path, "stdin", "0") {
        return Ok(Box::new(File::open(path)?));
    }
    if stdin().is_terminal() {
        return Err(io::Error::other("standard input is a terminal: redirect it from a file or a program"));
    }
    Ok(Box::new(stdin()))
}

pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_new_is_for_its_owner_and_what_is_replaced_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"one").unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"two"[..], 0o640));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        let (link, second) = (folder.path().join("link"), folder.path().join("deep/second"));
        symlink("deep/second", &link).unwrap();
        symlink("file", &second).unwrap();
        for text in ["new", "again"] {
            write(&link, text.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(folder.path().join("deep/file")).unwrap(), text);
        }
        symlink("circle", folder.path().join("circle")).unwrap();
        assert!(write(&folder.path().join("circle"), b"").is_err());
    }

    #[test]
    fn devices_are_written_to_and_folders_refused() {
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let error = write(Path::new("/dev/full"), b"x").unwrap_err().to_string();
        assert!(error.contains("cannot write /dev/full"), "{error}");
        assert_eq!(write(Path::new("/tmp"), b"").unwrap_err().exit_code(), 2);
    }
}
