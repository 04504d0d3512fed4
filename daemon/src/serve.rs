//! Stand-in, to be replaced: holds the instance and answers on the control socket until it is stopped.

use codexd_proto::exit::ExitCode;
use codexd_proto::status::{CONTROL_PROTOCOL, DaemonState, StatusReport};

use crate::config::Settings;
use crate::control::{self, Command, ControlServer, StopReceipt};
use crate::error::Error;
use crate::listener::bind_private;
use crate::lock::InstanceLock;
use crate::record::Record;
use crate::{notify, private_dir};

/// Runs until `ctl stop`.
///
/// # Errors
///
/// When the instance cannot be taken.
pub(crate) fn run(settings: Settings) -> Result<ExitCode, Error> {
    let paths = &settings.paths;
    private_dir::ensure_own(&paths.runtime_dir)?;
    for dir in paths.foreign_dirs() {
        private_dir::ensure_foreign(dir)?;
    }
    let _lock = InstanceLock::acquire(&paths.lock, &paths.control_socket)?;
    let _socket_lock = paths
        .socket_lock
        .as_deref()
        .map(|path| InstanceLock::acquire(path, &paths.control_socket))
        .transpose()?;
    let record = Record::begin(paths);
    let result = hold(&settings, &record);
    match &result {
        Ok(code) => record.finish(*code, "stopped through the control socket", None),
        Err(error) => record.finish(error.exit_code(), error.chain(), None),
    }
    // Locks go last, when everything else is gone.
    result
}

fn hold(settings: &Settings, record: &Record) -> Result<ExitCode, Error> {
    let paths = &settings.paths;
    let (_listener, socket_file) = bind_private(&paths.socket)?;
    let (control_listener, control_file) = bind_private(&paths.control_socket)?;
    let report = StatusReport {
        protocol: CONTROL_PROTOCOL,
        state: DaemonState::Serving,
        ready: true,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: settings.instance.clone(),
        generation: record.generation(),
        started_unix_ms: record.started_unix_ms(),
        socket: paths.socket.display().to_string(),
        control_socket: paths.control_socket.display().to_string(),
        lock_file: paths.lock.display().to_string(),
        record_file: paths.record.display().to_string(),
        codex_home: settings.codex_home.display().to_string(),
        warnings: record.warning().cloned().into_iter().collect(),
        last_exit: record.last_exit().cloned(),
        ..StatusReport::default()
    };
    let (publisher, mut commands, handle) = control::channel(report.clone());
    let control = ControlServer::spawn(control_listener, handle)?;
    publisher.publish(report.clone());
    notify::ready("serving");
    while let Some(command) = commands.blocking_recv() {
        match command {
            Command::Status(reply) => drop(reply.send(report.clone())),
            Command::Clients(reply) => drop(reply.send(Vec::new())),
            Command::Stop { reply, .. } => {
                let receipt = StopReceipt {
                    generation: report.generation,
                    pid: report.pid,
                    state: DaemonState::Draining,
                    ..StopReceipt::default()
                };
                drop(reply.send(receipt));
                break;
            }
        }
    }
    notify::stopping("stopped through the control socket");
    socket_file.remove();
    control.stop();
    control_file.remove();
    Ok(ExitCode::Stopped)
}
