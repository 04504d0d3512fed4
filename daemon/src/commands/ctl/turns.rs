//! `ctl turns`: the running turns, the oldest first.

use codexd_proto::control::View;
use codexd_proto::listing::TurnStatus;

use super::lists::Listed;
use super::render;
use super::table::Column;

impl Listed for TurnStatus {
    const VIEW: View = View::Turns;
    const NONE: &'static str = "no turn runs";
    const COLUMNS: &'static [Column] = &[
        ("ID", 0),
        ("THREAD", 2),
        ("AGE", 0),
        ("LAST EVENT", 0),
        ("PHASE", 0),
        ("STATE", 3),
        ("BY", 1),
        ("SUBSCRIBERS", 4),
        ("CWD", 2),
        ("MODEL", 3),
    ];

    fn row(&self) -> Vec<String> {
        vec![
            render::known(self.id.as_deref().map(render::id).as_deref()),
            render::thread(&self.thread_id, self.sub_agent),
            render::known(self.age_ms.map(render::duration).as_deref()),
            render::ago(self.last_event_ms),
            self.phase.clone(),
            if self.silent { "silent".to_owned() } else { self.state.clone() },
            render::known(self.by.as_ref().map(render::client).as_deref()),
            render::clients(&self.subscribers),
            render::known(self.cwd.as_deref()),
            render::known(self.model.as_deref()),
        ]
    }
}
