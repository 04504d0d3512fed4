//! The one place with `unsafe`: what runs in the child between fork and exec, programs that are run in place of
//! this one, the mark of this program, a parameter of the allocator, connections that are accepted, descriptors that are
//! watched, and taking over what a service manager hands in.
#![allow(unsafe_code, reason = "what is set up here has no safe interface")]

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::libc::c_char;
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

#[cfg(target_os = "linux")]
use super::mappings;

/// What every build of codexd has among the first bytes of its file, see [`program_mark`](super::program_mark).
pub(crate) const PROGRAM_MARK: &str = "__codexd_program";

/// Bytes for the version after the mark; the rest of them is 0.
pub(crate) const VERSION_BYTES: usize = 32;

/// Bytes of the mark and the version.
const DESCRIPTION_BYTES: usize = PROGRAM_MARK.len() + VERSION_BYTES;

/// A note of ELF, as `elf(5)` lays it out.
#[repr(C)]
struct Note {
    name_bytes: u32,
    description_bytes: u32,
    kind: u32,
    name: [u8; 8],
    description: [u8; DESCRIPTION_BYTES],
}

// SAFETY: nothing is called or replaced by these names. A section `.note.*` is of the type SHT_NOTE, which linkers
// keep; the layout is that of a note. On macOS the name of the section is the mark.
#[used]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".note.codexd"))]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__TEXT,__codexd_program"))]
static PROGRAM: Note = Note {
    name_bytes: 7,
    description_bytes: DESCRIPTION_BYTES as u32,
    kind: 1,
    name: *b"codexd\0\0",
    description: description(),
};

/// Returns the mark and the version behind it.
const fn description() -> [u8; DESCRIPTION_BYTES] {
    let (mark, version) = (PROGRAM_MARK.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes());
    assert!(version.len() < VERSION_BYTES);
    let mut bytes = [0; DESCRIPTION_BYTES];
    let mut at = 0;
    while at < mark.len() + version.len() {
        bytes[at] = if at < mark.len() { mark[at] } else { version[at - mark.len()] };
        at += 1;
    }
    bytes
}

/// A program with its arguments and its environment, ready to be run: what [`Image::exec`] needs is all here, so
/// that it may be called between fork and exec.
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Image {
    program: CString,
    /// Own the texts to which the pointers lead.
    _texts: [Vec<CString>; 2],
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

// SAFETY: the pointers lead to the texts beside them, which are on the heap, stay where they are when this is
// moved, and are never changed.
unsafe impl Send for Image {}
// SAFETY: as above; nothing is ever written through them.
unsafe impl Sync for Image {}

impl Image {
    /// Makes one; `arguments` begins with the name of the program as that is to see it.
    ///
    /// # Errors
    ///
    /// When a text has a NUL inside.
    pub(crate) fn new(
        program: &Path,
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Image> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let arguments = arguments.into_iter().map(|it| text(&it)).collect::<io::Result<Vec<_>>>()?;
        let variable = |(name, value): (OsString, OsString)| {
            text(OsStr::from_bytes(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        };
        let environment = environment.into_iter().map(variable).collect::<io::Result<Vec<_>>>()?;
        let pointers = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        Ok(Image {
            program: text(program.as_os_str())?,
            arguments: pointers(&arguments),
            environment: pointers(&environment),
            _texts: [arguments, environment],
        })
    }

    /// Makes one with the environment of this process, but without the variables that are `gone`, and with those of
    /// `set` as they are there.
    ///
    /// # Errors
    ///
    /// As [`Image::new`].
    pub(crate) fn inheriting(
        program: &Path,
        arguments: impl IntoIterator<Item = OsString>,
        gone: &[&str],
        set: &[(&str, OsString)],
    ) -> io::Result<Image> {
        let kept =
            |name: &OsString| !gone.iter().chain(set.iter().map(|(name, _)| name)).any(|other| name == other);
        let set = set.iter().map(|(name, value)| (OsString::from(name), value.clone()));
        Image::new(program, arguments, std::env::vars_os().filter(|(name, _)| kept(name)).chain(set))
    }

    /// Makes this process that program.
    ///
    /// Unlike `execvp(3)`, by which the standard library runs programs, never hands a file that the system
    /// refuses to run (ENOEXEC: made for another processor, torn, without `#!`) to a shell.
    ///
    /// # Errors
    ///
    /// With the system's error; then nothing has changed.
    pub(crate) fn exec(&self) -> Result<Infallible, Errno> {
        // SAFETY: all texts end with a NUL, both arrays with a null pointer, and they live as long as `self`.
        unsafe {
            nix::libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr())
        };
        Err(Errno::last())
    }
}

/// Makes this process `image`, as the child of a shell would begin: with the default reaction to SIGPIPE, which the
/// standard library has this process ignore (a program that is run in its place would keep that, `signal(7)`).
///
/// # Errors
///
/// With the system's error.
pub(crate) fn become_program(image: &Image) -> Result<Infallible, Errno> {
    // SAFETY: the default reaction calls nothing of this process.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    image.exec()
}

/// Has the child run `image` instead of the program of `command`.
pub(crate) fn run_instead(command: &mut std::process::Command, image: Image) {
    // SAFETY: execve is async-signal-safe, and the error is made from an errno.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(command, move || match image.exec() {
            Err(errno) => Err(io::Error::from_raw_os_error(errno as i32)),
        });
    }
}

/// Has the child run `image` instead of the program of `command`, ties its life to that of this thread, and gives it
/// the default reaction to signals and, with `open_files`, these soft and hard limits on open files.
///
/// An ignored SIGINT, SIGHUP or SIGQUIT is inherited through exec (`signal(7)`), for instance from
/// `nohup`; codex would keep it. A limit raised for the daemon would be inherited as well.
pub(crate) fn prepare_child(command: &mut Command, open_files: Option<(rlim_t, rlim_t)>, image: Image) {
    #[cfg(target_os = "linux")]
    let parent = nix::unistd::getpid();
    // SAFETY: only async-signal-safe calls (`signal-safety(7)`): prctl, getppid, signal, execve; setrlimit is not
    // listed there and is a bare system call. No allocation: the errors are made from an errno.
    unsafe {
        command.pre_exec(move || {
            for number in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
                signal(number, SigHandler::SigDfl)?;
            }
            if let Some((soft, hard)) = open_files {
                setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
            }
            #[cfg(target_os = "linux")]
            {
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                // The parent may have ended before the call: then the signal would never come.
                if nix::unistd::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
                }
            }
            match image.exec() {
                Err(errno) => Err(io::Error::from_raw_os_error(errno as i32)),
            }
        });
    }
}

/// Takes ownership of a descriptor that the service manager opened for this process before it began
/// (`sd_listen_fds(3)`).
///
/// The caller has found the number in the environment that was made for this process, asks once for each
/// number, and does so before anything else could have opened or closed descriptors.
pub(crate) fn take_inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: by the contract above nothing else in this process owns the descriptor. That it is open was
    // checked when its close-on-exec flag was set.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Returns the sockets that launchd has opened for this job under `name` (`launch(3)`,
/// `launch_activate_socket`).
///
/// # Errors
///
/// The error number: ENOENT when the job has no sockets of that name, ESRCH when this process is no job of
/// launchd's, EALREADY when they were taken before.
#[cfg(target_os = "macos")]
pub(crate) fn launch_activate_socket(name: &std::ffi::CStr) -> Result<Vec<OwnedFd>, Errno> {
    use nix::libc::{c_char, c_int, free, size_t};
    unsafe extern "C" {
        fn launch_activate_socket(name: *const c_char, fds: *mut *mut c_int, count: *mut size_t) -> c_int;
    }
    let mut fds: *mut c_int = std::ptr::null_mut();
    let mut count: size_t = 0;
    // SAFETY: the name ends with a NUL; both places may be written.
    let error = unsafe { launch_activate_socket(name.as_ptr(), &raw mut fds, &raw mut count) };
    if error != 0 {
        return Err(Errno::from_raw(error));
    }
    if fds.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: on success `fds` leads to `count` descriptors which are the caller's from now on, and to
    // memory which the caller frees.
    unsafe {
        let sockets =
            std::slice::from_raw_parts(fds, count).iter().map(|fd| OwnedFd::from_raw_fd(*fd)).collect();
        free(fds.cast());
        Ok(sockets)
    }
}

/// Returns how many bytes that were written to a Unix socket its other end has not read (`unix(7)`, SIOCOUTQ);
/// `None` where the system does not report it.
#[cfg(target_os = "linux")]
pub(crate) fn unread_bytes(socket: impl AsFd) -> Option<usize> {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, and the request (TIOCOUTQ is the same number) writes one int.
    let result = unsafe { nix::libc::ioctl(socket.as_fd().as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
    (result == 0).then(|| usize::try_from(bytes).ok())?
}

/// There is no journal elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unread_bytes(_socket: impl AsFd) -> Option<usize> {
    None
}

/// Bytes of a buffer from which on its memory goes back to the system as soon as it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: nix::libc::c_int = 128 << 10;

/// Has the memory of long buffers go back to the system when they are freed. By itself, the allocator of glibc raises
/// the limit for that with each one that is freed, up to 32 MiB (`mallopt(3)`); after that, a backlog once had is kept.
pub(crate) fn give_back_long_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the call takes two integers and changes a parameter of the allocator. One that it does not accept
        // changes nothing.
        let _ = unsafe { nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
    }
}

/// Bytes at the end of an arena from which on the allocator of glibc gives them back (`mallopt(3)`, its default).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIMMED_BYTES: nix::libc::c_int = 128 << 10;

/// Gives back to the system what the allocator of glibc keeps of freed memory (`malloc_trim(3)`), and what this thread's
/// arena keeps at its end.
pub(crate) fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::libc::{M_TRIM_THRESHOLD, mallopt};
        // SAFETY: both calls take integers, lock what they look at, and touch free memory only.
        unsafe {
            // `malloc_trim` leaves the end of all arenas but the first; freeing a chunk of more than 64 KiB
            // (`FASTBIN_CONSOLIDATION_THRESHOLD` in malloc.c) looks at it.
            mallopt(M_TRIM_THRESHOLD, 0);
            drop(std::hint::black_box(Vec::<u8>::with_capacity(96 << 10)));
            mallopt(M_TRIM_THRESHOLD, TRIMMED_BYTES);
            nix::libc::malloc_trim(0);
        }
    }
}

/// Drops the pages of this process that are [not needed](mappings::discardable). Pages of a file are read from it again when
/// they are needed, others are zero then (`madvise(2)`, MADV_DONTNEED).
#[cfg(target_os = "linux")]
#[inline(never)]
pub(crate) fn discard_unneeded_pages() {
    let Ok(text) = std::fs::read_to_string("/proc/self/maps") else { return };
    let here = 0_u8;
    for range in mappings::discardable(&text, std::ptr::from_ref(&here).addr()) {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: by `discardable`, the pages are as their file has them, or belong to calls that have returned: below the
        // stack pointer nothing lives but a red zone of 128 bytes and calls to come. The ranges were made before; this loop
        // calls nothing that lies 16 KiB deeper. Where the range is not mapped any more, the call changes nothing.
        let _ = unsafe { nix::libc::madvise(start, range.len(), nix::libc::MADV_DONTNEED) };
    }
}

/// Accepts a connection, which does not block.
///
/// # Errors
///
/// When there is none, or the system cannot accept it.
pub(crate) fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::socket::{SockFlag, accept4};
        let accepted = accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the system has just made the descriptor, and nothing else owns it.
        Ok(unsafe { UnixStream::from_raw_fd(accepted) })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// Watches a connection that does not block for `interest`.
///
/// # Errors
///
/// When the system cannot watch it.
pub(crate) fn watch(socket: Rc<UnixStream>, interest: Interest) -> io::Result<AsyncFd<Rc<UnixStream>>> {
    // SAFETY: a `UnixStream` owns its descriptor, names the same one for as long as it lives, and keeps
    // it open until it is dropped, which is not before the `AsyncFd` that shares it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Watches a socket that listens and does not block for connections.
///
/// # Errors
///
/// When the system cannot watch it.
pub(crate) fn watch_listener(listener: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    // SAFETY: a `UnixListener` owns its descriptor, names the same one for as long as it lives, and keeps it open until
    // it is dropped, which is not before the `AsyncFd` that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn what_the_other_end_has_not_read_is_counted() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_bytes(&ours), Some(0));
        ours.write_all(b"a line").unwrap();
        assert!(unread_bytes(&ours).is_some_and(|bytes| bytes > 0));
        theirs.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(unread_bytes(&ours), Some(0));
    }
}
