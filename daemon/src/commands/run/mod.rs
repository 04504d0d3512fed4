//! `codexd run`: one turn for a person, a script or a hook.
//!
//! It is an ordinary client: it connects to the daemon or starts it ([`dial`]), runs the turn
//! ([`turn`]), prints progress on stderr ([`show`]) and the answer on stdout.

mod arguments;
mod ask;
mod detach;
mod result;
mod show;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::connect::dial::{self, Wait};
use super::connect::{PATIENCE, unavailable};
use crate::cli::{RunArgs, ServeArgs};
use crate::error::Error;
use crate::os::service_manager::STRIPPED_ENV;
use crate::os::unix_time::unix_ms;
use crate::serve::upstream::nested;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::version;
use crate::start::Target;
use crate::turn::{self, Bounds, Failure, Finished, Introduction, Order, TurnRequest};

use ask::Asker;
use result::Report;
use show::Show;

/// Name and version in its `initialize`.
const WHO: Introduction = Introduction { name: "codexd run", version: version::NUMBER };
/// Time between attempts with daemons that refuse the turn.
const PAUSE: Duration = Duration::from_millis(200);

/// Exit code of an interrupted turn.
const INTERRUPTED: u8 = 2;
/// Exit code of a turn that reached its time limit, as that of `timeout(1)`.
const TIMED_OUT: u8 = 124;

/// Runs one turn to its end. Returns 0 if it completed, 1 if it failed, 2 if it was interrupted, 124 if it reached
/// its time limit.
///
/// # Errors
///
/// With exit code 64 if the request is invalid, 69 if no daemon can be reached or started.
pub(crate) fn run(args: &RunArgs, environment: &Environment) -> Result<ExitCode, Error> {
    if args.detach {
        return detach::run(args, environment);
    }
    let began = Instant::now();
    let mut show = Show::new(args.json);
    let result = attempt(args, environment, &mut show);
    show.finish();
    let report = match result {
        Ok(ended) => Report::of(ended, began.elapsed()),
        Err(failure) if args.json => Report::of_failure(&failure.error, failure.thread, began.elapsed()),
        Err(failure) => return Err(failure.error),
    };
    report.print(args.json)?;
    Ok(ExitCode::from(report.exit_code))
}

/// How the command ends.
enum Ended {
    /// The turn has ended.
    Finished(Box<Finished>, Vec<String>),
    /// A second signal came.
    Left(Option<String>),
}

fn attempt(args: &RunArgs, environment: &Environment, show: &mut Show) -> Result<Ended, Failure> {
    nested::refuse(environment)?;
    let request = arguments::request(args)?;
    // Environment variables of a service that started this process do not concern the daemon.
    let environment = &environment.clone().without(STRIPPED_ENV);
    let settings =
        Settings::load(&ServeArgs { socket: args.socket.clone(), ..ServeArgs::default() }, environment)?;
    let target = Target {
        settings: &settings,
        environment,
        codex_args: &settings.codex_args,
        may_spawn: !args.no_spawn,
        codexd: None,
    };
    let timeout = args.timeout.and_then(|timeout| timeout.as_duration());
    let bounds = Bounds { timeout, ..Bounds::default() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::os("cannot start the runtime").because(error))?;
    let until = Instant::now() + PATIENCE;
    let wait = Wait { until, since_unix_ms: unix_ms(), client_gone: &|| false };
    let mut stream = dial::obtain(&target, &wait).map_err(|error| unavailable(&error))?;
    let _inside = runtime.enter();
    let signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|error| Error::os("cannot handle signals").because(error))?;
    let signals = RefCell::new(signals);
    loop {
        let mut conversation = Conversation { request: &request, bounds, show, signals: &signals };
        let failure = match runtime.block_on(conversation.hold(stream)) {
            Ok(Ended::Finished(finished, _)) => {
                let stderr = result::last_lines_of_codex(&settings.paths, &finished);
                return Ok(Ended::Finished(finished, stderr));
            }
            Ok(left) => return Ok(left),
            Err(failure) => failure,
        };
        if !failure.retry || Instant::now() >= until {
            return Err(failure);
        }
        std::thread::park_timeout(PAUSE);
        let gone = Cell::new(false);
        let interrupted = || {
            gone.set(gone.get() || signals.borrow_mut().next().now_or_never().is_some());
            gone.get()
        };
        let wait = Wait { until, since_unix_ms: wait.since_unix_ms, client_gone: &interrupted };
        stream = match dial::obtain(&target, &wait) {
            Err(_) if gone.get() => return Ok(Ended::Left(failure.thread)),
            dialled => dialled.map_err(|error| unavailable(&error))?,
        };
    }
}

/// One attempt at the turn.
struct Conversation<'a> {
    request: &'a TurnRequest,
    bounds: Bounds,
    show: &'a mut Show,
    signals: &'a RefCell<Signals>,
}

impl Conversation<'_> {
    /// Runs the turn over this connection and handles signals meanwhile.
    #[expect(clippy::await_holding_refcell_ref, reason = "nothing else borrows it while this runs")]
    async fn hold(&mut self, stream: std::os::unix::net::UnixStream) -> Result<Ended, Failure> {
        let stream = UnixStream::from_std(stream)
            .map_err(|error| Error::os("cannot watch the connection to the daemon").because(error))?;
        let (orders, mut ordered) = mpsc::unbounded_channel();
        self.show.ask_with(Asker::new(orders.clone()));
        let mut signals = self.signals.borrow_mut();
        let thread = self.show.thread();
        let turn = turn::run(stream, WHO, self.request, self.bounds, &mut ordered, self.show);
        tokio::pin!(turn);
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                Some(_) = signals.next() => {
                    if std::mem::replace(&mut asked, true) {
                        return Ok(Ended::Left(thread.get()));
                    }
                    let _ = orders.send(Order::Interrupt);
                }
                ended = &mut turn => {
                    return ended.map(|finished| Ended::Finished(Box::new(finished), Vec::new()));
                }
            }
        }
    }
}
