//! `ctl threads`: the threads in use, active ones first.

use codexd_proto::control::View;
use codexd_proto::listing::ThreadStatus;

use super::lists::Listed;
use super::render;
use super::table::Column;

impl Listed for ThreadStatus {
    const VIEW: View = View::Threads;
    const NONE: &'static str = "no thread is in use";
    const COLUMNS: &'static [Column] = &[
        ("ID", 0),
        ("STATE", 0),
        ("TURN", 3),
        ("APPROVALS", 2),
        ("SUBSCRIBERS", 1),
        ("CWD", 1),
        ("MODEL", 2),
        ("LAST EVENT", 1),
    ];

    fn row(&self) -> Vec<String> {
        vec![
            render::thread(&self.id, self.sub_agent),
            self.state.clone(),
            render::known(self.turn_id.as_deref().map(render::id).as_deref()),
            self.pending_approvals.to_string(),
            render::clients(&self.subscribers),
            render::known(self.cwd.as_deref()),
            render::known(self.model.as_deref()),
            render::ago(self.last_event_ms),
        ]
    }
}
