//! A real systemd for a test: booted in private namespaces by `tests/systemd-lab/systemd-lab`.
//!
//! Each [`Lab`] has a service manager of one user, root or an unprivileged one, and is gone with the value, whatever
//! was started in it. Where that is not possible (no root, no namespaces, no systemd), the test is skipped with a
//! message that has its name and the reason.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::binary;
use crate::client::TestClient;
use crate::output::Output;
use crate::{environment, skip, wait};

/// Whose user manager runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Root has rights that hide mistakes in units.
    Root,
    /// An ordinary user that exists in the lab only.
    Ordinary,
}

impl User {
    fn name(self) -> &'static str {
        match self {
            User::Root => "root",
            User::Ordinary => "lab",
        }
    }

    fn uid(self) -> u32 {
        match self {
            User::Root => 0,
            User::Ordinary => 30000,
        }
    }
}

/// A booted systemd with the programs under test.
#[derive(Debug)]
pub struct Lab {
    user: User,
    name: String,
    script: PathBuf,
    /// PID 1 of the lab, as seen from outside.
    init: i32,
    /// Holds the lab: it ends when this is closed.
    stdin: Option<ChildStdin>,
    child: Child,
    /// `codexd`, and the stand-in named `codex`, where an ordinary user can read them.
    programs: TempDir,
}

impl Lab {
    /// Boots a lab with a network of its own, or returns `None` when the test has to be skipped.
    #[track_caller]
    pub fn boot(user: User) -> Option<Lab> {
        Lab::boot_with(user, &[])
    }

    /// Boots a lab with these options of the script.
    ///
    /// # Panics
    ///
    /// When it can be booted here and is not.
    #[track_caller]
    pub fn boot_with(user: User, options: &[&str]) -> Option<Lab> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("codexd-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd-lab/systemd-lab");
        let mut child = plain(&script)
            .args(["exec", "--name", &name, "--as", user.name()])
            .args(options)
            .args(["--", "/bin/sh", "-c", "echo up; read -r end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash is there");
        let mut stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let _ = BufReader::new(stdout).read_line(&mut line);
        if line != "up\n" {
            let status = child.wait().expect("a child can be waited for");
            let reason = said.join().unwrap_or_default();
            assert_eq!(status.code(), Some(77), "the lab did not boot: {reason}");
            skip::say(&reason);
            return None;
        }
        let list = Output::of(plain(&script).arg("list")).expect_code(0).stdout;
        let init = list
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} "))?.parse().ok())
            .unwrap_or_else(|| panic!("no lab `{name}` in:\n{list}"));
        let programs = programs();
        let stdin = child.stdin.take();
        let lab = Lab { user, name, script, init, stdin, child, programs };
        Some(lab)
    }

    /// Returns a command that runs in the lab as its user, with the programs under test in PATH.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        self.command_of(self.user, words)
    }

    /// Runs a command line to its end as the lab's root, whatever the lab's user is.
    #[track_caller]
    pub fn run_as_root(&self, words: &[&str]) -> Output {
        Output::of(&mut self.command_of(User::Root, words))
    }

    fn command_of<S: AsRef<OsStr>>(&self, user: User, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = plain(&self.script);
        command
            .env("PATH", environment::path_after([self.programs.path().to_owned()]))
            .args(["run", "--name", &self.name, "--as", user.name(), "--"])
            .args(words);
        command
    }

    /// Runs a command line to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Output {
        Output::of(&mut self.command(words))
    }

    /// Runs `systemctl --user`.
    #[track_caller]
    pub fn systemctl(&self, words: &[&str]) -> Output {
        self.run(&[&["systemctl", "--user"], words].concat())
    }

    /// Runs a command line that has to end with `code`, and returns its stdout.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) -> String {
        self.run(words).expect_code(code).stdout
    }

    /// Runs `systemctl --user`, which has to end with `code`, and returns its stdout.
    #[track_caller]
    pub fn expect_systemctl(&self, code: i32, words: &[&str]) -> String {
        self.systemctl(words).expect_code(code).stdout
    }

    /// Returns a property of a unit.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "-P", property, unit]).expect_code(0).stdout.trim().to_owned()
    }

    /// Waits until a property of a unit has this value.
    ///
    /// # Panics
    ///
    /// With the unit's status when it does not get it.
    #[track_caller]
    pub fn wait_for(&self, unit: &str, property: &str, value: &str) {
        if wait::poll(wait::PATIENCE, || (self.show(unit, property) == value).then_some(())).is_none() {
            let is = self.show(unit, property);
            panic!("{property} of {unit} is `{is}` and not `{value}`\n{}", self.report());
        }
    }

    /// Returns what an operator would look at.
    #[track_caller]
    pub fn report(&self) -> String {
        let units = ["codexd.service", "codexd.socket"];
        let status = self.systemctl(&["status", "--no-pager", "-n", "40", units[0], units[1]]);
        status.to_string()
    }

    /// Returns where a file of the lab is found from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new("/proc")
            .join(self.init.to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Returns the home directory, as it is called inside.
    pub fn home(&self) -> PathBuf {
        Path::new("/run/home").join(self.user.name())
    }

    /// Returns the runtime directory, as it is called inside.
    pub fn runtime(&self) -> PathBuf {
        Path::new("/run/user").join(self.user.uid().to_string())
    }

    /// Writes a file of the lab's user, with the directories above it.
    #[track_caller]
    pub fn write(&self, inside: impl AsRef<Path>, text: &str) {
        let (inside, home) = (inside.as_ref(), self.home());
        let below = inside.strip_prefix(&home).expect("files are written below the home directory");
        let owner = Some(self.user.uid());
        let mut path = self.path(&home);
        for part in below.parent().into_iter().flat_map(Path::components) {
            path.push(part);
            if !path.is_dir() {
                fs::create_dir(&path).expect("the lab's home can be written");
                chown(&path, owner, owner).expect("root may give directories away");
            }
        }
        let path = self.path(inside);
        fs::write(&path, text).expect("the lab's home can be written");
        chown(&path, owner, owner).expect("root may give files away");
    }

    /// Adds lines to a unit and makes the manager read them.
    #[track_caller]
    pub fn drop_in(&self, unit: &str, lines: &str) {
        self.write(self.home().join(format!(".config/systemd/user/{unit}.d/test.conf")), lines);
        self.expect_systemctl(0, &["daemon-reload"]);
    }

    /// Makes the stand-in for codex behave; for daemons that are started from now on.
    #[track_caller]
    pub fn script_codex(&self, script: &str) {
        let variable = format!("FAKE_CODEX={script}");
        self.expect_systemctl(0, &["set-environment", &variable]);
    }

    /// Installs the units, without starting anything.
    #[track_caller]
    pub fn install(&self) {
        self.expect(0, &["codexd", "install", "--systemd"]);
    }

    /// Installs the units and starts the service.
    #[track_caller]
    pub fn start(&self) {
        self.install();
        self.expect_systemctl(0, &["start", "codexd.service"]);
    }

    /// Returns the path of the client socket, from outside.
    pub fn socket(&self) -> PathBuf {
        self.path(self.runtime().join("codexd/default.sock"))
    }

    /// Connects a client that has not sent anything yet.
    #[track_caller]
    pub fn raw_client(&self, name: &str) -> TestClient {
        TestClient::connect(name, &self.socket())
    }

    /// Connects a client and introduces it.
    #[track_caller]
    pub fn client(&self, name: &str) -> TestClient {
        let mut client = self.raw_client(name);
        client.initialize();
        client
    }

    /// Returns the processes in the service's cgroup, by their id inside the lab.
    #[track_caller]
    pub fn processes(&self, unit: &str) -> Vec<String> {
        let group = self.show(unit, "ControlGroup");
        if group.is_empty() {
            return Vec::new();
        }
        let file = self.path(format!("/sys/fs/cgroup{group}/cgroup.procs"));
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Returns the command lines of the programs under test that run anywhere in the lab.
    #[track_caller]
    pub fn running(&self) -> Vec<String> {
        let directory = self.programs.path().to_string_lossy().into_owned();
        let script = r#"for p in /proc/[0-9]*; do tr '\0' ' ' <"$p/cmdline" 2>/dev/null && echo; done"#;
        let all = self.run(&["/bin/sh", "-c", script]).stdout;
        all.lines().filter(|line| line.starts_with(&directory)).map(str::to_owned).collect()
    }

    /// Returns the directory of the programs.
    pub fn programs(&self) -> &Path {
        self.programs.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let units = ["status", "--no-pager", "-n", "60", "codexd.service", "codexd.socket"];
            let output = self.command(["systemctl", "--user"].iter().chain(&units)).output();
            if let Ok(output) = output {
                eprintln!("--- the units ---\n{}---", String::from_utf8_lossy(&output.stdout));
            }
        }
        // Its command reads to the end of its input; then the script removes the lab.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// The script with nothing of the caller's environment but PATH.
fn plain(script: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg(script).env_clear().env("PATH", environment::path()).current_dir("/");
    command
}

/// Puts the programs where every user can read them.
#[track_caller]
fn programs() -> TempDir {
    let directory = environment::temporary_directory(environment::is_plain)
        .and_then(|base| tempfile::Builder::new().prefix("codexd-lab").tempdir_in(base))
        .expect("the temporary directory can be written");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for (program, name) in [(binary::codexd(), "codexd"), (binary::fake_codex(), "fake-codex")] {
        let to = directory.path().join(name);
        let mode = fs::metadata(&program).map_or(0, |it| it.permissions().mode());
        // A link has the mode of the original, and the user who built it may have made that private.
        let linked = mode & 0o005 == 0o005 && fs::hard_link(&program, &to).is_ok();
        if !linked {
            fs::copy(&program, &to)
                .and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(0o755)))
                .unwrap_or_else(|error| panic!("cannot copy {}: {error}", program.display()));
        }
    }
    symlink("fake-codex", directory.path().join("codex")).expect("the directory is new");
    directory
}
