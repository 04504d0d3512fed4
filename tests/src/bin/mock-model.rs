//! The scripted model server as a program, for trying the real codex by hand.
//!
//! `mock-model [--port PORT] [--log FILE]` prints `listening 127.0.0.1:PORT` and serves until it is
//! killed. The markers are in the documentation of [`codexd_tests::model`].
#![allow(clippy::print_stdout, reason = "its one line of output is its interface")]

use std::path::PathBuf;
use std::process::ExitCode;

use codexd_tests::model::MockModel;

fn main() -> ExitCode {
    match arguments().and_then(|(port, log)| {
        MockModel::start_on(port, log).map_err(|error| format!("cannot listen on port {port}: {error}"))
    }) {
        Ok(model) => {
            println!("listening {}", model.address());
            model.join();
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("mock-model: {reason}");
            ExitCode::from(64)
        }
    }
}

fn arguments() -> Result<(u16, Option<PathBuf>), String> {
    let (mut port, mut log) = (0, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("`{flag}` needs a value"));
        match flag.as_str() {
            "--port" => port = value()?.parse().map_err(|_| "`--port` needs a port number".to_owned())?,
            "--log" => log = Some(PathBuf::from(value()?)),
            _ => {
                return Err(format!(
                    "unknown argument `{flag}`; usage: mock-model [--port PORT] [--log FILE]"
                ));
            }
        }
    }
    Ok((port, log))
}
