//! `cargo demo`, interrupted.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use codexd_tests::binary;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::Home;
use codexd_tests::process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Started;

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let home = Home::new().unwrap();
        let mut command = home.command(&binary::demo());
        command.env("TMPDIR", home.runtime()).env("CODEXD_BIN", binary::codexd());
        command.env("CODEXD_TEST_CODEX", &codex.native);
        let mut demo = Started::of(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
        // Both clients are about to speak.
        assert!(lines.by_ref().any(|line| line.unwrap().contains("one codex app-server, pid")));
        assert!(process::marked(home.root()).len() >= 3, "demonstration, daemon and codex");
        kill(Pid::from_raw(i32::try_from(demo.0.id()).unwrap()), signal).unwrap();
        assert_eq!(demo.exit_code(), Some(code));
        process::assert_no_process_left(home.root());
        assert_eq!(std::fs::read_dir(home.runtime()).unwrap().count(), 0, "its directory is gone");
    }
}
