//! Whose a data directory is: a command that root runs on it leaves it to the user whose node will open it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The user and the group that a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ownership {
    root: PathBuf,
    uid: u32,
    gid: u32,
}

impl Ownership {
    /// That of `root`, or of the nearest folder above it that is there; before anything is written. `None` unless this
    /// process is root and `root` is another user's: then what it writes is that user's anyway.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let found = root.ancestors().find_map(|path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            fs::metadata(path).ok()
        })?;
        let (uid, gid) = (found.uid(), found.gid());
        (geteuid().is_root() && uid != 0).then(|| Self { root: root.to_owned(), uid, gid })
    }

    /// Gives everything in the directory to its owner. Says what is left to be done if that fails.
    pub(super) fn restore(&self) -> Option<String> {
        let error = self.give(&self.root).err()?;
        let (root, uid, gid) = (self.root.display(), self.uid, self.gid);
        Some(format!(
            "{root} cannot be given back to its owner ({error}), so a node of user {uid} cannot open it: \
             chown -R {uid}:{gid} {root}"
        ))
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        lchown(path, Some(self.uid), Some(self.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_wrote_belongs_to_the_owner_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/data");
        if !geteuid().is_root() {
            assert_eq!(Ownership::of(&root), None);
            return;
        }
        lchown(folder.path(), Some(1234), Some(4321)).unwrap();
        let ownership = Ownership::of(&root).unwrap();
        fs::create_dir_all(root.join("sled")).unwrap();
        fs::write(root.join("sled/db"), "x").unwrap();
        assert_eq!(ownership.restore(), None);
        for path in [root.clone(), root.join("sled"), root.join("sled/db")] {
            let metadata = fs::metadata(path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
        }
        let gone = Ownership { root: root.join("gone"), uid: 1, gid: 2 };
        assert!(gone.restore().unwrap().contains("chown -R 1:2"));
    }
}
