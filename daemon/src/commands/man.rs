//! `codexd man`: the man pages, one for each command, from the table of commands and flags.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use codexd_proto::exit::ExitCode;

use crate::cli::{self, ManArgs};
use crate::error::Error;
use crate::settings::version;

/// Writes the man pages into a directory.
///
/// # Errors
///
/// With exit code 73 when the directory or a file in it cannot be created.
pub(crate) fn run(args: &ManArgs) -> Result<ExitCode, Error> {
    write(&args.directory).map_err(|error| {
        let what = format!("cannot write man pages to `{}`", args.directory.display());
        Error::new(ExitCode::CannotCreate, what).because(error).hint("name a directory that you can write to")
    })?;
    Ok(ExitCode::Stopped)
}

fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, page) in pages()? {
        std::fs::write(directory.join(name), page)?;
    }
    Ok(())
}

/// Returns the name and the contents of each page.
///
/// # Errors
///
/// None in fact: they are written to memory.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    add(&cli::table(), &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let mut written = Vec::new();
    let source = format!("codexd {}", version::NUMBER);
    let man = Man::new(command.clone()).source(source).manual("codexd");
    man.render_title(&mut written)?;
    man.render_name_section(&mut written)?;
    man.render_synopsis_section(&mut written)?;
    man.render_description_section(&mut written)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut written)?;
    }
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut written)?;
    }
    more_about(command, &mut written)?;
    pages.push((man.get_filename(), written));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add(below, pages)?;
    }
    Ok(())
}

/// Writes the sections that only some pages have.
fn more_about(command: &Command, written: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    let mut list = |heading: &str, items: &[(String, &str)]| {
        roff.control("SH", [heading]);
        for (term, text) in items {
            roff.control("TP", []).text([bold(term.as_str())]).text([roman(*text)]);
        }
    };
    match command.get_display_name().unwrap_or_default() {
        "codexd" => {
            list("NOTES", &NOTES.map(|(term, text)| (term.to_owned(), text)));
            list("FILES", &FILES.map(|(term, text)| (term.to_owned(), text)));
        }
        "codexd-serve" => {
            let codes = ExitCode::ALL.map(|code| (code.number().to_string(), meaning(code)));
            list("EXIT STATUS", &codes);
            list("SIGNALS", &SIGNALS.map(|(term, text)| (term.to_owned(), text)));
            list("FILES", &FILES.map(|(term, text)| (term.to_owned(), text)));
        }
        _ => {}
    }
    let related = match command.get_display_name().unwrap_or_default() {
        "codexd" => "codexd-serve(1), codexd-connect(1), codexd-ctl(1), codexd-install(1), codexd-doctor(1)",
        _ => "codexd(1)",
    };
    roff.control("SH", ["SEE ALSO"]).text([roman(related)]);
    roff.to_writer(written)
}

/// What the page of all commands says about what they have in common.
const NOTES: [(&str, &str); 2] = [
    ("Durations", "are written 500ms, 30s, 10m, 6h, or never."),
    ("Settings", "Precedence: flags, environment, configuration file, defaults."),
];

/// The files of Linux, as docs/operations.md has them.
const FILES: [(&str, &str); 4] = [
    ("$XDG_CONFIG_HOME/codexd/config.toml", "Settings; codexd serve --check-config shows them."),
    (
        "$XDG_RUNTIME_DIR/codexd/INSTANCE.sock",
        "The socket for clients; beside it the control socket and the lock.",
    ),
    ("$XDG_STATE_HOME/codexd/INSTANCE.json", "How the last daemon ended; codexd ctl last-exit shows it."),
    (
        "$XDG_STATE_HOME/codexd/INSTANCE.log",
        "The log of a daemon that a client started; codexd ctl logs shows it.",
    ),
];

/// The signals, as docs/operations.md has them.
const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGTERM, SIGINT",
        "Running turns may finish, new work is refused; a second one does not wait, a third one kills codex.",
    ),
    ("SIGHUP", "Reads the settings again."),
];

/// Returns the meaning of an exit code, in the words of docs/operations.md.
const fn meaning(code: ExitCode) -> &'static str {
    match code {
        ExitCode::Stopped => "intended stop: signal, `ctl stop`, the last client's shutdown, idle",
        ExitCode::UpstreamLost => {
            "codex was lost without a request to stop (whatever its own status was, 0 included), or did not respond"
        }
        ExitCode::Usage => "the command line is wrong",
        ExitCode::Unavailable => {
            "codex was not found, cannot be executed on this machine, or is codexd itself"
        }
        ExitCode::Software => "internal error",
        ExitCode::Os => "the operating system refused something",
        ExitCode::CannotCreate => "a directory cannot be created or a socket cannot be bound",
        ExitCode::AlreadyRunning => "another live daemon holds this instance",
        ExitCode::Protocol => "codex refused the handshake",
        ExitCode::Unsafe => "a directory, socket or owner is not safe",
        ExitCode::Config => "the configuration is wrong",
        ExitCode::Upgrade => "the next daemon takes its place, with another codex or codexd: `ctl upgrade`",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_committed_pages_are_those_of_the_program() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man");
        if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
            let _ = std::fs::remove_dir_all(&directory);
            write(&directory).unwrap();
        }
        let committed: BTreeMap<String, String> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        let written: BTreeMap<String, String> = pages()
            .unwrap()
            .into_iter()
            .map(|(name, page)| (name, String::from_utf8(page).unwrap()))
            .collect();
        assert_eq!(committed.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
        for (name, page) in written {
            assert!(
                committed[&name] == page,
                "docs/man/{name} is out of date: `UPDATE_DOCS=1 cargo test -p codexd`"
            );
        }
    }

    #[test]
    fn exit_codes_mean_what_the_documentation_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        // Links are for the web.
        let text = std::fs::read_to_string(path)
            .unwrap()
            .replace("[is codexd itself](connect.md#codexd-in-the-place-of-codex)", "is codexd itself");
        for code in ExitCode::ALL {
            let row = format!("| {} | {} |", code.number(), meaning(code));
            assert!(text.contains(&row), "docs/operations.md has no row `{row}`");
        }
    }
}
