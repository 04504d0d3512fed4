//! Which program a file is, as far as that matters before it runs: codexd itself, or one for another machine.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::os::program_mark::{head, is_marked};

/// Returns whether a file is codexd: the program of this process, also by another name (a symbolic or a hard
/// link), or a copy of it or of another version.
///
/// A script that runs codexd is not seen here. It shows when it runs, see [`nested`](super::nested).
pub(crate) fn is_codexd(path: &Path) -> bool {
    let same = |other: &fs::Metadata| {
        let own = std::env::current_exe().and_then(fs::metadata);
        own.is_ok_and(|own| own.dev() == other.dev() && own.ino() == other.ino())
    };
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && (same(&metadata) || is_marked(path)))
}

/// Returns that a program is made for another machine, or that it is none; `None` where that is not known, or where
/// the system may know a way to run it all the same.
pub(crate) fn foreign(path: &Path) -> Option<String> {
    // macOS runs programs for another processor.
    if !cfg!(target_os = "linux") || runs_other_formats() {
        return None;
    }
    if let Some(machine) = made_for_another_machine(path) {
        return Some(machine);
    }
    let head = head(path)?;
    (!head.starts_with(b"\x7fELF") && !head.starts_with(b"#!"))
        .then(|| "it is no program of this system".to_owned())
}

/// Says for which system and processor a program is made if that is not this one.
pub(crate) fn made_for_another_machine(path: &Path) -> Option<String> {
    let machine = machine(&head(path)?)?;
    let (system, processor) = (own_system()?, std::env::consts::ARCH);
    // Beside its own, these processors run programs of their 32-bit predecessors.
    let runs = machine.processor == processor
        || [("x86_64", "x86"), ("aarch64", "arm")].contains(&(processor, machine.processor.as_str()));
    let what = match machine.system == system {
        true if runs => return None,
        true => "processor",
        false => "system",
    };
    let Machine { system: other_system, processor: other } = machine;
    Some(format!("it is for another {what} ({other_system} on {other}; this is {system} on {processor})"))
}

/// Returns whether the kernel is configured to run other formats, for instance by an emulator
/// (`/proc/sys/fs/binfmt_misc`, `binfmt_misc` of the kernel's documentation).
fn runs_other_formats() -> bool {
    let formats = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    formats.map(|entry| entry.file_name()).any(|name| name != "register" && name != "status")
}

/// The architecture of a program, as `std::env::consts::ARCH` names it.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    system: &'static str,
    processor: String,
}

fn own_system() -> Option<&'static str> {
    match std::env::consts::OS {
        "linux" => Some("Linux"),
        "macos" => Some("macOS"),
        _ => None,
    }
}

/// Reads the header of a program: `elf(5)`, `e_machine`; `mach/machine.h`, `cputype`. Of those for more than one
/// processor nothing is reported.
fn machine(head: &[u8]) -> Option<Machine> {
    if head.starts_with(b"\x7fELF") {
        let little = head.get(5)? == &1;
        let field: [u8; 2] = head.get(18..20)?.try_into().ok()?;
        let number = if little { u16::from_le_bytes(field) } else { u16::from_be_bytes(field) };
        let processor = match number {
            3 => "x86",
            40 => "arm",
            62 => "x86_64",
            183 => "aarch64",
            243 => "riscv64",
            other => {
                return Some(Machine { system: "Linux", processor: format!("processor {other} of elf(5)") });
            }
        };
        return Some(Machine { system: "Linux", processor: processor.to_owned() });
    }
    // MH_MAGIC_64, as it lies in memory on the processors of today.
    if head.starts_with(&0xfeed_facf_u32.to_le_bytes()) {
        let field: [u8; 4] = head.get(4..8)?.try_into().ok()?;
        let processor = match u32::from_le_bytes(field) {
            0x0100_0007 => "x86_64".to_owned(),
            0x0100_000c => "aarch64".to_owned(),
            other => format!("processor {other:#x} of Mach-O"),
        };
        return Some(Machine { system: "macOS", processor });
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::os::unsafe_calls::PROGRAM_MARK;

    #[test]
    fn the_own_program_is_known_by_every_name_it_has() {
        let dir = crate::os::test_dir::test_dir();
        let own = std::env::current_exe().unwrap();
        let (link, hard, copy) = (dir.path().join("codex"), dir.path().join("hard"), dir.path().join("copy"));
        symlink(&own, &link).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        fs::copy(&own, &copy).unwrap();
        for path in [&own, &link, &copy] {
            assert!(is_codexd(path), "{}", path.display());
        }
        // Not every file system has them, and not between every two directories.
        if fs::hard_link(&own, &hard).is_ok() {
            assert!(is_codexd(&hard));
        }
        for other in [Path::new("/bin/sh"), dir.path(), &dir.path().join("dangling"), Path::new("/nowhere")] {
            assert!(!is_codexd(other), "{}", other.display());
        }
    }

    #[test]
    fn another_version_is_known_by_its_mark() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("codex");
        // As another build would: the rest of the file is another one.
        let mut program = fs::read(std::env::current_exe().unwrap()).unwrap();
        program.truncate(64 << 10);
        fs::write(&path, &program).unwrap();
        assert!(is_codexd(&path));
        let at = memchr::memmem::find(&program, PROGRAM_MARK.as_bytes()).unwrap();
        program[at] = b'?';
        fs::write(&path, &program).unwrap();
        assert!(!is_codexd(&path));
    }

    #[test]
    fn the_machine_a_program_is_made_for_is_read_from_its_header() {
        let elf = |machine: u16| {
            let mut head = b"\x7fELF\x02\x01\x01".to_vec();
            head.resize(18, 0);
            head.extend(machine.to_le_bytes());
            head
        };
        let of = |head: &[u8]| machine(head).map(|it| format!("{} {}", it.system, it.processor));
        assert_eq!(of(&elf(62)).as_deref(), Some("Linux x86_64"));
        assert_eq!(of(&elf(183)).as_deref(), Some("Linux aarch64"));
        assert_eq!(of(&elf(21)).as_deref(), Some("Linux processor 21 of elf(5)"));
        let mach = [0xfeed_facf_u32.to_le_bytes(), 0x0100_000c_u32.to_le_bytes()].concat();
        assert_eq!(of(&mach).as_deref(), Some("macOS aarch64"));
        assert_eq!(of(b"\x7fELF"), None);
        assert_eq!(of(b"#!/bin/sh"), None);
        let own = std::env::current_exe().unwrap();
        assert_eq!((foreign(&own), made_for_another_machine(&own)), (None, None));
        let dir = crate::os::test_dir::test_dir();
        let reported = |head: &[u8]| {
            let path = dir.path().join("program");
            fs::write(&path, head).unwrap();
            made_for_another_machine(&path)
        };
        assert!(
            reported(&elf(21))
                .unwrap()
                .contains("for another processor (Linux on processor 21 of elf(5); this is")
        );
        if cfg!(target_os = "linux") {
            assert!(
                reported(&mach).unwrap().contains("for another system (macOS on aarch64; this is Linux on")
            );
        }
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            assert_eq!(reported(&elf(3)), None);
        }
    }
}
