//! The mark of one life of daemon and upstream, in the environment of everything that codex starts.
//!
//! A process inherits the environment and keeps it whatever session, group or parent it moves to. So a random
//! token there proves, long after daemon and codex are gone, which life a process belongs to; a process id
//! from a file would prove nothing.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::settings::environment::Environment;

/// The variable with the token of the life a process belongs to.
pub(crate) const LIFE: &str = "CODEXD_LIFE";

/// The variable that says which codexd runs this codex: its process id and, if it is a daemon, a space and the
/// path of its control socket.
pub(crate) const PARENT: &str = "CODEXD_PARENT";

/// The variable that counts how often codexd has run codex on the way from the login to this process.
pub(crate) const DEPTH: &str = "CODEXD_DEPTH";

/// The value of [`LIFE`] for a daemon that a client started: it outlives the codex that the client may be a
/// command of, and belongs to no life but its own.
pub(crate) const NO_LIFE: &str = "none";

/// The name of one life: 128 random bits, 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Token(u128);

impl Token {
    /// Makes one that nobody else has.
    ///
    /// # Errors
    ///
    /// When the system has no random bytes.
    pub(crate) fn random() -> io::Result<Token> {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Token(u128::from_ne_bytes(bytes)))
    }

    /// Returns the token in the environment of a process: variables with a NUL after each, as the system keeps
    /// them (`proc_pid_environ(5)`).
    pub(crate) fn in_environment(environment: &[u8]) -> Option<Belonging> {
        let value = environment
            .split(|byte| *byte == 0)
            .find_map(|line| line.strip_prefix(LIFE.as_bytes())?.strip_prefix(b"="))?;
        let token = std::str::from_utf8(value).ok().and_then(|text| Token::try_from(text.to_owned()).ok());
        Some(token.map_or(Belonging::Elsewhere, Belonging::To))
    }
}

/// What a process says of the life it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belonging {
    /// To this one.
    To(Token),
    /// To none that could be named here.
    Elsewhere,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Not the whole of it: whoever reads a log must not be able to give a process this mark.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:08x}..)", self.0 >> 96)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        token.to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Token, &'static str> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| digits);
        number.map(Token).ok_or("not 32 hexadecimal digits")
    }
}

/// The codexd that runs the codex this process descends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// Its process id; for a comparison only.
    pub(crate) pid: u32,
    /// Its control socket, if it is a daemon.
    pub(crate) control_socket: Option<PathBuf>,
}

impl Parent {
    /// Reads [`PARENT`].
    pub(crate) fn of(environment: &Environment) -> Option<Parent> {
        let value = environment.value(PARENT)?.as_bytes();
        let mut parts = value.splitn(2, |byte| *byte == b' ');
        let pid = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let control_socket = parts.next().map(|path| PathBuf::from(OsStr::from_bytes(path)));
        Some(Parent { pid, control_socket })
    }
}

/// Returns [`DEPTH`]; 0 where nothing is known.
pub(crate) fn depth(environment: &Environment) -> u32 {
    environment.value(DEPTH).and_then(|value| value.to_str()?.parse().ok()).unwrap_or(0)
}

/// Returns the variables by which a codex that this process runs, and all that it starts, know where they
/// belong. `daemon` is the life and the control socket, where this process is a daemon.
pub(crate) fn variables(
    daemon: Option<(Token, &Path)>,
    environment: &Environment,
) -> Vec<(&'static str, OsString)> {
    let mut parent = OsString::from(std::process::id().to_string());
    if let Some((_, control_socket)) = daemon {
        parent.push(" ");
        parent.push(control_socket);
    }
    let depth = depth(environment).saturating_add(1).to_string();
    let life = daemon.map(|(token, _)| (LIFE, OsString::from(token.to_string())));
    life.into_iter().chain([(PARENT, parent), (DEPTH, depth.into())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_an_environment_and_nothing_else_is_taken_for_one() {
        let token = Token::random().unwrap();
        assert_ne!(token, Token::random().unwrap());
        let environment =
            |value: &str| format!("PATH=/bin\0XCODEXD_LIFE=1\0CODEXD_LIFE={value}\0A=b\0").into_bytes();
        let found = |value: &str| Token::in_environment(&environment(value));
        assert_eq!(found(&token.to_string()), Some(Belonging::To(token)));
        for other in [NO_LIFE, "", &"g".repeat(32), &"0".repeat(33), "+0000000000000000000000000000001"] {
            assert_eq!(found(other), Some(Belonging::Elsewhere), "{other}");
        }
        assert_eq!(Token::in_environment(b"PATH=/bin\0"), None);
        assert_eq!(Token::in_environment(b""), None);
    }

    #[test]
    fn a_token_is_kept_in_json_and_does_not_show_in_a_log() {
        let token = Token::try_from("0123456789abcdef0123456789abcdef".to_owned()).unwrap();
        let json = serde_json::to_string(&token).unwrap();
        assert_eq!(json, "\"0123456789abcdef0123456789abcdef\"");
        assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
        assert_eq!(format!("{token:?}"), "Token(01234567..)");
    }

    #[test]
    fn what_is_put_into_the_environment_is_read_from_it() {
        let token = Token::random().unwrap();
        let socket = Path::new("/run/my codexd/c");
        let set = |daemon, environment: &Environment| {
            let variables = variables(daemon, environment);
            let text = |at: usize| variables[at].1.to_str().unwrap();
            let last = variables.len() - 1;
            Environment::of([(PARENT, text(last - 1)), (DEPTH, text(last)), (LIFE, text(0))])
        };
        let daemons = set(Some((token, socket)), &Environment::default());
        let pid = std::process::id();
        assert_eq!(Parent::of(&daemons), Some(Parent { pid, control_socket: Some(socket.to_owned()) }));
        assert_eq!((depth(&daemons), daemons.value(LIFE).unwrap().to_str()), (1, Some(&*token.to_string())));
        let direct = set(None, &daemons);
        assert_eq!(Parent::of(&direct), Some(Parent { pid, control_socket: None }));
        assert_eq!(depth(&direct), 2);
        assert_eq!(Parent::of(&Environment::of([(PARENT, "x"), (DEPTH, "-1")])), None);
        assert_eq!(depth(&Environment::of([(PARENT, "x"), (DEPTH, "-1")])), 0);
    }
}
