//! Secrets in text that people are shown: known values, and words that look like keys or tokens.
//!
//! # What is not here
//! No proof that a text is free of secrets. What is masked is what codexd was given itself ([`Secrets::new`],
//! [`of_arguments`], [`is_secret_variable`]), what follows a name or a scheme that indicates a secret, and what has
//! the form of a well-known key.

use core::fmt;
use std::borrow::Cow;

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// Bytes below which a known value is not masked: it would be found in every second word, as `true` would.
const SHORTEST_VALUE: usize = 6;

/// Bytes from which on a word is long enough to be a key, after one of [`KEY_PREFIXES`].
const SHORTEST_KEY: usize = 16;

/// Bytes from which on a word with capitals, small letters and digits counts as a token.
const LONG_WORD: usize = 32;

/// How keys begin: OpenAI and Anthropic, GitHub, GitLab, Slack, AWS, Google, Hugging Face, npm, PyPI, and
/// a JSON Web Token (RFC 7519: `{"` in base64url).
const KEY_PREFIXES: [&str; 17] = [
    "sk-",
    "sk_",
    "pk_",
    "rk_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "AKIA",
    "AIza",
    "hf_",
    "npm_",
    "eyJ",
];

/// The words of a name that indicates a secret, in small letters.
const SECRET_WORDS: [&str; 18] = [
    "key",
    "keys",
    "apikey",
    "token",
    "tokens",
    "secret",
    "secrets",
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "credential",
    "credentials",
    "authorization",
    "auth",
    "cookie",
    "bearer",
];

/// How such words end where they are written as one.
const SECRET_ENDINGS: [&str; 4] = ["apikey", "token", "secret", "password"];

/// Of the words, those that occur in sentences without indicating a secret.
const ALONE: [&str; 6] = ["key", "keys", "token", "tokens", "pass", "auth"];

/// The final words of names whose value is the place of a secret, not the secret.
const PLACE_WORDS: [&str; 11] =
    ["file", "path", "dir", "home", "sock", "socket", "url", "method", "mode", "var", "name"];

/// Values that must not be shown. See the [module's documentation](self).
#[derive(Clone, Default)]
pub struct Secrets {
    /// The longest first: one may contain another.
    values: Vec<String>,
}

impl fmt::Debug for Secrets {
    /// Writes how many there are, and none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.values.len())
    }
}

impl Secrets {
    /// Creates the set of these values; those of fewer than six bytes are left out.
    pub fn new(values: impl IntoIterator<Item = String>) -> Secrets {
        let mut values: Vec<String> =
            values.into_iter().filter(|value| value.trim().len() >= SHORTEST_VALUE).collect();
        values.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Secrets { values }
    }

    /// Returns the text with `***` in place of secrets.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut masked = Cow::Borrowed(text);
        for value in &self.values {
            if masked.contains(value.as_str()) {
                masked = Cow::Owned(masked.replace(value.as_str(), MASK));
            }
        }
        match mask_forms(&masked) {
            Some(text) => Cow::Owned(text),
            None => masked,
        }
    }
}

/// Returns the secrets in arguments of codex: the values of `-c KEY=VALUE` and `--config KEY=VALUE`, and
/// each string inside of one that is a list or a table.
///
/// A value that is one word of small letters and hyphens, as `untrusted`, or a number is no secret, unless its key
/// indicates one: an error that names it would say nothing without it.
pub fn of_arguments(arguments: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let setting = match argument.as_str() {
            "-c" | "--config" => rest.next().map(String::as_str),
            _ => argument
                .strip_prefix("--config=")
                .or_else(|| argument.strip_prefix("-c").filter(|setting| !setting.is_empty())),
        };
        let Some((key, value)) = setting.and_then(|setting| setting.split_once('=')) else { continue };
        let indicated =
            key.split('.').any(|part| part == "env" || part.ends_with("headers") || indicates_secret(part));
        let mut values = vec![value.trim()];
        values.extend(quoted(value));
        let is_secret = |value: &&str| !value.is_empty() && (indicated || !is_plain(value));
        found.extend(values.into_iter().filter(is_secret).map(str::to_owned));
    }
    found
}

/// Whether a variable of this name holds a secret: by its words (`KEY`, `TOKEN`, `PASSWORD`, ...), and not
/// the place of one (`..._FILE`, `SSH_AUTH_SOCK`).
pub fn is_secret_variable(name: &str) -> bool {
    indicates_secret(name)
}

/// Returns the user and the password in an URL such as that of a proxy.
pub fn user_info(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#')).next()?;
    authority.rsplit_once('@').map(|(user, _)| user)
}

/// Whether a name indicates a secret.
fn indicates_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    // `env_key` of codex's providers is the name of a variable, `PWD` the working directory.
    let elsewhere = words.last().is_some_and(|last| PLACE_WORDS.contains(last))
        || words == ["env", "key"]
        || words == ["pwd"];
    let is_secret = |word: &&str| {
        SECRET_WORDS.contains(word) || SECRET_ENDINGS.iter().any(|ending| word.ends_with(ending))
    };
    !elsewhere && words.iter().any(is_secret)
}

/// Whether a value is one word as settings have them, a number or a truth value.
fn is_plain(value: &str) -> bool {
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let word = value.len() <= 24 && value.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_');
    word || value.parse::<f64>().is_ok()
}

/// Returns what stands between quotes in TOML or JSON; escapes are not undone.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let by = |quote| text.split(quote).skip(1).step_by(2);
    by('"').chain(by('\''))
}

/// Masks what has the form of a secret; `None` where there is nothing.
fn mask_forms(text: &str) -> Option<String> {
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let mut before = Before::Nothing;
    while let Some(start) = text[at..].find(is_word_char).map(|i| at + i) {
        let word_end = text[start..].find(|c| !is_word_char(c)).map_or(text.len(), |i| start + i);
        let (between, word) = (&text[at..start], &text[start..word_end]);
        let named = before.names(between, word);
        let scheme = ["bearer", "basic", "token"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
        let user = between.ends_with("://").then(|| user_info(&text[start - 3..])).flatten();
        let mut end = word_end;
        let mut secret = is_key(word);
        if let Some(user) = user.filter(|user| user.contains(':') || user.len() >= SHORTEST_KEY) {
            (secret, end) = (true, start + user.len());
        } else if named && !scheme {
            // What is in quotes may hold anything.
            let quote = between.chars().next_back().filter(|c| matches!(c, '"' | '\'' | '`'));
            let closing = quote.and_then(|quote| text[start..].find(quote));
            (secret, end) = (true, closing.map_or(end, |i| (start + i).max(end)));
        }
        if secret {
            out.push_str(&text[copied..start]);
            out.push_str(MASK);
            copied = end;
        }
        before = match word {
            _ if secret => Before::Nothing,
            _ if scheme && named => Before::Scheme,
            _ if word.eq_ignore_ascii_case("bearer") => Before::Bearer,
            _ if indicates_secret(word) => {
                Before::Name { alone: ALONE.contains(&word.to_ascii_lowercase().as_str()) }
            }
            _ => Before::Nothing,
        };
        at = end;
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// What a word means for the next one.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    /// It names a secret: the next word is one after `=` or `:`. An `alone` one, as `key`, stands in sentences, too:
    /// `unknown key: x`.
    Name {
        alone: bool,
    },
    /// It is the scheme of an `Authorization`: the next word is a secret.
    Scheme,
    /// It may be such a scheme, or stand in a sentence.
    Bearer,
}

impl Before {
    /// Whether `word`, with `between` before it, is a secret because of it.
    fn names(self, between: &str, word: &str) -> bool {
        let sign = between.trim_matches([' ', '\t', '"', '\'', '`']);
        let spaced = !between.is_empty() && between.trim().is_empty();
        let value =
            !matches!(word, "true" | "false" | "null" | "none" | "None") && word.parse::<f64>().is_err();
        match self {
            Before::Nothing => false,
            Before::Name { alone: true } => value && (sign == "=" || sign == ":" && between.starts_with('"')),
            Before::Name { alone: false } => value && matches!(sign, "=" | ":" | "=>"),
            Before::Scheme => spaced,
            Before::Bearer => {
                spaced && (word.len() >= SHORTEST_KEY || word.bytes().any(|b| b.is_ascii_digit()))
            }
        }
    }
}

/// Characters of keys and tokens: base64 in both alphabets but the slash, which paths have, and the full stop of
/// a JSON Web Token.
fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '~')
}

fn is_key(word: &str) -> bool {
    let has = |part: &str, kind: fn(&u8) -> bool| part.as_bytes().iter().any(kind);
    let prefixed = word.len() >= SHORTEST_KEY
        && has(word, u8::is_ascii_digit)
        && KEY_PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    let random = |part: &str| {
        part.len() >= LONG_WORD
            && [u8::is_ascii_uppercase, u8::is_ascii_lowercase, u8::is_ascii_digit]
                .iter()
                .all(|&kind| has(part, kind))
    };
    prefixed || word.split(['.', '-', '~']).any(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(text: &str) -> String {
        Secrets::default().mask(text).into_owned()
    }

    #[test]
    fn known_values_are_masked_wherever_they_stand() {
        let secrets = Secrets::new(["hunter2!".to_owned(), "hunter2!long".to_owned(), "ab".to_owned()]);
        assert_eq!(secrets.mask("xhunter2!y, hunter2!long ab"), "x***y, *** ab");
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    }

    #[test]
    fn what_looks_like_a_key_is_masked() {
        for (text, masked) in [
            ("Incorrect API key provided: sk-proj-abc123def456ghi7.", "Incorrect API key provided: ***"),
            ("authorization: Bearer abcdef", "authorization: Bearer ***"),
            ("Authorization: Basic QWxhZGRpbjpvcGVu==", "Authorization: Basic ***=="),
            ("with bearer eyJhbGciOi.J9.x-1", "with bearer ***"),
            ("experimental_bearer_token = \"my own words\"", "experimental_bearer_token = \"***\""),
            ("{\"api_key\":\"x\",\"key\": \"y\"}", "{\"api_key\":\"***\",\"key\": \"***\"}"),
            ("accessToken: abc", "accessToken: ***"),
            ("http://me:pw@proxy:3128/x", "http://***@proxy:3128/x"),
            ("GITHUB_TOKEN=ghp_0123456789abcdefghij", "GITHUB_TOKEN=***"),
            ("got Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3BxcnN0", "got ***"),
        ] {
            assert_eq!(mask(text), masked);
        }
    }

    #[test]
    fn words_that_only_speak_of_keys_stay() {
        for text in [
            "Error: approval_policy = \"untrusted\" is no longer supported; remove this setting",
            "unknown key: `no_such_key`",
            "/h/config.toml:1:11: invalid basic string, expected `\"`",
            "unexpected token in the bearer scheme",
            "requires_openai_auth = false",
            "env_key = \"MY_API_KEY\"",
            "thread 019a5c7e-1111-7000-8000-0123456789ab in rollout-2026-11-28T20-33-46-019a5c7e.jsonl",
            "codex: error while loading shared libraries: libssl.so.3: cannot open shared object file",
        ] {
            assert_eq!(mask(text), text);
        }
    }

    #[test]
    fn values_of_arguments_are_secrets_unless_they_are_plain_words() {
        let of =
            |words: &[&str]| of_arguments(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            of(&["-c", "a.b=S3cret", "--config=c=x y", "-cd=Z9", "--enable", "e=f"]),
            ["S3cret", "x y", "Z9"]
        );
        assert_eq!(of(&["-c", "approval_policy=untrusted", "-c", "model=7", "-c"]), [""; 0]);
        assert_eq!(of(&["-c", "p.experimental_bearer_token=word"]), ["word"]);
        assert_eq!(of(&["-c", "mcp.x.env={A=\"one\",B='two'}"]), ["{A=\"one\",B='two'}", "one", "two"]);
    }

    #[test]
    fn variables_with_secrets_are_known_by_their_names() {
        for name in
            ["OPENAI_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "DB_PWD", "MY_APIKEY", "npm_config__authToken"]
        {
            assert!(is_secret_variable(name), "{name}");
        }
        for name in ["PATH", "PWD", "OLDPWD", "SSH_AUTH_SOCK", "TOKEN_FILE", "KEYBOARD", "XAUTHORITY", "HOME"]
        {
            assert!(!is_secret_variable(name), "{name}");
        }
        assert_eq!(user_info("http://a:b@c/d@e"), Some("a:b"));
        assert_eq!(user_info("http://c/d@e"), None);
    }
}
