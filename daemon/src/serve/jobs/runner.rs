//! The thread that runs jobs.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};

use super::job::{self, Record};
use crate::control::JobCommand;
use crate::error::Error;
use crate::instance::life::Token;
use crate::ledger::Ledger;
use crate::settings::version;
use crate::turn::{self, Bounds, Failure, Introduction, Order, TurnRequest};

/// Jobs that run at the same time. Further ones wait.
const AT_ONCE: usize = 8;
/// Events that the runtime takes from the system at once: it has room for as many all the time.
const EVENTS: usize = 64;
/// Jobs that can wait.
const MAX_JOBS: usize = 1_000;
/// Name and version in the `initialize` of a job.
const WHO: Introduction = Introduction { name: "codexd jobs", version: version::NUMBER };
/// Attempts to start a turn that codex refuses temporarily, and the time between them.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// Time for the jobs to record their ends when the daemon ends.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The thread, and what ends it.
pub(crate) struct Runner {
    thread: Option<JoinHandle<()>>,
    done: Receiver<()>,
}

impl Runner {
    /// Starts the thread. It gets commands from `commands`, and sends the hub's ends of connections to `connections`.
    ///
    /// # Errors
    ///
    /// If the system provides no thread or runtime.
    pub(crate) fn start(
        generation: u64,
        ledger: Ledger,
        commands: mpsc::UnboundedReceiver<JobCommand>,
        connections: mpsc::UnboundedSender<UnixStream>,
    ) -> Result<Runner, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_io_events_per_tick(EVENTS)
            .build()
            .map_err(|error| Error::os("cannot start the runtime for jobs").because(error))?;
        let (say_done, done) = sync_channel(1);
        let jobs = Jobs {
            generation,
            ledger,
            connections,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            orders: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("jobs".to_owned())
            .spawn(move || {
                LocalSet::new().block_on(&runtime, jobs.run(commands));
                let _ = say_done.send(());
            })
            .map_err(|error| Error::os("cannot start the thread for jobs").because(error))?;
        Ok(Runner { thread: Some(thread), done })
    }

    /// Waits until the end of every job is recorded, at most 2 s. The hub and the control server must have ended
    /// before.
    pub(crate) fn finish(mut self) {
        if self.done.recv_timeout(FINISH_WITHIN).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Jobs {
    generation: u64,
    ledger: Ledger,
    connections: mpsc::UnboundedSender<UnixStream>,
    slots: Arc<Semaphore>,
    /// The sending sides of the jobs' orders.
    orders: HashMap<String, mpsc::UnboundedSender<Order>>,
}

impl Jobs {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<JobCommand>) {
        let mut tasks: JoinSet<String> = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command, &mut tasks),
                    None => break,
                },
                Some(ended) = tasks.join_next() => {
                    if let Ok(id) = ended {
                        self.orders.remove(&id);
                    }
                }
            }
        }
        // The hub has ended, and each running job sees the end of its connection. Waiting jobs are not begun.
        self.slots.close();
        self.orders.clear();
        while tasks.join_next().await.is_some() {}
    }

    fn command(&mut self, command: JobCommand, tasks: &mut JoinSet<String>) {
        match command {
            JobCommand::Start { request, timeout_ms, reply } => {
                let started = self.start(*request, timeout_ms, tasks);
                let _ = reply.send(started);
            }
            JobCommand::Cancel { id, reply } => {
                let told = self.orders.get(&id).is_some_and(|orders| orders.send(Order::Interrupt).is_ok());
                let _ = reply.send(told);
            }
        }
    }

    fn start(
        &mut self,
        request: TurnRequest,
        timeout_ms: Option<u64>,
        tasks: &mut JoinSet<String>,
    ) -> Result<String, String> {
        if tasks.len() >= MAX_JOBS {
            return Err(format!("{MAX_JOBS} jobs are not over"));
        }
        let id = Token::random().map_err(|error| format!("cannot get random bytes: {error}"))?.to_string();
        let asked_for = serde_json::to_value(&request).map_err(|error| error.to_string())?;
        let row = job::row(id.clone(), self.generation, asked_for, timeout_ms);
        let record = Record::new(row, self.ledger.clone());
        // A client that has the id must find the job.
        if !self.ledger.flush() {
            return Err("the turn ledger, which keeps jobs, cannot be written; `codexd ctl status` says why"
                .to_owned());
        }
        let (orders, ordered) = mpsc::unbounded_channel();
        self.orders.insert(id.clone(), orders);
        let bounds = Bounds { timeout: timeout_ms.map(Duration::from_millis), ..Bounds::default() };
        let one =
            One { request, bounds, connections: self.connections.clone(), slots: Arc::clone(&self.slots) };
        tracing::info!(job.id = id, "job begins");
        tasks.spawn_local(one.run(record, ordered));
        Ok(id)
    }
}

/// One job.
struct One {
    request: TurnRequest,
    bounds: Bounds,
    connections: mpsc::UnboundedSender<UnixStream>,
    slots: Arc<Semaphore>,
}

impl One {
    /// Runs it to its end. Returns its id.
    async fn run(self, mut record: Record, mut orders: mpsc::UnboundedReceiver<Order>) -> String {
        let id = record.id().to_owned();
        let slot = tokio::select! {
            biased;
            order = orders.recv() => {
                match order {
                    Some(_) => record.cancelled(),
                    None => record.left(),
                }
                return id;
            }
            slot = self.slots.acquire() => slot,
        };
        if slot.is_err() {
            record.left();
            return id;
        }
        // A new connection for each attempt.
        for attempt in 1.. {
            let failure = match self.connect() {
                Ok(stream) => {
                    match turn::run(stream, WHO, &self.request, self.bounds, &mut orders, &mut record).await {
                        Ok(finished) => {
                            record.finished(finished);
                            return id;
                        }
                        Err(failure) => failure,
                    }
                }
                Err(error) => Failure { error, retry: false, thread: None },
            };
            if !failure.retry || attempt == ATTEMPTS || orders.is_closed() {
                record.failed(failure, false);
                return id;
            }
            tokio::select! {
                biased;
                Some(_) = orders.recv() => {
                    record.failed(failure, true);
                    return id;
                }
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        id
    }

    /// Opens a connection to the hub.
    fn connect(&self) -> Result<tokio::net::UnixStream, Error> {
        let failed = |error| Error::os("cannot make a connection for the job").because(error);
        let (own, other) = UnixStream::pair().map_err(failed)?;
        other.set_nonblocking(true).map_err(failed)?;
        own.set_nonblocking(true).map_err(failed)?;
        self.connections.send(other).map_err(|_| Error::os("the daemon is stopping"))?;
        tokio::net::UnixStream::from_std(own).map_err(failed)
    }
}
