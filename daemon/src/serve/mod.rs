//! The daemon, from the first check to the exit code. Everything is bound and checked before the
//! upstream is started.

pub(crate) mod activation;
mod connection;
mod hub;
pub(crate) mod listener;
pub(crate) mod upstream;

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_proto::core::{Core, CoreConfig};
use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::Timeouts;
use codexd_proto::router::{Config, Identity};
use codexd_proto::status::{CONTROL_PROTOCOL, StatusReport};
use codexd_proto::time::Time;
use tokio::task::LocalSet;

use crate::control::client::ask_status;
use crate::control::{self, ControlServer};
use crate::error::Error;
use crate::instance::lock::InstanceLock;
use crate::instance::record::Record;
use crate::os::open_files::OpenFiles;
use crate::os::private_dir;
use crate::os::signals::Signals;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::fingerprint;
use crate::settings::reload::Reloader;
use crate::start::Report;
use activation::Inherited;
use hub::Hub;
use listener::{SocketFile, bind_private};
use upstream::{Process, Program, locate, sweep};

/// How long the holder of a lock may take to say who it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Serves until the life of the daemon is over.
///
/// # Errors
///
/// When the daemon cannot begin to serve; the exit code says why.
pub(crate) fn run(
    settings: &Settings,
    environment: &Environment,
    inherited: Option<Inherited>,
    reloader: Reloader,
    start: &Report,
) -> Result<hub::Ended, Error> {
    let mut paths = settings.paths.clone();
    if let Some(inherited) = &inherited {
        // Whoever opened the socket decides where clients find the daemon, and is alone there.
        paths.socket = inherited.path().unwrap_or(Path::new("(inherited, without a path)")).to_owned();
        paths.socket_lock = None;
    }
    let settings = &Settings { paths, ..settings.clone() };
    let paths = &settings.paths;
    let files = OpenFiles::raise();
    let clock = Instant::now();
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))?;

    private_dir::ensure_own(&paths.runtime_dir)?;
    for dir in paths.foreign_dirs().into_iter().filter(|dir| dir.is_absolute()) {
        private_dir::ensure_foreign(dir)?;
    }
    let _lock = InstanceLock::acquire(&paths.lock, || holder(&paths.control_socket))?;
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

    // From here on this daemon is the instance, and leaves a record however it ends. The locks go
    // last, when everything else is gone.
    let record = Record::begin(paths, settings.auto_spawned);
    let environment = fingerprint::of(&settings.codex_home, environment);
    let context = Context { start: start.clone(), reloader, environment, clock, files };
    let result = serve(settings, &program, sockets, &record, context);
    match &result {
        Ok(ended) => {
            record.finish(ended.code, ended.reason.as_str(), ended.upstream.clone());
            start.failed(ended.code, &ended.reason, None);
        }
        Err(error) => record.finish(error.exit_code(), error.chain(), None),
    }
    result
}

/// Asks whoever serves `control_socket` who it is: in words, for who finds the lock held.
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
    start: Report,
    reloader: Reloader,
    environment: BTreeMap<String, String>,
    clock: Instant,
    files: OpenFiles,
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
    LocalSet::new().block_on(&runtime, async {
        let (listener, socket_file) = sockets.clients;
        let (control_listener, control_file) = sockets.control;
        let listener = tokio::net::UnixListener::from_std(listener)
            .map_err(|error| Error::os("cannot watch the client socket").because(error))?;
        let signals = Signals::new().map_err(|error| Error::os("cannot handle signals").because(error))?;
        sweep::adopt_orphans();

        let mut base_status = base_status(settings, program, record);
        base_status.environment.clone_from(&context.environment);
        base_status.open_files_limit = context.files.limit;
        let (publisher, commands, handle) = control::channel(base_status.clone());
        let control = ControlServer::spawn(control_listener, handle)?;

        let inherited = sockets.inherited;
        let core =
            Core::new(core_config(settings, record, &context, inherited), settings.for_core(), Time::ZERO);
        let (process, pipes) = Process::spawn(program, &settings.codex_args, context.files)?;
        base_status.upstream.pid = Some(process.pid());
        tracing::info!(
            upstream.pid = process.pid(),
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
            max_message_bytes: settings.limits.max_message_bytes,
        };
        let hub = Hub::new(parts);
        // A task of its own: what this one awaits is polled at every message.
        let run = hub::run(hub, hub::Run { listener, process, signals, commands });
        let ended = tokio::task::spawn_local(run).await.unwrap_or_else(|error| {
            Err(Error::new(ExitCode::Software, "the core loop broke off").because(error))
        });
        // Whoever waits for the end sees it when the control connections close: last of all.
        control_file.remove();
        control.stop();
        ended
    })
}

fn core_config(settings: &Settings, record: &Record, context: &Context, inherited: bool) -> CoreConfig {
    CoreConfig {
        router: Config {
            identity: Identity {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                instance: settings.instance.clone(),
                generation: record.generation(),
            },
            originator: settings.client_name.clone(),
            ..Config::default()
        },
        timeouts: Timeouts::default(),
        restart: settings.restart(inherited),
        clients_with_files: context.files.clients(),
    }
}

/// Returns the part of the status that does not change.
fn base_status(settings: &Settings, program: &Program, record: &Record) -> StatusReport {
    let paths = &settings.paths;
    let text = |path: &Path| path.display().to_string();
    let mut report = StatusReport {
        protocol: CONTROL_PROTOCOL,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: settings.instance.clone(),
        generation: record.generation(),
        started_unix_ms: record.started_unix_ms(),
        socket: text(&paths.socket),
        control_socket: text(&paths.control_socket),
        lock_file: text(&paths.lock),
        record_file: text(&paths.record),
        codex_home: text(&settings.codex_home),
        warnings: record.warning().cloned().into_iter().collect(),
        last_exit: record.last_exit().cloned(),
        ..StatusReport::default()
    };
    report.upstream.executable = text(&program.executable);
    report.upstream.requested = program.requested.as_deref().map(text);
    report
}
