//! What of an environment matters to clients: variables that the upstream acts upon and that its clients
//! may have set otherwise.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use codexd_proto::hash::fnv1a_32;

use crate::settings::environment::Environment;
use crate::settings::paths::canonical;

/// Returns what matters, by the names of the variables.
///
/// CODEX_HOME is the canonical path. Of everything else there is a hash of 32 bits, enough to see that two differ and
/// too little to reveal their values: proxies and keys hold secrets. What is not set is not there. Names of proxies
/// are in capitals, as programs read them in both ways.
pub(crate) fn of(codex_home: &Path, environment: &Environment) -> BTreeMap<String, String> {
    let mut known: BTreeMap<String, String> = environment
        .iter()
        .filter_map(|(name, value)| {
            let name = name.to_str()?;
            let upper = name.to_ascii_uppercase();
            let name = if upper.ends_with("_PROXY") { upper } else { name.to_owned() };
            matters(&name).then(|| (name, format!("{:08x}", fnv1a_32(value.as_bytes()))))
        })
        .collect();
    known.insert("CODEX_HOME".to_owned(), canonical(codex_home).display().to_string());
    known
}

/// Returns the names of what differs, in the order of the alphabet.
pub(crate) fn differences<'a>(
    ours: &'a BTreeMap<String, String>,
    theirs: &'a BTreeMap<String, String>,
) -> Vec<&'a str> {
    let mut names: Vec<&str> = ours.keys().chain(theirs.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| ours.get(*name) != theirs.get(*name));
    names
}

fn matters(name: &str) -> bool {
    name.starts_with("OPENAI_")
        || matches!(name, "PATH" | "HTTP_PROXY" | "HTTPS_PROXY" | "ALL_PROXY" | "NO_PROXY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hashed_and_differences_are_named() {
        let home = Path::new("/nowhere/codex");
        let ours = of(
            home,
            &Environment::of([("PATH", "/bin"), ("https_proxy", "http://me:secret@p"), ("HOME", "/h")]),
        );
        assert_eq!(ours["CODEX_HOME"], "/nowhere/codex");
        assert_eq!(
            ours.keys().map(String::as_str).collect::<Vec<_>>(),
            ["CODEX_HOME", "HTTPS_PROXY", "PATH"]
        );
        assert!(!format!("{ours:?}").contains("secret"));
        let theirs = of(home, &Environment::of([("PATH", "/usr/bin"), ("OPENAI_API_KEY", "k")]));
        assert_eq!(differences(&ours, &theirs), ["HTTPS_PROXY", "OPENAI_API_KEY", "PATH"]);
        assert!(differences(&ours, &ours).is_empty());
    }
}
