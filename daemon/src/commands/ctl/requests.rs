//! `ctl requests`: the requests without an answer, of clients and of codex, the oldest first.

use codexd_proto::control::View;
use codexd_proto::listing::RequestStatus;

use super::lists::Listed;
use super::render;
use super::table::Column;

impl Listed for RequestStatus {
    const VIEW: View = View::Requests;
    const NONE: &'static str = "every request is answered";
    const COLUMNS: &'static [Column] =
        &[("ID", 0), ("FROM", 0), ("METHOD", 0), ("AGE", 0), ("STATE", 1), ("CAN ANSWER", 1), ("THREAD", 2)];

    fn row(&self) -> Vec<String> {
        let of_codex = self.from == "codex";
        let client = || render::known(self.client.as_ref().map(render::client).as_deref());
        vec![
            self.id.clone(),
            if of_codex { "codex".to_owned() } else { client() },
            self.method.clone().unwrap_or_else(|| "(not in the routing table)".to_owned()),
            render::duration(self.age_ms),
            self.state.clone(),
            match (of_codex, self.seen_by.is_empty()) {
                (false, _) => "codex".to_owned(),
                (true, true) => "nobody".to_owned(),
                (true, false) => render::clients(&self.seen_by),
            },
            render::known(self.thread_id.as_deref().map(render::id).as_deref()),
        ]
    }
}
