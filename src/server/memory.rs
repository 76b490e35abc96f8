//! How much memory this process may use: its cgroup's limit, else what the machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// What is assumed where nothing says how much there is, in bytes.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// The memory that this process may use, in bytes.
pub(super) fn limit_bytes() -> u64 {
    limit_below(Path::new("/"))
}

/// With the files below `root`. A limit above what the machine has is none.
fn limit_below(root: &Path) -> u64 {
    let machine = machine_bytes(root).unwrap_or(u64::MAX);
    let limits = cgroup_files(root).into_iter().filter_map(|path| number(&path));
    let least = limits.chain([machine]).min().unwrap_or(machine);
    if least == u64::MAX { UNKNOWN_BYTES } else { least }
}

/// The files that may hold a limit: of version 2 and 1, of the process's own group, those above it, and the root, which
/// is all that a container sees.
fn cgroup_files(root: &Path) -> Vec<PathBuf> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| root.join(mount).join(group).join(file)));
    }
    files
}

/// `max` and what is no number are no limit.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn machine_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        limit_below(root.path())
    }

    #[test]
    fn the_least_limit_counts_and_without_one_the_machine() {
        let machine = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:   2048 kB\n");
        assert_eq!(limit(&[]), UNKNOWN_BYTES);
        assert_eq!(limit(&[machine]), 2 << 20);
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        assert_eq!(limit(&[machine, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")]), 2 << 20);
        assert_eq!(limit(&[machine, v2, ("sys/fs/cgroup/a/b/memory.max", "1048576\n")]), 1 << 20);
        assert_eq!(limit(&[machine, v2, ("sys/fs/cgroup/a/memory.max", "4096\n")]), 4096);
        assert_eq!(limit(&[machine, v2, ("sys/fs/cgroup/memory.max", "8192\n")]), 8192);
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n");
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(&[machine, v1, none]), 2 << 20);
        assert_eq!(
            limit(&[machine, v1, none, ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096")]),
            4096
        );
    }
}
