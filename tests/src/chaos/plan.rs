//! One run as a value: what each client does, and which fault is injected when.

use std::fmt;
use std::time::Duration;

use super::fault::{Fault, Outcome};
use super::random::Random;

/// One run. Equal seeds give equal plans; the moments of a run are only roughly the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What all of it is derived from.
    pub seed: u64,
    /// On the real codex with a scripted model, else on `fake-codex`.
    pub real: bool,
    /// Time for running turns once a stop is asked for.
    pub drain: Duration,
    /// The clients that work all the time.
    pub clients: Vec<ClientPlan>,
    /// They are connected and do nothing.
    pub idle: bool,
    /// What goes wrong, in order; at most the last one ends the daemon.
    pub steps: Vec<Step>,
}

/// A client that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// How it is connected.
    pub link: LinkKind,
    /// What its work is derived from.
    pub seed: u64,
    /// It looks on at the thread of this other client.
    pub watches: Option<usize>,
    /// It asks on while the daemon drains.
    pub eager: bool,
    /// One command runs as long as the client.
    pub command: bool,
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Lines on the socket.
    Lines,
    /// WebSocket on the socket.
    WebSocket,
    /// Lines to `codexd connect`.
    Connect,
}

/// A fault and its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// So long after the last one, or after all clients were connected.
    pub after: Duration,
    /// What goes wrong.
    pub fault: Fault,
}

impl Plan {
    /// Derives a plan from a seed.
    pub fn new(seed: u64, real: bool) -> Plan {
        let mut random = Random::new(seed);
        let mut steps = Vec::new();
        // More often one fault alone, so that its failure is easy to read.
        let passing = random.pick(&[0, 0, 1, 1, 2]);
        for _ in 0..passing {
            steps.push(Step { after: random.millis(150), fault: Fault::passing(&mut random, real) });
        }
        // A client that connects for a fault has to find the socket.
        steps.sort_by_key(|step| step.fault == Fault::SocketRemoved);
        steps.dedup_by(|one, other| one.fault == Fault::SocketRemoved && other.fault == Fault::SocketRemoved);
        if steps.is_empty() || !random.one_in(3) {
            let mut fault = Fault::ending(&mut random, real);
            if fault.needs_socket() && steps.iter().any(|step| step.fault == Fault::SocketRemoved) {
                fault = Fault::CtlStop { now: random.one_in(2) };
            }
            // Nothing can go wrong before the start, and nothing works when the upstream does not read.
            if fault.is_at_start() || fault == Fault::UpstreamNeverReads {
                steps.clear();
            }
            // The turns of a client that is gone stay open, and another client may still be connected.
            if fault == Fault::ShutdownLast {
                steps.retain(|step| matches!(step.fault, Fault::DaemonSuspended(_) | Fault::ClientTornLine));
            }
            steps.push(Step { after: random.millis(250), fault });
        }
        let count = 1 + random.index(if real { 3 } else { 5 });
        let mut clients: Vec<ClientPlan> = (0..count)
            .map(|index| ClientPlan {
                link: random.pick(&[
                    LinkKind::Lines,
                    LinkKind::Lines,
                    LinkKind::WebSocket,
                    LinkKind::Connect,
                ]),
                seed: random.number(),
                watches: (index > 0 && random.one_in(3)).then(|| random.index(index)),
                eager: random.one_in(2),
                command: random.one_in(6),
            })
            .collect();
        // The client that is hit is not one of those above, so that these have to go on.
        for step in &steps {
            if let Some(link) = victim(&step.fault, &mut random) {
                let seed = random.number();
                clients.push(ClientPlan { link, seed, watches: None, eager: false, command: false });
            }
        }
        let idle = random.one_in(6);
        let drain = Duration::from_millis(random.pick(&[300, 1000, 2000]));
        Plan { seed, real, drain, clients, idle, steps }
    }

    /// Returns the fault that ends the daemon.
    pub fn ending(&self) -> Option<&Fault> {
        let last = &self.steps.last()?.fault;
        (last.outcome() != Outcome::Lives).then_some(last)
    }

    /// Returns the clients that are hit by a fault, in the order of these faults.
    pub fn victims(&self) -> Vec<usize> {
        let count = self.steps.iter().filter(|step| hits_a_client(&step.fault)).count();
        (self.clients.len() - count..self.clients.len()).collect()
    }
}

/// Returns whether a fault is one of a client that works.
pub(crate) fn hits_a_client(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::ClientGone | Fault::ClientHalfCloses | Fault::ClientKilled | Fault::DrainClientGone
    )
}

fn victim(fault: &Fault, random: &mut Random) -> Option<LinkKind> {
    match fault {
        Fault::ClientKilled => Some(LinkKind::Connect),
        fault if hits_a_client(fault) => {
            Some(random.pick(&[LinkKind::Lines, LinkKind::WebSocket, LinkKind::Connect]))
        }
        _ => None,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upstream = if self.real { "the real codex" } else { "fake-codex" };
        let idle = if self.idle { ", idle" } else { "" };
        writeln!(f, "seed {} on {upstream}, drain {:?}{idle}", self.seed, self.drain)?;
        for (index, client) in self.clients.iter().enumerate() {
            write!(f, "  client c{index}: {:?}", client.link)?;
            if let Some(other) = client.watches {
                write!(f, ", watches c{other}")?;
            }
            let words = [(client.eager, ", eager"), (client.command, ", with a command")];
            writeln!(f, "{}", words.iter().filter(|it| it.0).map(|it| it.1).collect::<String>())?;
        }
        for step in &self.steps {
            writeln!(f, "  after {:?}: {:?}, promised: {:?}", step.after, step.fault, step.fault.outcome())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_and_seeds_give_different_ones() {
        for seed in 0..200 {
            assert_eq!(Plan::new(seed, false), Plan::new(seed, false));
        }
        assert_ne!(Plan::new(1, false).clients, Plan::new(2, false).clients);
    }

    #[test]
    fn at_most_the_last_fault_ends_the_daemon() {
        for seed in 0..1000 {
            let plan = Plan::new(seed, seed % 2 == 0);
            let (_, before) = plan.steps.split_last().expect("something goes wrong in each run");
            assert!(before.iter().all(|step| step.fault.outcome() == Outcome::Lives), "{plan}");
            assert!(plan.victims().len() < plan.clients.len(), "{plan}");
        }
    }
}
