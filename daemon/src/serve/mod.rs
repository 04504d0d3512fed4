//! The daemon, from the first check to the exit code. Everything is bound and checked before the
//! upstream is started.

pub(crate) mod activation;
mod connection;
mod hub;
mod jobs;
pub(crate) mod listener;
pub(crate) mod upstream;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use codexd_proto::core::{Core, CoreConfig, Restart};
use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::{ChildStatus, Timeouts};
use codexd_proto::router::{Config, Identity};
use codexd_proto::secrets::Secrets;
use codexd_proto::status::{CONTROL_PROTOCOL, LogStatus, StatusReport};
use codexd_proto::thread_book::ThreadBook;
use codexd_proto::time::Time;
use tokio::task::LocalSet;

use crate::control::candidate::Origin;
use crate::control::client::ask_status;
use crate::control::surroundings::Surroundings;
use crate::control::{self, ControlServer};
use crate::error::Error;
use crate::instance::failed_start::Attempt;
use crate::instance::life::{self, Purpose, Token};
use crate::instance::lock::InstanceLock;
use crate::instance::record::Record;
use crate::instance::threads;
use crate::ledger::{self, Ledger, Retention, Update, Writer};
use crate::logging::roles::log_upstream;
use crate::os::open_files::OpenFiles;
use crate::os::private_dir;
use crate::os::signals::{SignalStream, Terminal};
use crate::os::unsafe_calls;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::fingerprint;
use crate::settings::reloader::Reloader;
use crate::settings::secrets;
use crate::settings::version;
use crate::start::{self, StartupNotifier, Successor};
use crate::terminal::{stderr_is_journal, stderr_target};
use activation::Inherited;
use hub::Hub;
use jobs::Runner;
use listener::{SocketFile, bind_private};
use upstream::{Launch, Process, Program, leftovers, locate, nested, sweep};

/// How long the holder of a lock has to send its identity.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What was looked at, and set, before this process had a second thread.
#[derive(Debug)]
pub(crate) struct OwnProcess {
    pub(crate) terminal: Terminal,
    pub(crate) files: OpenFiles,
}

/// Serves until the life of the daemon is over.
///
/// # Errors
///
/// When the daemon cannot begin to serve; the exit code gives the reason.
pub(crate) fn run(
    settings: &Settings,
    environment: &Environment,
    inherited: Option<Inherited>,
    reloader: Reloader,
    start: &StartupNotifier,
    process: OwnProcess,
    attempt: &Attempt<'_>,
) -> Result<hub::Ended, Error> {
    let mut paths = settings.paths.clone();
    if let Some(inherited) = &inherited {
        // The service manager that opened the socket decides where clients find the daemon, and is the only one there.
        paths.socket = inherited.path().unwrap_or(Path::new("(inherited, without a path)")).to_owned();
        paths.socket_lock = None;
    }
    let settings = &Settings { paths, ..settings.clone() };
    let paths = &settings.paths;
    unsafe_calls::give_back_long_buffers();
    let clock = Instant::now();
    nested::refuse(environment)?;
    // The person whose client starts this daemon has no flag for it.
    let name = |error| if settings.auto_spawned { error } else { locate::with_flag(error) };
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))
        .map_err(name)?;

    private_dir::ensure_own(&paths.runtime_dir)?;
    for dir in paths.foreign_dirs().into_iter().filter(|dir| dir.is_absolute()) {
        private_dir::ensure_foreign(dir)?;
    }
    let _lock = InstanceLock::acquire(&paths.lock, || holder(&paths.control_socket))?;

    // From here on this daemon is the instance, and leaves a record however it ends. The locks go
    // last, when everything else is gone.
    let life = Token::random().map_err(|error| Error::os("cannot get random bytes").because(error))?;
    let mut record = Record::begin(paths, settings.auto_spawned, life)?;
    attempt.recorded();
    let ledger = settings.ledger.then(|| {
        let keep = Retention {
            turns: settings.ledger_turns,
            age_ms: settings.ledger_age.as_millis().unwrap_or(u64::MAX),
        };
        Writer::start(ledger::path(&paths.record), record.generation(), keep)
    });
    let context = Context {
        start: start.clone(),
        reloader,
        environment: fingerprint::of(&settings.codex_home, environment),
        marks: life::variables(Some(life), Purpose::Daemon(paths.control_socket.clone()), environment),
        life,
        clock,
        files: process.files,
        terminal: process.terminal,
        ledger: ledger.as_ref().map_or_else(Ledger::off, Writer::ledger),
    };
    let result = live(settings, &program, inherited, &mut record, context);
    if let Some(ledger) = ledger {
        if let Ok(ended) = &result
            && !ended.stderr.is_empty()
        {
            ledger.ledger().record(Update::UpstreamStderr(ended.stderr.clone()));
        }
        ledger.finish();
    }
    if sweep::rest() {
        record.forget_this_life();
    }
    let mut result = result.and_then(|ended| or_refused(ended, start, &program)).map_err(name);
    match &mut result {
        Ok(ended) => {
            if let Some(Successor::AfterUpgrade(_, reserved)) = &mut ended.successor {
                *reserved = start::reserve(paths);
            }
            let record = record.with_stderr(ended.stderr.clone());
            record.finish(ended.code, ended.cause.as_str(), ended.upstream.clone());
            start.failed(ended.code, &ended.reason, None);
        }
        Err(error) => record.finish(error.exit_code(), error.chain(), None),
    }
    result
}

/// Serves as the holder of the instance.
fn live(
    settings: &Settings,
    program: &Program,
    inherited: Option<Inherited>,
    record: &mut Record,
    context: Context,
) -> Result<hub::Ended, Error> {
    let paths = &settings.paths;
    // Two codex on one CODEX_HOME would write the same files.
    if leftovers::end(record.earlier_lives()) == 0 {
        record.forget_earlier_lives();
    }
    let _socket_lock = paths
        .socket_lock
        .as_deref()
        .map(|path| InstanceLock::acquire(path, || holder(&paths.control_socket)))
        .transpose()?;
    let sockets = Sockets {
        control: bind_private(&paths.control_socket)?,
        inherited: inherited.is_some(),
        clients: match inherited {
            Some(inherited) => inherited.into_parts(),
            None => bind_private(&paths.socket).map(|(listener, file)| (listener, Some(file)))?,
        },
    };
    serve(settings, program, sockets, record, context)
}

/// Returns how the life ended.
///
/// # Errors
///
/// With exit code 69 when it never served because its codex was codexd, and refused to be codex.
fn or_refused(ended: hub::Ended, start: &StartupNotifier, program: &Program) -> Result<hub::Ended, Error> {
    let refusal = ChildStatus::Code(nested::refusal()).to_string();
    if start.was_ready() || ended.code == ExitCode::Stopped || ended.upstream.as_ref() != Some(&refusal) {
        return Ok(ended);
    }
    let asked_for = program.requested.as_ref().unwrap_or(&program.executable);
    Err(locate::name_another(format!(
        "`{}` is not codex: it refused to serve ({refusal}), as codexd does when it is started in place of codex",
        asked_for.display()
    )))
}

/// Asks the daemon that serves `control_socket` for its identity: text for the error of a process that finds the lock
/// held.
fn holder(control_socket: &Path) -> Option<String> {
    let status = ask_status(control_socket, ANSWER_WITHIN).ok()?;
    Some(format!(
        "codexd {} is running already: pid {}, instance `{}`, generation {}, {}",
        status.version,
        status.pid,
        status.instance,
        status.generation,
        status.state.word()
    ))
}

/// The sockets, bound and listening.
struct Sockets {
    control: (UnixListener, SocketFile),
    clients: (UnixListener, Option<SocketFile>),
    inherited: bool,
}

/// What was found out about the process before the sockets were bound.
struct Context {
    start: StartupNotifier,
    reloader: Reloader,
    environment: BTreeMap<String, String>,
    /// Variables for codex.
    marks: Vec<(&'static str, OsString)>,
    life: Token,
    clock: Instant,
    files: OpenFiles,
    terminal: Terminal,
    ledger: Ledger,
}

fn serve(
    settings: &Settings,
    program: &Program,
    sockets: Sockets,
    record: &Record,
    context: Context,
) -> Result<hub::Ended, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::os("cannot start the runtime").because(error))?;
    // On the heap, and polled through a pointer: the frames of what is done only once at the start would stay on the stack.
    let served: Pin<Box<dyn Future<Output = Result<hub::Ended, Error>>>> = Box::pin(async {
        let (listener, socket_file) = sockets.clients;
        let (control_listener, control_file) = sockets.control;
        let listener = unsafe_calls::watch_listener(listener)
            .map_err(|error| Error::os("cannot watch the client socket").because(error))?;
        let signals = SignalStream::new(context.terminal)
            .map_err(|error| Error::os("cannot handle signals").because(error))?;
        sweep::adopt_orphans(context.life);

        let mut base_status = base_status(settings, program, record);
        base_status.environment.clone_from(&context.environment);
        base_status.open_files_limit = context.files.limit;
        let (publisher, commands, handle) = control::channel(base_status.clone());
        let (job_commands, commands_of_jobs) = tokio::sync::mpsc::unbounded_channel();
        let (job_connections, connections_of_jobs) = tokio::sync::mpsc::unbounded_channel();
        let ledger = context.ledger.clone();
        let runner = Runner::start(record.generation(), ledger.clone(), commands_of_jobs, job_connections)?;
        let secrets = secrets::known(&settings.codex_args, std::env::vars_os());
        let surroundings = surroundings(settings, program, secrets.clone())
            .started(restarted_program(settings.restart(sockets.inherited)), origin(settings, context.life));
        let control =
            ControlServer::spawn(control_listener, handle.with_jobs(job_commands, ledger), surroundings)?;

        let metrics = settings.metrics_port.map(hub::metrics_port::listen).transpose()?;
        let inherited = sockets.inherited;
        let config =
            CoreConfig { secrets: secrets.clone(), ..core_config(settings, record, &context, inherited) };
        let mut core = Core::new(config, settings.for_core(), Time::ZERO);
        let threads = remembered_threads(&settings.paths.threads);
        let book = threads::Writer::spawn(settings.paths.threads.clone(), threads.clone())
            .map_err(|error| Error::os("cannot start a thread").because(error))?;
        core.remember_earlier(threads);
        let (process, pipes) = Process::spawn(Launch {
            program,
            arguments: &settings.codex_args,
            variables: &context.marks,
            open_files: context.files.given,
            secrets,
        })?;
        base_status.upstream.pid = Some(process.pid());
        log_upstream!(
            info,
            process.pid(),
            upstream.executable = %program.executable.display(),
            files.limit = context.files.limit,
            "started codex app-server"
        );
        let signal = process.signals();
        let parts = hub::Parts {
            clock: context.clock,
            core,
            pipes,
            signals: signal,
            socket_file,
            inherited,
            base_status,
            publisher,
            reloader: context.reloader,
            start: context.start,
            threads: book.changes(),
            max_message_bytes: settings.limits.max_message_bytes,
            ledger: context.ledger,
        };
        let hub = Hub::new(parts);
        // A task of its own: what this one awaits is polled at every message.
        let jobs = connections_of_jobs;
        let run = hub::run(hub, hub::Run { listener, process, signals, commands, jobs, metrics });
        let ended = tokio::task::spawn_local(run).await.unwrap_or_else(|error| {
            Err(Error::new(ExitCode::Software, "the core loop failed").because(error))
        });
        drop(book);
        // A client of the control socket that waits for the end sees its connection close: last of all.
        control_file.remove();
        control.stop();
        runner.finish();
        ended
    });
    LocalSet::new().block_on(&runtime, served)
}

/// Returns what earlier daemons have remembered of threads. A file that cannot be read is said, and is no obstacle:
/// then threads are resumed as codex does it.
fn remembered_threads(path: &Path) -> ThreadBook {
    threads::read(path).unwrap_or_else(|error| {
        tracing::error!(
            path = %path.display(),
            %error,
            "cannot read the permissions that threads had: codex resumes them with those of its configuration"
        );
        ThreadBook::default()
    })
}

/// Looks at the programs on disk before codex starts.
fn surroundings(settings: &Settings, program: &Program, secrets: Secrets) -> Surroundings {
    let (codex, path) = (settings.codex.clone(), std::env::var_os("PATH"));
    Surroundings::at_start(&program.executable, secrets, move || {
        locate::locate(&codex, path.as_deref()).ok().map(|program| program.executable)
    })
}

/// Returns the program that a supervisor starts again after this daemon; `None` if none does.
fn restarted_program(restart: Restart) -> Option<PathBuf> {
    if matches!(restart, Restart::Never | Restart::BySuccessor) {
        return None;
    }
    // systemd and launchd give the path that they were told, whatever it leads to by now.
    std::env::args_os().next().map(PathBuf::from).filter(|path| path.is_absolute() && path.exists())
}

/// Returns how this daemon was started.
fn origin(settings: &Settings, life: Token) -> Origin {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let given = arguments.iter().any(|argument| argument == "--codex-args-on-stdin");
    Origin {
        stdin: given.then(|| serde_json::to_vec(settings.codex_args.words()).unwrap_or_default()),
        arguments,
        marks: vec![(life::LIFE, OsString::from(life.to_string()))],
        start: Box::new(|command| Ok(Box::new(sweep::Helper::start(command)?))),
    }
}

fn core_config(settings: &Settings, record: &Record, context: &Context, inherited: bool) -> CoreConfig {
    CoreConfig {
        router: Config {
            identity: Identity {
                version: version::NUMBER.to_owned(),
                instance: settings.instance.clone(),
                generation: record.generation(),
            },
            originator: settings.client_name.clone(),
            ..Config::default()
        },
        timeouts: Timeouts::default(),
        restart: settings.restart(inherited),
        clients_with_files: context.files.clients(),
        ..CoreConfig::default()
    }
}

/// Returns where the log goes.
fn log_status(settings: &Settings) -> LogStatus {
    let status = |kind: &str, path: Option<PathBuf>| LogStatus {
        kind: kind.to_owned(),
        path: path.map(|path| path.display().to_string()),
    };
    match stderr_target() {
        _ if stderr_is_journal() => status("journal", None),
        _ if settings.auto_spawned => status("file", Some(settings.paths.log_file())),
        Some((path, true)) => status("file", Some(path)),
        other => status("other", other.map(|(path, _)| path)),
    }
}

/// Returns the part of the status that does not change.
fn base_status(settings: &Settings, program: &Program, record: &Record) -> StatusReport {
    let paths = &settings.paths;
    let text = |path: &Path| path.display().to_string();
    let mut report = StatusReport {
        protocol: CONTROL_PROTOCOL,
        pid: std::process::id(),
        version: version::NUMBER.to_owned(),
        commit: version::commit().map(str::to_owned),
        instance: settings.instance.clone(),
        generation: record.generation(),
        started_unix_ms: record.started_unix_ms(),
        socket: text(&paths.socket),
        control_socket: text(&paths.control_socket),
        lock_file: text(&paths.lock),
        record_file: text(&paths.record),
        log: Some(log_status(settings)),
        codex_home: text(&settings.codex_home),
        warnings: record.warning().cloned().into_iter().collect(),
        last_exit: record.last_exit().cloned(),
        ..StatusReport::default()
    };
    report.upstream.executable = text(&program.executable);
    report.upstream.requested = program.requested.as_deref().map(text);
    report.upstream.arguments = settings.codex_args.names();
    report
}
