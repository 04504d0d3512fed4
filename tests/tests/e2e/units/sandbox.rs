//! A program in a sandbox that forbids all connections: what it cannot see does not count as absent.

use std::fs;

use super::*;

/// Runs `codexd` with these arguments where `connect(2)` is forbidden, and returns exit code, stdout and stderr.
fn confined(lab: &Lab, words: &str) -> (i32, String, String) {
    let file = |name: &str| lab.home().join(name);
    let unit = format!(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         SystemCallFilter=~connect\nSystemCallErrorNumber=EPERM\n\
         StandardOutput=truncate:{}\nStandardError=truncate:{}\n\
         ExecStart=/bin/sh -c '{}/codexd {words}; echo $? >{}'\n",
        file("stdout").display(),
        file("stderr").display(),
        lab.programs().display(),
        file("code").display(),
    );
    lab.write(lab.home().join(".config/systemd/user/confined.service"), &unit);
    lab.expect_systemctl(0, &["daemon-reload"]);
    lab.expect_systemctl(0, &["restart", "confined.service"]);
    let read = |name: &str| fs::read_to_string(lab.path(file(name))).unwrap();
    (read("code").trim().parse().unwrap(), read("stdout"), read("stderr"))
}

as_both! {
    fn a_daemon_that_cannot_be_reached_is_not_called_absent(lab) {
        lab.start();
        let (code, stdout, _) = confined(&lab, "doctor");
        assert_eq!(code, 1, "{stdout}");
        assert!(stdout.contains("FAIL  sandbox: this process is not allowed to connect"), "{stdout}");
        let (code, stdout, stderr) = confined(&lab, "ctl status");
        assert_eq!(code, 4, "{stdout}{stderr}");
        let (code, stdout, stderr) = confined(&lab, "connect --no-direct");
        assert_eq!((code, stdout.as_str()), (69, ""), "{stderr}");
        assert!(stderr.contains("a sandbox forbids this process to use it"), "{stderr}");
        // No second one was started, and the first one serves.
        assert_eq!(lab.running().len(), 2);
        lab.client("outside").turn_completes();
    }
}
