//! How the process as a whole behaves: the markers of `FAKE_CODEX`.

use std::time::Duration;

use codexd_tests::marker::markers;

/// Read once at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    pub(crate) init_error: Option<i64>,
    pub(crate) init_hang: bool,
    pub(crate) init_exit: Option<u8>,
    pub(crate) ignore_term: bool,
    pub(crate) ignore_eof: bool,
    pub(crate) never_read: bool,
    pub(crate) overload: Option<u64>,
    pub(crate) slow: Option<Duration>,
    pub(crate) strict: bool,
    pub(crate) keep: bool,
}

impl Behaviour {
    pub(crate) fn from_environment() -> Result<Behaviour, String> {
        Behaviour::of(&std::env::var("FAKE_CODEX").unwrap_or_default())
    }

    fn of(text: &str) -> Result<Behaviour, String> {
        let mut behaviour = Behaviour::default();
        for marker in markers(text) {
            match marker.kind.as_str() {
                "init-error" => behaviour.init_error = Some(marker.number(0, -32603)?),
                "init-hang" => behaviour.init_hang = true,
                "init-exit" => behaviour.init_exit = Some(marker.number(0, 1)?),
                "ignore-term" => behaviour.ignore_term = true,
                "ignore-eof" => behaviour.ignore_eof = true,
                "never-read" => behaviour.never_read = true,
                "overload" => behaviour.overload = Some(marker.number(0, 2)?.max(1)),
                "slow" => behaviour.slow = Some(Duration::from_millis(marker.number(0, 10)?)),
                "strict" => behaviour.strict = true,
                "keep" => behaviour.keep = true,
                other => return Err(format!("unknown marker `{other}`")),
            }
        }
        Ok(behaviour)
    }
}
