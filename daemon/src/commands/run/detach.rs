//! `codexd run --detach`: the daemon runs the turn as a job.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::connect::dial::{self, Wait};
use super::super::connect::{PATIENCE, unavailable};
use super::super::ctl::print;
use super::arguments;
use crate::cli::{RunArgs, ServeArgs};
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::os::service_manager::STRIPPED_ENV;
use crate::os::unix_time::unix_ms;
use crate::serve::upstream::nested;
use crate::settings::Settings;
use crate::settings::duration::TimeLimit;
use crate::settings::environment::Environment;
use crate::start::Target;
use crate::terminal::note;
use crate::turn::ApprovalMode;

/// Default of the time limit of a job.
const TIMEOUT: TimeLimit = TimeLimit::seconds(30 * 60);
/// The variable that sets another time limit.
const VARIABLE: &str = "CODEXD_JOB_TIMEOUT";
/// Time for the daemon to record the job.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Gives the turn to the daemon and prints the id of the job.
///
/// # Errors
///
/// As [`run`](super::run()); with exit code 1 when the daemon refuses the job.
pub(super) fn run(args: &RunArgs, environment: &Environment) -> Result<ExitCode, Error> {
    nested::refuse(environment)?;
    if args.approval == ApprovalMode::Ask {
        return Err(Error::usage(
            "a job has nobody to ask: `--approval ask` and `--detach` exclude each other",
        ));
    }
    let request = arguments::request(args)?;
    let timeout = timeout(args, environment)?;
    let environment = &environment.clone().without(STRIPPED_ENV);
    let settings =
        Settings::load(&ServeArgs { socket: args.socket.clone(), ..ServeArgs::default() }, environment)?;
    let target = Target {
        settings: &settings,
        environment,
        codex_args: &settings.codex_args,
        may_spawn: true,
        codexd: None,
    };
    let wait = Wait { until: Instant::now() + PATIENCE, since_unix_ms: unix_ms(), client_gone: &|| false };
    // A daemon that serves clients also serves its control socket.
    drop(dial::obtain(&target, &wait).map_err(|error| unavailable(&error))?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::os("cannot start the runtime").because(error))?;
    let path = &settings.paths.control_socket;
    let started = runtime.block_on(async {
        ControlConnection::open(path, ANSWER_WITHIN, ANSWER_WITHIN)
            .await?
            .start_job(&request, timeout.as_millis())
            .await
    });
    let id = started.map_err(|unreachable| match unreachable {
        Unreachable::CannotTell(error) => error,
        Unreachable::NotRunning => {
            Error::new(codexd_proto::exit::ExitCode::Unavailable, "the daemon has ended").hint("try again")
        }
    })?;
    if args.json {
        print(&format!("{}\n", json!({ "type": "job", "id": id })))?;
    } else {
        print(&format!("{id}\n"))?;
        note(&format!("codexd: `codexd jobs wait {}` waits for the answer", &id[..8.min(id.len())]));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the time limit of the job: flag, variable, default.
fn timeout(args: &RunArgs, environment: &Environment) -> Result<TimeLimit, Error> {
    match (args.timeout, environment.value(VARIABLE)) {
        (Some(timeout), _) => Ok(timeout),
        (None, None) => Ok(TIMEOUT),
        (None, Some(value)) => {
            let text = value.to_str().ok_or_else(|| Error::config(format!("`{VARIABLE}` is not UTF-8")))?;
            text.parse().map_err(|error| Error::config(format!("cannot use `{VARIABLE}`")).because(error))
        }
    }
}
