//! A daemon of its own session, started by a client and outliving it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use codexd_proto::exit::ExitCode;

use super::environment::OF_ONE_CLIENT;
use super::startup_status::StartupStatus;
use super::{Target, startup_status};
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::instance::life;
use crate::logging;
use crate::os::service_manager::STRIPPED_ENV;
use crate::settings::paths;

/// How long a daemon may take until it is ready: longer than the upstream may take for its handshake.
const READY_WITHIN: Duration = Duration::from_secs(45);
/// How often a daemon is started again when it is killed before it is ready.
const KILLED_ATTEMPTS: u32 = 5;

/// Starts `codexd serve` and waits until it is ready.
///
/// # Errors
///
/// With the daemon's own exit code and reason when it reported them.
pub(super) fn spawn(target: &Target<'_>) -> Result<(), Error> {
    let settings = target.settings;
    let log_path = settings.paths.log_file();
    let look = |error: Error| error.hint(format!("look into `{}`", log_path.display()));
    for attempt in 1.. {
        let (mut child, reader) = launch(target, &log_path)?;
        let status = startup_status::listen(reader, READY_WITHIN);
        if status != StartupStatus::Nothing {
            // Taken in when it ends, as long as this client lives; then init does it.
            std::thread::spawn(move || child.wait());
            return status
                .into_result()
                .unwrap_or_else(|| Err(look(Error::os("the daemon was started and does not become ready"))));
        }
        let status = child.wait().map_err(|error| Error::os("cannot wait for the daemon").because(error))?;
        // A kill concerns this process only: the next one can succeed.
        if status.signal().is_none() || attempt == KILLED_ATTEMPTS {
            let text = format!("the daemon ended without a status ({status})");
            return Err(look(Error::new(ExitCode::Software, text)));
        }
    }
    Ok(())
}

/// Starts the process; returns it and the pipe on which it reports its startup status.
fn launch(target: &Target<'_>, log_path: &Path) -> Result<(Child, io::PipeReader), Error> {
    let settings = target.settings;
    let program = match target.codexd {
        Some(program) => program.to_owned(),
        None => own_program()?,
    };
    let log = logging::file::open(log_path).map_err(|error| {
        Error::new(ExitCode::CannotCreate, format!("cannot write the log `{}`", log_path.display()))
            .because(error)
    })?;
    let (reader, writer) = io::pipe().map_err(|error| Error::os("cannot make a pipe").because(error))?;
    let mut command = Command::new(&program);
    command
        // Its file may be called codex, and by that name it would be the shim.
        .arg0(program.with_file_name("codexd"))
        .args(["serve", "--auto-spawned", "--instance", &settings.instance, "--socket"])
        .arg(&settings.paths.socket)
        .arg("--control-socket")
        .arg(&settings.paths.control_socket)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(log);
    // A path is relative to the directory of the client, a name to look up is not.
    if settings.codex.components().count() > 1 {
        command.arg("--codex").arg(paths::absolute(&settings.codex)?);
    }
    if let Some(file) = &settings.config_file {
        command.arg("--config").arg(paths::absolute(file)?);
    }
    // The daemon reads those of the file itself.
    let arguments = (*target.codex_args != settings.codex_args).then_some(target.codex_args);
    if arguments.is_some() {
        command.arg("--codex-args-on-stdin").stdin(Stdio::piped());
    }
    if target.environment.value("CODEX_HOME").is_some() {
        command.env("CODEX_HOME", &settings.codex_home);
    }
    for name in STRIPPED_ENV.iter().chain(OF_ONE_CLIENT) {
        command.env_remove(name);
    }
    // It serves others, too, when the codex of which this client may be a command has ended.
    command.env(life::LIFE, life::NO_LIFE);
    let mut child = command
        .spawn()
        .map_err(|error| Error::os(format!("cannot start `{}`", program.display())).because(error))?;
    if let Some((arguments, mut stdin)) = arguments.zip(child.stdin.take()) {
        let text = serde_json::to_vec(arguments.words()).map_err(|error| {
            Error::new(ExitCode::Software, "cannot write arguments as JSON").because(error)
        })?;
        // They can be more than a pipe holds, and a daemon that ends without reading them reports why.
        std::thread::spawn(move || stdin.write_all(&text));
    }
    // The command, which ends here, holds the writing end too, and its end is news.
    Ok((child, reader))
}

/// Returns the program of this process, or what was put in its place: a client may outlive an update of codexd.
fn own_program() -> Result<PathBuf, Error> {
    let path =
        std::env::current_exe().map_err(|error| Error::os("cannot find codexd itself").because(error))?;
    Ok(in_its_place(path))
}

/// As text, the program that a daemon would run that this process starts; `None` where that has no name.
pub(crate) fn own_program_text() -> Option<String> {
    own_program().ok()?.into_os_string().into_string().ok()
}

/// Linux marks the name of a file that was removed, or replaced by another one (`proc_pid_exe(5)`).
fn in_its_place(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|name| name.strip_suffix(" (deleted)")) {
        Some(name) if !path.exists() => PathBuf::from(name),
        _ => path,
    }
}

/// Makes this process independent of the client that started it: a session of its own, and none of the
/// files that the client happened to leave open.
///
/// To be called before anything is opened. A pipe kept open by a daemon would keep its reader waiting, for instance
/// `ssh`.
pub(crate) fn detach() {
    // Fails for the leader of a process group, which a child of a client is not.
    let _ = nix::unistd::setsid();
    let Ok(open) = std::fs::read_dir("/dev/fd") else { return };
    let numbers: Vec<i32> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in numbers {
        // Among them is that of the directory just read, closed by now.
        let _ = nix::unistd::close(fd);
    }
}

/// Returns the flags, with the arguments for codex that the starting process has passed beside them.
///
/// # Errors
///
/// With exit code 64 when there is anything else than arguments; with 71 when they cannot be read.
pub(crate) fn with_given_arguments(args: &ServeArgs) -> Result<ServeArgs, Error> {
    let mut args = args.clone();
    if args.codex_args_on_stdin {
        args.codex_arg = take_codex_args()?;
    }
    Ok(args)
}

/// Returns the arguments of codex that the client has written to standard input, a JSON array of texts, and gives
/// standard input up.
///
/// # Errors
///
/// With exit code 64 when there is anything else; with 71 when it cannot be read.
fn take_codex_args() -> Result<Vec<String>, Error> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text).map_err(|error| {
        Error::os("cannot read the arguments of codex from standard input").because(error)
    })?;
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(null);
    }
    // The error of the parser is left out: it would quote what it does not understand.
    serde_json::from_slice(&text)
        .map_err(|_| Error::usage("standard input has no JSON array of texts for `--codex-args-on-stdin`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_found() {
        let dir = crate::os::test_dir::test_dir();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(in_its_place(path("codexd (deleted)")), path("codexd"));
        assert_eq!(in_its_place(path("codexd")), path("codexd"));
        std::fs::write(path("odd (deleted)"), "").unwrap();
        assert_eq!(in_its_place(path("odd (deleted)")), path("odd (deleted)"));
    }
}
