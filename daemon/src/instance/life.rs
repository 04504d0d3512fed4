//! The mark of one life of daemon and upstream, in the environment of everything that codex starts.
//!
//! A process inherits the environment and keeps it whatever session, group or parent it moves to. So a random
//! token there proves, long after daemon and codex are gone, which life a process belongs to; a process id
//! from a file would prove nothing.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::settings::environment::Environment;

/// The variable with the token of the life a process belongs to.
pub(crate) const LIFE: &str = "CODEXD_LIFE";

/// The variable that names the codexd that runs this codex: its process id and, after a space, what it runs it for,
/// see [`Purpose`].
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
    /// Makes a token that no other life has.
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
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn in_environment(environment: &[u8]) -> Option<Belonging> {
        let value = environment
            .split(|byte| *byte == 0)
            .find_map(|line| line.strip_prefix(LIFE.as_bytes())?.strip_prefix(b"="))?;
        let token = std::str::from_utf8(value).ok().and_then(|text| Token::try_from(text.to_owned()).ok());
        Some(token.map_or(Belonging::Elsewhere, Belonging::To))
    }
}

/// The life that a process belongs to, by its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belonging {
    /// To this one.
    To(Token),
    /// To none that could be named here.
    #[cfg(any(target_os = "linux", test))]
    Elsewhere,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Not the whole of it: a reader of the log must not be able to give a process this mark.
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

/// What codexd runs codex for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// As the upstream of a daemon with this control socket. Written as the path, which is absolute.
    Daemon(PathBuf),
    /// For one client, without a daemon. Written as `client`.
    Client,
    /// To see whether it starts. Written as `trial`.
    Trial,
}

/// The codexd that runs the codex this process descends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// Its process id; for a comparison only.
    pub(crate) pid: u32,
    pub(crate) purpose: Purpose,
}

impl Parent {
    /// Reads [`PARENT`].
    pub(crate) fn of(environment: &Environment) -> Option<Parent> {
        let value = environment.value(PARENT)?.as_bytes();
        let space = value.iter().position(|byte| *byte == b' ')?;
        let pid = std::str::from_utf8(&value[..space]).ok()?.parse().ok()?;
        let purpose = match &value[space + 1..] {
            b"client" => Purpose::Client,
            b"trial" => Purpose::Trial,
            path => Purpose::Daemon(PathBuf::from(OsStr::from_bytes(path))),
        };
        Some(Parent { pid, purpose })
    }

    /// Returns the text that [`Parent::of`] reads.
    fn text(&self) -> OsString {
        let mut text = OsString::from(format!("{} ", self.pid));
        match &self.purpose {
            Purpose::Daemon(control_socket) => text.push(control_socket),
            Purpose::Client => text.push("client"),
            Purpose::Trial => text.push("trial"),
        }
        text
    }
}

/// Returns [`DEPTH`]; 0 where nothing is known.
pub(crate) fn depth(environment: &Environment) -> u32 {
    environment.value(DEPTH).and_then(|value| value.to_str()?.parse().ok()).unwrap_or(0)
}

/// Returns the variables by which a codex that this process runs, and all that it starts, know where they belong;
/// `life` if this process ends codex's leftover processes.
pub(crate) fn variables(
    life: Option<Token>,
    purpose: Purpose,
    environment: &Environment,
) -> Vec<(&'static str, OsString)> {
    let parent = Parent { pid: std::process::id(), purpose };
    let depth = depth(environment).saturating_add(1).to_string();
    let life = life.map(|token| (LIFE, OsString::from(token.to_string())));
    life.into_iter().chain([(PARENT, parent.text()), (DEPTH, depth.into())]).collect()
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
        let set = |life, purpose: &Purpose, environment: &Environment| {
            let variables = variables(life, purpose.clone(), environment);
            let text = |at: usize| variables[at].1.to_str().unwrap();
            let last = variables.len() - 1;
            Environment::of([(PARENT, text(last - 1)), (DEPTH, text(last)), (LIFE, text(0))])
        };
        let daemon = Purpose::Daemon("/run/my codexd/c".into());
        let pid = std::process::id();
        let mut above = Environment::default();
        for (n, purpose) in [daemon, Purpose::Client, Purpose::Trial].into_iter().enumerate() {
            above = set(Some(token), &purpose, &above);
            assert_eq!(Parent::of(&above), Some(Parent { pid, purpose }));
            assert_eq!(depth(&above), u32::try_from(n).unwrap() + 1);
            assert_eq!(above.value(LIFE).unwrap().to_str(), Some(&*token.to_string()));
        }
        assert!(variables(None, Purpose::Client, &above).iter().all(|(name, _)| *name != LIFE));
        assert_eq!(Parent::of(&Environment::of([(PARENT, "x"), (DEPTH, "-1")])), None);
        assert_eq!(depth(&Environment::of([(PARENT, "x"), (DEPTH, "-1")])), 0);
    }
}
