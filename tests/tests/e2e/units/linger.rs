//! Whether the service outlives the last session, as `install` and `doctor` report it.

use std::fs;

use codexd_tests::output::Output;
use codexd_tests::skip;

use super::*;

/// Where logind keeps a file for each user whose services stay.
const NOTES: &str = "/var/lib/systemd/linger";

fn doctor(lab: &Lab) -> Option<String> {
    let findings = lab.run(&["codexd", "doctor", "--json"]).json()["findings"].clone();
    let finding = findings.as_array().unwrap().iter().find(|it| it["check"] == "linger")?;
    Some(finding["level"].as_str().unwrap().to_owned())
}

fn install(lab: &Lab) -> Output {
    lab.run(&["codexd", "install", "--systemd"]).expect_code(0)
}

#[test]
fn it_is_read_from_the_notes_where_nobody_answers() {
    let Some(lab) = Lab::boot(User::Ordinary) else { return };
    let notes = lab.path(NOTES);
    let _ = fs::remove_dir_all(&notes);
    // Without logind there are no sessions that could end.
    assert!(!install(&lab).stdout.contains("linger"));
    assert_eq!(doctor(&lab), None);
    fs::create_dir(&notes).unwrap();
    assert!(install(&lab).stdout.contains("`loginctl enable-linger`"));
    assert_eq!(doctor(&lab).as_deref(), Some("warn"));
    fs::write(notes.join("lab"), "").unwrap();
    assert!(!install(&lab).stdout.contains("linger"));
    assert_eq!(doctor(&lab).as_deref(), Some("ok"));
}

#[test]
fn it_is_what_logind_says() {
    let needed = ["/usr/lib/systemd/systemd-logind", "/lib/systemd/systemd-logind"];
    if !needed.iter().any(|path| std::path::Path::new(path).exists()) {
        skip::say("no systemd-logind");
        return;
    }
    let Some(lab) = Lab::boot_with(User::Ordinary, &["--logind"]) else { return };
    assert!(install(&lab).stdout.contains("`loginctl enable-linger`"));
    assert_eq!(doctor(&lab).as_deref(), Some("warn"));
    let _ = lab.run_as_root(&["loginctl", "enable-linger", "lab"]).expect_code(0);
    assert_eq!(doctor(&lab).as_deref(), Some("ok"));
}
