//! The port for metrics on loopback, where the settings name one: the pages of the client socket over TCP, and nothing
//! else.

use std::net::Ipv4Addr;
use std::time::Duration;

use codexd_proto::exit::ExitCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::SharedHub;
use crate::error::Error;
use crate::serve::connection::{Head, Request, Response};

/// How long a request and its answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Listens on a port of 127.0.0.1.
///
/// # Errors
///
/// With exit code 73 when the port is taken.
pub(crate) fn listen(port: u16) -> Result<TcpListener, Error> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    listener.map_err(|error| {
        Error::new(ExitCode::CannotCreate, format!("cannot listen on 127.0.0.1:{port} for metrics"))
            .because(error)
            .hint("set `metrics_port` to another port, or remove it")
    })
}

/// Answers requests one after the other until the daemon accepts no clients any more.
pub(super) async fn serve(hub: SharedHub, listener: TcpListener) {
    let accepting = hub.borrow().accepting.clone();
    loop {
        let accepted = tokio::select! {
            () = accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Who is slow or leaves without a word has had an answer, or needs none.
                let _ = tokio::time::timeout(WITHIN, answer(&hub, stream)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn answer(hub: &SharedHub, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Head::default();
    let mut bytes = [0; 4096];
    let request = loop {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        if let Some(request) = head.read(&mut &bytes[..length]) {
            break request;
        }
    };
    let response = match request {
        Request::Get { path, head_only } => Response::to(&path, head_only, || hub.borrow().measured()),
        Request::Refused(response) => response,
        Request::Upgrade(_) | Request::Neither => Response::pages_only(),
    };
    stream.write_all(&response.into_bytes()).await?;
    stream.shutdown().await
}
