//! What the system tells of another process, for people.

/// Returns the name of the program that a process runs, without its directory and without its arguments, which may hold
/// secrets; `None` where the system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn program(pid: u32) -> Option<String> {
    // `proc_pid_exe(5)`; a process of another user shows only its name (`proc_pid_comm(5)`).
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = path.as_deref().and_then(std::path::Path::file_name).map(|name| {
        let name = name.to_string_lossy();
        name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
    });
    name.or_else(|| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(name.trim_end().to_owned())
    })
}

/// Nothing is known of it here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn program(_pid: u32) -> Option<String> {
    None
}

/// The memory of a process and of everything that descends from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Resident bytes, all together: what several of them share counts for each.
    pub(crate) bytes: u64,
    /// How many processes there are.
    pub(crate) processes: u64,
}

/// Returns the memory of a process and its descendants; `None` where there is no such process or the system does not
/// say. Takes some ten microseconds for a thread of these processes (Linux), or starts `ps` (elsewhere).
#[cfg(target_os = "linux")]
pub(crate) fn tree(root: u32) -> Option<Tree> {
    let mut tree = Tree { bytes: resident(root)?, processes: 1 };
    let mut seen = std::collections::BTreeSet::from([root]);
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            if seen.insert(child)
                && let Some(bytes) = resident(child)
            {
                tree.bytes += bytes;
                tree.processes += 1;
                parents.push(child);
            }
        }
    }
    Some(tree)
}

/// Returns the resident bytes of a process (`proc_pid_status(5)`, VmRSS).
#[cfg(target_os = "linux")]
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Lists the children of a process (`proc_tid_children(5)`): those of each of its threads.
#[cfg(target_os = "linux")]
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// As on Linux, from the table of `ps`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn tree(root: u32) -> Option<Tree> {
    let output = std::process::Command::new("/bin/ps").args(["-axo", "pid=,ppid=,rss="]).output().ok()?;
    tree_in(&String::from_utf8_lossy(&output.stdout), root)
}

/// Returns the resident bytes of a process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let pid = pid.to_string();
    let output = std::process::Command::new("/bin/ps").args(["-o", "rss=", "-p", &pid]).output().ok()?;
    let kib: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
    Some(kib * 1024)
}

/// Reads lines of process, parent and resident KiB.
#[cfg(any(test, not(target_os = "linux")))]
fn tree_in(table: &str, root: u32) -> Option<Tree> {
    let rows: Vec<[u64; 3]> = table
        .lines()
        .filter_map(|line| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            numbers.try_into().ok()
        })
        .collect();
    let own = rows.iter().find(|[pid, ..]| *pid == u64::from(root))?;
    let mut tree = Tree { bytes: own[2] * 1024, processes: 1 };
    let mut seen = std::collections::BTreeSet::from([own[0]]);
    let mut parents = vec![own[0]];
    while let Some(parent) = parents.pop() {
        for [pid, _, kib] in rows.iter().filter(|[_, of, _]| *of == parent) {
            if seen.insert(*pid) {
                tree.bytes += kib * 1024;
                tree.processes += 1;
                parents.push(*pid);
            }
        }
    }
    Some(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_is_known_by_the_name_of_its_file() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(program(std::process::id()).as_deref(), own.file_name().unwrap().to_str());
        assert_eq!(program(u32::MAX), None);
    }

    #[test]
    fn a_tree_is_a_process_with_its_descendants() {
        let table = "  1 0 10\n 7 1 100\n 8 7 20\n 9 8 3\n 10 1 5000\nnonsense\n";
        assert_eq!(tree_in(table, 7), Some(Tree { bytes: 123 * 1024, processes: 3 }));
        assert_eq!(tree_in(table, 6), None);
        let own = tree(std::process::id()).unwrap();
        assert!(own.bytes > 100 * 1024 && own.processes >= 1, "{own:?}");
        assert_eq!(tree(u32::MAX), None);
    }
}
