//! The daemon's one error type: what was attempted, on what, why it failed, what to do next.
//!
//! The kind is private; callers ask predicates or the exit code. The texts are in lower case, without
//! a final period, with names in backticks, so that they can be joined with `: `.

use std::error::Error as StdError;
use std::fmt;

use codexd_proto::exit::ExitCode;

/// A failure with its exit code, its cause and, where there is one, the next step.
pub(crate) struct Error(Box<Inner>);

struct Inner {
    code: ExitCode,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<String>,
}

impl Error {
    /// Makes an error that ends the process with `code`; `context` names what was attempted, on what.
    pub(crate) fn new(code: ExitCode, context: impl Into<String>) -> Error {
        Error(Box::new(Inner { code, context: context.into(), source: None, hint: None }))
    }

    /// Makes an error about the command line.
    pub(crate) fn usage(context: impl Into<String>) -> Error {
        Error::new(ExitCode::Usage, context)
    }

    /// Makes an error about the configuration: file or environment.
    pub(crate) fn config(context: impl Into<String>) -> Error {
        Error::new(ExitCode::Config, context)
    }

    /// Makes an error about the operating system.
    pub(crate) fn os(context: impl Into<String>) -> Error {
        Error::new(ExitCode::Os, context)
    }

    /// Adds the cause.
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the next step: what to type or change.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Returns the code the process ends with because of this.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.0.code
    }

    /// Returns whether the command line is at fault.
    pub(crate) fn is_usage(&self) -> bool {
        self.0.code == ExitCode::Usage
    }

    /// Returns whether the same attempt, with nothing changed, may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        !self.0.code.is_permanent() || self.0.code == ExitCode::AlreadyRunning
    }

    /// Returns the next step, if there is one to name.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns the message with all its causes, in one line; a cause that repeats what stands there
    /// already is left out.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.chain(), self.0.code)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_cause_once() {
        let inner = Error::os("cannot open `x`").because(std::io::Error::from_raw_os_error(2));
        let outer = Error::config("cannot read `y`").because(inner).hint("do z");
        assert_eq!(outer.chain(), "cannot read `y`: cannot open `x`: No such file or directory (os error 2)");
        assert_eq!(outer.next_step(), Some("do z"));
        assert_eq!(outer.exit_code().number(), 78);
        assert!(!outer.is_usage());
    }

    #[test]
    fn permanent_failures_are_not_retryable() {
        assert!(!Error::config("x").is_retryable());
        assert!(Error::os("x").is_retryable());
        assert!(Error::new(ExitCode::AlreadyRunning, "x").is_retryable());
    }
}
