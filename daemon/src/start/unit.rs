//! What the units of an instance are called, and what the service manager reports of one.

use std::process::Command;

use crate::settings::environment::lend_runtime_dir;

/// Returns the name of an instance's units, without suffix.
pub(crate) fn unit_name(instance: &str) -> String {
    if instance == "default" { "codexd".to_owned() } else { format!("codexd-{instance}") }
}

/// Returns the agent's label: one for each instance.
pub(crate) fn label(instance: &str) -> String {
    if instance == "default" { "com.codexd.agent".to_owned() } else { format!("com.codexd.agent.{instance}") }
}

/// Asks the user's manager for a property of a unit; `None` where there is no manager.
pub(crate) fn show(unit: &str, property: &str) -> Option<String> {
    let mut command = Command::new("systemctl");
    command.args(["--user", "show", "-P", property, unit]);
    let output = lend_runtime_dir(&mut command).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
