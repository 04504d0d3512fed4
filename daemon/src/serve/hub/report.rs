//! What the daemon reports of itself.

use codexd_proto::routes::Class;
use codexd_proto::status::{ClientStatus, LatencyStatus, StatusReport, Warning};

use super::Hub;
use crate::control::surroundings;
use crate::serve::connection::Measured;

impl Hub {
    /// Describes everything at this moment.
    pub(super) fn report(&self) -> StatusReport {
        let mut report = self.base_status.clone();
        report.counters.clients_refused = self.refused;
        self.core.fill_status(self.now(), &mut report);
        let answers = self.core.statistics().answers().find(|(class, _)| *class == Class::Read);
        let answers = answers.map(|(_, times)| times);
        report.latency = Some(LatencyStatus {
            added_p50_us: self.added_latency.percentile_us(50),
            added_p99_us: self.added_latency.percentile_us(99),
            answer_p50_us: answers.and_then(|times| times.percentile_us(50)),
            answer_p99_us: answers.and_then(|times| times.percentile_us(99)),
        });
        report.memory_warning_bytes = self.reloader.current().memory_warning_bytes;
        report.warnings.extend(self.reloader.warnings());
        report.warnings.extend(self.ledger.warnings());
        if self.socket_file.as_ref().is_some_and(|file| !file.still_ours()) {
            report.warnings.push(Warning {
                code: "socketReplaced".to_owned(),
                message: format!("`{}` was removed or replaced: new clients cannot connect", report.socket),
                hint: if self.inherited {
                    "start the socket again: `systemctl --user restart codexd.socket`".to_owned()
                } else {
                    "stop this daemon with `codexd ctl stop` and start it again".to_owned()
                },
            });
        }
        if let Some(why) = &self.accept_error {
            report.warnings.push(Warning {
                code: "cannotAccept".to_owned(),
                message: format!(
                    "clients that connect have to wait, {} are connected ({why}; the limit on open files is {})",
                    report.clients, report.open_files_limit
                ),
                hint: "raise the hard limit (`LimitNOFILE=` of the unit, or `ulimit -Hn`), or set \
                       `limits.max_clients` to less"
                    .to_owned(),
            });
        }
        report
    }

    /// Returns what the metrics show: with the memory of the processes, which takes some milliseconds.
    pub(super) fn measured(&self) -> Measured {
        let mut report = self.report();
        report.memory = surroundings::memory(&report);
        let (statistics, added_latency) = (self.core.statistics().clone(), self.added_latency.clone());
        Measured { report, statistics, added_latency }
    }

    /// Describes every client.
    pub(super) fn client_reports(&self) -> Vec<ClientStatus> {
        let mut clients = self.core.client_statuses(self.now());
        for client in &mut clients {
            client.pid = self.peer(client.id).and_then(|peer| peer.pid);
        }
        clients
    }

    /// Publishes the state, for requests that come while the core is busy.
    pub(super) fn publish(&self) {
        self.publisher.publish(self.report());
    }

    /// Returns the line that the service manager shows.
    pub(super) fn status_line(&self) -> String {
        self.core.status_line(self.base_status.upstream.pid)
    }
}
