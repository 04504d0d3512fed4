//! The secrets that this process knows, so that they can be masked in what codex writes.

use std::ffi::OsString;

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::secrets::{Secrets, is_secret_variable, of_arguments, user_info};

/// Collects the secrets in arguments of codex and in variables: those whose name indicates it, and what stands for a
/// user in proxies.
pub(crate) fn known(
    codex_args: &CodexArgs,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Secrets {
    let of_variables = variables.into_iter().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        if is_secret_variable(&name) {
            return Some(value);
        }
        name.to_ascii_uppercase().ends_with("_PROXY").then(|| user_info(&value).map(str::to_owned))?
    });
    let of_flags = codex_args.values_of_flags().map(str::to_owned);
    Secrets::new(of_arguments(codex_args.words()).into_iter().chain(of_flags).chain(of_variables))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_arguments_are_looked_at() {
        let variables = [
            ("OPENAI_API_KEY", "the-key"),
            ("https_proxy", "http://me:word@proxy:1"),
            ("PATH", "/usr/bin"),
            ("NO_PROXY", "localhost"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let words = ["-c", "a.token=from-args", "--code-mode-host", "https://h/path", "--enable", "feature"];
        let secrets = known(&CodexArgs::new(words.map(str::to_owned).into()), variables);
        let text = "the-key me:word /usr/bin from-args localhost https://h/path feature";
        assert_eq!(secrets.mask(text), "*** *** /usr/bin *** localhost *** feature");
    }
}
