//! The table of commands and flags. Help, usage errors, completions, man pages and
//! `docs/commands.md` come from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use codexd_proto::feed::Direction;
use codexd_proto::router::OrphanedTurns;

use crate::logging::filter::LogFilter;
use crate::logging::format::LogFormat;
use crate::settings::codex_flags;
use crate::settings::duration::TimeLimit;
use crate::settings::version;
use crate::turn::{ApprovalMode, Review, Sandbox};

/// Lets any number of clients use one `codex app-server`.
#[derive(Debug, Parser)]
#[command(name = "codexd", version = version::SHOWN, about, max_term_width = 100)]
#[command(after_help = "Durations are written `500ms`, `30s`, `10m`, `6h`, or `never`.\n\
    Precedence: flags, environment, configuration file, defaults.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What codexd is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground until it is stopped
    Serve(Box<ServeArgs>),
    /// Speak to the daemon over standard input and output; start it if none runs
    Connect(ConnectArgs),
    /// The same in place of `codex app-server`, with its arguments
    AppServer(AppServerArgs),
    /// Run one turn: progress on stderr, the answer on stdout; exit 0 completed, 1 failed, 2 interrupted, 124 timed out
    Run(Box<RunArgs>),
    /// List and control the turns that `codexd run --detach` has given to the daemon
    Jobs(JobsArgs),
    /// Query or control the running daemon
    Ctl(CtlArgs),
    /// Make a service of the daemon for this user and CODEX_HOME, or put a `codex` into PATH that uses it
    Install(InstallArgs),
    /// Stop that service and remove it, or that `codex`
    Uninstall(UninstallArgs),
    /// Look for what keeps the daemon from working: exit 0 nothing, 1 something
    Doctor(DoctorArgs),
    /// Print what makes a shell complete the commands and flags of codexd
    Completions(CompletionsArgs),
    /// Write the man pages, for packages
    #[command(hide = true)]
    Man(ManArgs),
}

/// Flags of `codexd completions`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// A shell that can complete what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// In ~/.bashrc: source <(codexd completions bash)
    Bash,
    /// Written to a file `_codexd` in a directory of $fpath
    Zsh,
    /// In ~/.config/fish/config.fish: codexd completions fish | source
    Fish,
}

/// Flags of `codexd man`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory for the files; it is created if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Flags of `codexd connect`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConnectArgs {
    /// Socket of the daemon [default: as `codexd serve`] [env: CODEXD_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Start nothing: exit 69 if no daemon runs
    #[arg(long)]
    pub(crate) no_spawn: bool,

    /// Do not run codex itself if no daemon is available: exit 69
    #[arg(long)]
    pub(crate) no_direct: bool,

    /// Turns that it leaves as last subscriber [default: app-server interrupt, connect as the daemon]
    #[arg(long, value_name = "POLICY", value_parser = orphaned_turns())]
    pub(crate) orphaned_turns: Option<OrphanedTurns>,

    /// How long the next daemon is looked for when one is lost [default: 60s]
    #[arg(long, value_name = "DURATION", hide = true)]
    pub(crate) patience: Option<TimeLimit>,
}

fn orphaned_turns() -> impl TypedValueParser<Value = OrphanedTurns> {
    let policies = [OrphanedTurns::Keep, OrphanedTurns::Interrupt];
    PossibleValuesParser::new(policies.map(OrphanedTurns::word))
        .map(move |word| policies.into_iter().find(|policy| policy.word() == word).unwrap_or_default())
}

/// Flags of `codexd app-server`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AppServerArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,

    /// Arguments of `codex app-server`, from the first that is not one of the above
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// Flags of `codexd run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// What codex is to do; `-` reads it from standard input [default: from standard input, if that is no terminal]
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,

    /// Directory to work in [default: the current one, or that of the thread]
    #[arg(long, short = 'C', value_name = "DIR")]
    pub(crate) cd: Option<PathBuf>,

    /// Model [default: of codex's configuration, or of the thread]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Reasoning effort, as `low` or `high` [default: of codex's configuration, or of the thread]
    #[arg(long, value_name = "EFFORT")]
    pub(crate) effort: Option<String>,

    /// What commands can change [default: of codex's configuration, or of the thread]
    #[arg(long, short, value_enum)]
    pub(crate) sandbox: Option<Sandbox>,

    /// What becomes of what needs an approval
    #[arg(long, value_enum, default_value = "never")]
    pub(crate) approval: ApprovalMode,

    /// Continue this thread [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) thread: Option<String>,

    /// Review `uncommitted`, `base:BRANCH`, `commit:SHA`, or `custom`: what PROMPT says
    #[arg(long, value_name = "WHAT")]
    pub(crate) review: Option<Review>,

    /// File with a JSON schema that the answer is to follow
    #[arg(long, value_name = "FILE")]
    pub(crate) output_schema: Option<PathBuf>,

    /// Interrupt the turn after this time, and exit 124
    /// [default: never, with `--detach` 30m] [env: CODEXD_JOB_TIMEOUT, with `--detach`]
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<TimeLimit>,

    /// Let the daemon run it as a job, print the id of the job and do not wait: `codexd jobs`
    #[arg(long, conflicts_with = "no_spawn")]
    pub(crate) detach: bool,

    /// Print a JSON object for each event on stdout, the result last
    #[arg(long)]
    pub(crate) json: bool,

    /// Socket of the daemon [default: as `codexd serve`] [env: CODEXD_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Start nothing: exit 69 if no daemon runs
    #[arg(long)]
    pub(crate) no_spawn: bool,
}

/// Flags of `codexd jobs`.
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    pub(crate) verb: JobVerb,

    #[command(flatten)]
    pub(crate) common: CtlCommon,
}

/// What to do with jobs. An id can be shortened as long as it names one job.
#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// List them: those that run, then the latest
    List,
    /// Show one, with its answer, and how to go on in its thread
    Show(JobArgs),
    /// Wait until it is over and print its answer: exit as `codexd run` would have
    Wait(JobArgs),
    /// Print what has happened in it
    Logs(JobLogsArgs),
    /// Interrupt its turn and wait until it is over: exit 0 cancelled, 1 it was over
    Cancel(JobArgs),
    /// Forget jobs that are over
    Prune(PruneArgs),
}

/// Which job.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// Id of the job, or how only that begins
    #[arg(value_name = "JOB")]
    pub(crate) id: String,
}

/// Flags of `jobs logs`.
#[derive(Debug, Args)]
pub(crate) struct JobLogsArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,

    /// Go on until the job is over
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Flags of `jobs prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only jobs that have been over for this time
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) older: TimeLimit,
}

/// Flags of `codexd serve`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Socket for clients [default: INSTANCE.sock in the runtime directory] [env: CODEXD_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Socket for `codexd ctl` [default: beside the client socket] [env: CODEXD_CONTROL_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub(crate) control_socket: Option<PathBuf>,

    /// Name of this daemon among yours [default: after CODEX_HOME] [env: CODEXD_INSTANCE]
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,

    /// The codex program, a path or a name to look up in PATH [default: codex] [env: CODEXD_CODEX]
    #[arg(long, value_name = "PATH")]
    pub(crate) codex: Option<PathBuf>,

    /// One more argument for `codex app-server`; may be repeated [default: none]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) codex_arg: Vec<String>,

    /// Configuration file [default: codexd/config.toml in XDG_CONFIG_HOME] [env: CODEXD_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// A supervisor owns this daemon: only the supervisor restarts it
    #[arg(long)]
    pub(crate) supervised: bool,

    /// A client starts this daemon: detach, report the start on stdout, stop when unused
    #[arg(long, hide = true)]
    pub(crate) auto_spawned: bool,

    /// The arguments for `codex app-server` are a JSON array on stdin, where `ps` does not show them
    #[arg(long, hide = true, conflicts_with = "codex_arg")]
    pub(crate) codex_args_on_stdin: bool,

    /// Exit 0 after a failure that a restart cannot cure, for supervisors that restart after any other code
    #[arg(long)]
    pub(crate) permanent_exit_zero: bool,

    /// Stop after this time without clients and running turns [default: never]
    #[arg(long, value_name = "DURATION")]
    pub(crate) idle_exit: Option<TimeLimit>,

    /// How long running turns can go on after a request to stop [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) drain_timeout: Option<TimeLimit>,

    /// How long codex can be silent before a health check [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) probe_interval: Option<TimeLimit>,

    /// How long codex can take to answer that before it counts as lost [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) probe_timeout: Option<TimeLimit>,

    /// off, error, warn, info, debug or trace; more after a comma, as `info,TARGET=debug`
    /// [default: info] [env: CODEXD_LOG]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogFilter>,

    /// In which form to log: text for people, or json, one object a line [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,

    /// Print every setting with where it comes from, and start nothing: exit 78 if they cannot be used
    #[arg(long, conflicts_with_all = ["auto_spawned", "codex_args_on_stdin"])]
    pub(crate) check_config: bool,

    /// Print as JSON whether this codexd and its codex would serve, and start no daemon
    #[arg(long, hide = true, conflicts_with = "check_config")]
    pub(crate) trial: bool,
}

/// Which service manager, and whether only to look.
#[derive(Clone, Debug, Args)]
pub(crate) struct SupervisorArgs {
    /// A user service and a socket of systemd [default: on Linux]
    #[arg(long, conflicts_with = "launchd")]
    pub(crate) systemd: bool,

    /// A launch agent of macOS [default: on macOS]
    #[arg(long)]
    pub(crate) launchd: bool,

    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Whether it is about the shim instead of a service.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShimArgs {
    /// No service, but a `codex` in PATH whose `app-server` is codexd and that is the real codex otherwise
    #[arg(long, conflicts_with_all = ["systemd", "launchd"])]
    pub(crate) shim: bool,

    /// Directory for that [default: ~/.local/bin or ~/bin, whichever comes before the real codex in PATH]
    #[arg(long, value_name = "DIR", requires = "shim")]
    pub(crate) shim_dir: Option<PathBuf>,
}

/// Flags of `codexd install`.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) supervisor: SupervisorArgs,

    #[command(flatten)]
    pub(crate) shim: ShimArgs,

    /// Enable it and start it, too
    #[arg(long, conflicts_with = "shim")]
    pub(crate) now: bool,

    /// The codex program, a path or a name to look up in PATH [default: codex] [env: CODEXD_CODEX]
    #[arg(long, value_name = "PATH", conflicts_with = "shim")]
    pub(crate) codex: Option<PathBuf>,
}

/// Flags of `codexd uninstall`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub(crate) supervisor: SupervisorArgs,

    #[command(flatten)]
    pub(crate) shim: ShimArgs,
}

/// Flags of `codexd doctor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON document instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `codexd ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    #[command(subcommand)]
    pub(crate) verb: Verb,

    #[command(flatten)]
    pub(crate) common: CtlCommon,
}

/// Flags that every verb takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct CtlCommon {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Control socket of the daemon [default: as `codexd serve`] [env: CODEXD_CONTROL_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) control_socket: Option<PathBuf>,
}

/// What to query or to change.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how it is: exit 0 serving, 1 running and not ready, 3 not running, 4 cannot tell
    Status(StatusArgs),
    /// List your instances, those that run and those that failed; `*` marks the one of this shell
    List(ListArgs),
    /// Wait until it is ready or has stopped: exit 0 reached, 1 timed out, 3 not running
    Wait(WaitArgs),
    /// List the connected clients: exit 0 done, 3 not running, 4 cannot tell
    /// List the turns that have run, of all clients, also while it does not run: exit 0 done, 4 cannot tell
    History(HistoryArgs),
    Clients(WatchArgs),
    /// List the threads in use, those on which something runs first: exit 0 done, 3 not running
    Threads(WatchArgs),
    /// List the turns that run, the oldest first: exit 0 done, 3 not running
    Turns(WatchArgs),
    /// List the requests and approvals without an answer, the oldest first: exit 0 done, 3 not running
    Requests(WatchArgs),
    /// Interrupt a turn and wait for its end: exit 0 it has ended, 1 it has not or there is none, 3 not running
    Interrupt(InterruptArgs),
    /// Disconnect a client: exit 0 done, 1 there is no such client, 3 not running
    Kill(KillArgs),
    /// Show what happens, one line each, until the daemon ends; with --json one document a line
    Events,
    /// Show the messages that pass, without their bodies, until the daemon ends
    Monitor(MonitorArgs),
    /// Show turns, clients, rates and latencies on a full screen; keys sort, interrupt and disconnect
    Top(TopArgs),
    /// Show the log, wherever it is: exit 0 shown, 1 there is none
    Logs(LogsArgs),
    /// Take no new work and end when the running turns have; does not wait: exit 0 begun, 3 not running
    Drain,
    /// Change to the codex and codexd on disk as soon as nothing runs: exit 0 done, 1 not done, 69 they do not run
    Upgrade(UpgradeArgs),
    /// Show how the last daemon ended: exit 0 shown, 1 no record
    LastExit,
    /// Stop it and wait for its exit: exit 0 stopped, 1 still running, 3 was not running
    Stop(StopArgs),
    /// Read the settings again: exit 0 done, 1 they cannot be used, 3 not running
    Reload,
    /// Change what is logged until the settings are read again: exit 0 done, 3 not running
    LogLevel(LogLevelArgs),
    /// Print the path of the socket for clients
    GetSocket,
}

/// Flags of what can be shown again and again.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WatchArgs {
    /// Show it again and again until the daemon ends; with --json one document a line
    #[arg(long)]
    pub(crate) watch: bool,

    /// Time between two looks, 100ms at the least
    #[arg(long, value_name = "DURATION", default_value = "1s", requires = "watch")]
    pub(crate) every: TimeLimit,
}

/// Flags of `ctl interrupt`.
#[derive(Debug, Args)]
pub(crate) struct InterruptArgs {
    /// Id of a turn or of a thread, or four or more characters at its beginning or end
    #[arg(value_name = "TURN|THREAD")]
    pub(crate) target: String,

    /// How long to wait for the end of the turn
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) timeout: TimeLimit,
}

/// Flags of `ctl monitor`.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Only messages of this client, by its number in `codexd ctl clients`; can be given several times
    #[arg(long, value_name = "CLIENT")]
    pub(crate) client: Vec<u64>,

    /// Only methods that begin like this; can be given several times
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Vec<String>,

    /// Only these directions [default: from-client and to-client]
    #[arg(long, value_enum, value_name = "DIRECTION")]
    pub(crate) direction: Vec<FrameDirection>,

    /// Show the bodies, too: prompts, answers and code, with known secrets masked
    #[arg(long)]
    pub(crate) bodies: bool,

    /// Write all directions with bodies to a new file that only you can read, and show nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// On which way a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FrameDirection {
    /// From a client to codexd
    FromClient,
    /// From codexd to codex
    ToCodex,
    /// From codex to codexd
    FromCodex,
    /// From codexd to a client
    ToClient,
}

impl From<FrameDirection> for Direction {
    fn from(direction: FrameDirection) -> Direction {
        match direction {
            FrameDirection::FromClient => Direction::FromClient,
            FrameDirection::ToCodex => Direction::ToCodex,
            FrameDirection::FromCodex => Direction::FromCodex,
            FrameDirection::ToClient => Direction::ToClient,
        }
    }
}

/// Flags of `ctl top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Time between two looks, 100ms at the least
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) every: TimeLimit,
}

/// Flags of `ctl logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on with what is added, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// How many lines at its end
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) lines: usize,
}

/// Flags of `ctl kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Number of a client in `codexd ctl clients`, or its name if no other client has it
    #[arg(value_name = "CLIENT")]
    pub(crate) client: String,
}

/// Flags of `ctl status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print only these members of the JSON form, one bare value a line: `state,upstream.pid`
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "json")]
    pub(crate) field: Vec<String>,

    /// Every instance of yours that runs; the exit code is that of the worst
    #[arg(long, conflicts_with_all = ["field", "control_socket", "watch"])]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

/// Flags of `ctl history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// How many turns to show
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    pub(crate) limit: u64,

    /// Only those that were lost at the last exit, of the daemon or of its codex
    #[arg(long, conflicts_with = "limit")]
    pub(crate) lost: bool,
}

/// Flags of `ctl list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Also those that stopped because they were asked to
    #[arg(long)]
    pub(crate) all: bool,
}

/// Flags of `ctl wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What to wait for
    #[arg(value_enum)]
    pub(crate) target: WaitFor,

    /// How long to wait; `ready` also waits for a daemon that is still to be started
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(crate) timeout: TimeLimit,
}

/// What `ctl wait` can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// The daemon serves clients
    Ready,
    /// The daemon is gone
    Stopped,
}

/// Flags of `ctl log-level`.
#[derive(Debug, Args)]
pub(crate) struct LogLevelArgs {
    /// off, error, warn, info, debug or trace; more after a comma, as `info,TARGET=debug`
    #[arg(value_name = "LEVEL")]
    pub(crate) filter: LogFilter,
}

/// Flags of `ctl upgrade`.
#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// How long running turns can go on; if they do, nothing happens and the exit is 1 [default: never]
    #[arg(long, value_name = "DURATION")]
    pub(crate) within: Option<TimeLimit>,

    /// Restart it also if nothing has changed on disk
    #[arg(long)]
    pub(crate) force: bool,
}

/// Flags of `ctl stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Interrupt running turns instead of letting them finish
    #[arg(long)]
    pub(crate) now: bool,

    /// Stop every instance of yours that runs
    #[arg(long, conflicts_with = "control_socket")]
    pub(crate) all: bool,

    /// Kill codex at once: running turns are lost
    #[arg(long, conflicts_with = "now")]
    pub(crate) kill: bool,

    /// How long to wait for the exit
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) timeout: TimeLimit,
}

/// Moves the flags between `codexd` and `app-server` to the place after `app-server`: codex takes its configuration
/// on both sides (`codex -c KEY=VALUE app-server`), and programs make use of it.
pub(crate) fn hoist(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let all: Vec<OsString> = arguments.into_iter().collect();
    let Some((program, rest)) = all.split_first() else { return all };
    match codex_flags::app_server(rest) {
        Some(rest) => [program.clone(), "app-server".into()].into_iter().chain(rest).collect(),
        None => all,
    }
}

/// Returns the instance that a command line names, where the rest of it cannot be read.
pub(crate) fn instance_in(arguments: impl IntoIterator<Item = OsString>) -> Option<String> {
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--instance" {
            return arguments.next()?.into_string().ok();
        }
        if let Some(name) = argument.to_str().and_then(|text| text.strip_prefix("--instance=")) {
            return Some(name.to_owned());
        }
    }
    None
}

/// Reads a command line.
///
/// # Errors
///
/// What is wrong with it, or what was asked for instead: help, the version. A verb of `ctl` that stands without it is
/// named with it.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(hoist(arguments)).map_err(|mut error| {
        if error.kind() == ErrorKind::InvalidSubcommand
            && let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
            && is_verb(verb)
        {
            let meant = ContextValue::String(format!("ctl {verb}"));
            error.insert(ContextKind::SuggestedSubcommand, meant);
        }
        error
    })
}

/// Returns the table itself, for what is generated from it: complete, and without `help` at every level.
pub(crate) fn table() -> clap::Command {
    let mut command = Cli::command().version(version::NUMBER).disable_help_subcommand(true);
    command.build();
    command
}

fn is_verb(word: &str) -> bool {
    let command = Cli::command();
    command.find_subcommand("ctl").is_some_and(|ctl| ctl.find_subcommand(word).is_some())
}

/// Whether a command line that cannot be read asks for JSON.
pub(crate) fn wants_json(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments.into_iter().take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_one_line_of_help() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let help = argument.get_help().unwrap_or_else(|| panic!("{} has no help", argument.get_id()));
                assert!(help.to_string().len() < 130, "{}: too long", argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn a_verb_without_its_command_is_named_with_it() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for verb in Cli::command().find_subcommand("ctl").unwrap().get_subcommands() {
            let line = format!("codexd {} --json", verb.get_name());
            let error = parse(words(&line)).unwrap_err().render().to_string();
            assert!(error.contains(&format!("'ctl {}'", verb.get_name())), "{error}");
        }
        let error = parse(words("codexd bogus")).unwrap_err().render().to_string();
        assert!(!error.contains("'ctl"), "{error}");
        assert!(wants_json(words("codexd status --json")) && !wants_json(words("codexd x -- --json")));
    }

    #[test]
    fn an_argument_for_codex_may_begin_with_a_dash() {
        let cli =
            Cli::try_parse_from(["codexd", "serve", "--codex-arg", "-c", "--codex-arg", "a=b"]).unwrap();
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        assert_eq!(args.codex_arg, ["-c", "a=b"]);
    }

    #[test]
    fn the_instance_is_read_from_a_command_line_that_is_wrong() {
        let of = |line: &str| instance_in(line.split(' ').map(OsString::from));
        assert_eq!(of("codexd serve --bogus --instance x").as_deref(), Some("x"));
        assert_eq!(of("codexd serve --instance=y --bogus").as_deref(), Some("y"));
        assert_eq!(of("codexd serve --bogus"), None);
        assert_eq!(of("codexd serve --instance"), None);
    }

    #[test]
    fn what_codexd_does_not_know_is_codexs() {
        for (line, connect, rest) in [
            ("codexd app-server", false, &[][..]),
            ("codexd app-server --listen stdio://", false, &["--listen", "stdio://"]),
            ("codexd app-server --no-spawn -c a=b --no-spawn", true, &["-c", "a=b", "--no-spawn"]),
            (
                "codexd -c a=b --enable=x app-server --stdio",
                false,
                &["-c", "a=b", "--enable", "x", "--stdio"],
            ),
            ("codexd -ca=b --strict-config app-server", false, &["-c", "a=b", "--strict-config"]),
            ("codexd app-server generate-ts --out x", false, &["generate-ts", "--out", "x"]),
        ] {
            let cli = Cli::try_parse_from(hoist(line.split(' ').map(OsString::from))).unwrap();
            let Command::AppServer(args) = cli.command else { panic!("{line}") };
            assert_eq!(args.arguments, rest, "{line}");
            assert_eq!(args.connect.no_spawn, connect, "{line}");
        }
        let untouched = ["codexd", "-c", "a=b", "serve"].map(OsString::from);
        assert_eq!(hoist(untouched.clone()), untouched);
    }
}
