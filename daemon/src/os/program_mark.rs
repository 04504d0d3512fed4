//! The mark by which a file is known as codexd without being run, and the version beside it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::plain_file;
use super::unsafe_calls::{PROGRAM_MARK, VERSION_BYTES};

/// Bytes at the start of a program in which its mark stands: linkers put notes right after the headers of an ELF
/// file, and in a Mach-O file the mark is the name of a section, which the headers hold.
const HEAD_BYTES: u64 = 64 << 10;

/// Returns the bytes at the start of a file.
pub(crate) fn head(path: &Path) -> Option<Vec<u8>> {
    read_head(plain_file::open(path).ok()?)
}

fn read_head(file: File) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Returns whether a file is codexd, of whatever version.
pub(crate) fn is_marked(path: &Path) -> bool {
    head(path).is_some_and(|head| find(&head).is_some())
}

/// Returns the version of codexd that a file is; `None` if it is none, and for versions and systems whose mark has no
/// version beside it.
pub(crate) fn version(path: &Path) -> Option<String> {
    let head = head(path)?;
    let rest = &head[find(&head)? + PROGRAM_MARK.len()..];
    let text = rest.get(..VERSION_BYTES)?.split(|byte| *byte == 0).next()?;
    let version = std::str::from_utf8(text).ok()?;
    let is_version = version.starts_with(|first: char| first.is_ascii_digit())
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte));
    is_version.then(|| version.to_owned())
}

fn find(head: &[u8]) -> Option<usize> {
    memchr::memmem::find(head, PROGRAM_MARK.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_beside_the_mark() {
        let own = std::env::current_exe().unwrap();
        assert!(is_marked(&own));
        if cfg!(target_os = "linux") {
            assert_eq!(version(&own).as_deref(), Some(env!("CARGO_PKG_VERSION")));
        }
        let dir = crate::os::test_dir::test_dir();
        let file = dir.path().join("codexd");
        let version_of = |beside: &[u8]| {
            std::fs::write(&file, [b"ELF", PROGRAM_MARK.as_bytes(), beside].concat()).unwrap();
            assert!(is_marked(&file));
            version(&file)
        };
        let padded = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(VERSION_BYTES, 0);
            bytes
        };
        assert_eq!(version_of(&padded("1.20.0-rc.1")).as_deref(), Some("1.20.0-rc.1"));
        // As versions before this one wrote it: something else follows.
        for other in [&padded("GNU")[..], &padded(""), &padded("1 2"), &[0xff; VERSION_BYTES], b"1.2"] {
            assert_eq!(version_of(other), None, "{other:?}");
        }
    }
}
