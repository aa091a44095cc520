//! The API's client, for `lbctl`: one request, one answer, bounded in time and size.
//!
//! Needs no privileges beyond those of the socket file, and says which these are when it lacks them.

use std::{
    fmt, io,
    ops::ControlFlow,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{table::printable, types::ErrorBody};

/// Time for one request, from connecting to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is read up to this size: 65,536 backends at under 1 KiB each.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Of what an answer says is wrong so many characters are told.
const MESSAGE_CHARS_MAX: usize = 2000;

/// A client of one agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "the agent is not running: there is no socket at `{}`. Start it with `systemctl start \
         lb-agent`, or say where its socket is with --socket or LB_SOCKET (key `api.socket` of its \
         configuration)",
        socket.display()
    )]
    NotRunning {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// There is a socket and nobody behind it.
    #[error(
        "the agent is not running: nobody answers at `{}`; an agent left the socket there when it \
         was killed. The traffic goes on without it. See `systemctl status lb-agent` and start it \
         again",
        socket.display()
    )]
    Refused {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error("no permission to use the socket `{}`: it is for {allowed}", socket.display())]
    PermissionDenied {
        /// Path of the socket.
        socket: PathBuf,
        /// Who may use it, and how to become one of them.
        allowed: String,
    },
    /// The agent does not answer in time.
    #[error(
        "the agent at `{}` did not answer within {} seconds; see `journalctl -u lb-agent`",
        socket.display(),
        REQUEST_TIMEOUT.as_secs()
    )]
    Timeout {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// The agent answered that it cannot.
    #[error("the agent answered {status}: {message}")]
    Answer {
        /// Status of the answer.
        status: StatusCode,
        /// What the agent says.
        message: String,
    },
    /// What came back is not the API.
    #[error("`{}` does not answer as an lb agent of this version does: {cause}", socket.display())]
    Protocol {
        /// Path of the socket.
        socket: PathBuf,
        /// What was not understood.
        cause: String,
    },
}

impl Client {
    /// A client of the agent behind the socket. Does not connect yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Asks for `path`, which may carry a query.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = Request::get(path).body(Full::default());
        self.ask(request.map_err(|error| self.protocol(&error))?).await
    }

    /// Sends `body` to `path`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(&error))?;
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)));
        self.ask(request.map_err(|error| self.protocol(&error))?).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.request(request)).await {
            Ok(Ok(body)) => serde_json::from_slice(&body).map_err(|error| self.protocol(&error)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ClientError::Timeout { socket: self.socket.clone() }),
        }
    }

    /// Asks for `path`, whose answer is lines of JSON, and hands over each as it comes, until there are
    /// no more or `take` says that it has enough.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut take: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let timed_out = |_| ClientError::Timeout { socket: self.socket.clone() };
        let request = Request::get(path).body(Full::default());
        let request = request.map_err(|error| self.protocol(&error))?;
        let (answer, _connection) = tokio::time::timeout(REQUEST_TIMEOUT, self.send(request))
            .await
            .map_err(timed_out)??;
        if !answer.status().is_success() {
            return self.read_answer(answer).await.map(|_| ());
        }
        let mut body = answer.into_body();
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.protocol(&error))?;
            let Ok(bytes) = frame.into_data() else { continue };
            waiting.extend_from_slice(&bytes);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line = waiting.drain(..=end).collect::<Vec<u8>>();
                let line = serde_json::from_slice(&line).map_err(|error| self.protocol(&error))?;
                if take(line).is_break() {
                    return Ok(());
                }
            }
            if waiting.len() > ANSWER_BYTES_MAX {
                return Err(self.protocol(&"a line without an end"));
            }
        }
        Ok(())
    }

    async fn request(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError> {
        let (answer, _connection) = self.send(request).await?;
        self.read_answer(answer).await
    }

    /// Sends a request. The connection ends when what comes with the answer is dropped.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(hyper::Response<Incoming>, AbortOnDrop), ClientError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.protocol(&error))?;
        // Ends by itself when the agent hangs up; the request below sees what went wrong.
        let driver = AbortOnDrop(tokio::spawn(async { drop(connection.await) }));
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        let answer = sender.send_request(request).await.map_err(|error| self.protocol(&error))?;
        Ok((answer, driver))
    }

    async fn read_answer(&self, answer: hyper::Response<Incoming>) -> Result<Bytes, ClientError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.protocol(&error))?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let message = serde_json::from_slice(&body).map_or_else(
            |_| String::from_utf8_lossy(&body).into_owned(),
            |body: ErrorBody| body.error,
        );
        Err(ClientError::Answer { status, message: bounded(&message) })
    }

    fn unreachable(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::NotRunning { socket },
            io::ErrorKind::ConnectionRefused => ClientError::Refused { socket },
            io::ErrorKind::PermissionDenied => {
                let allowed = describe_allowed(&socket);
                ClientError::PermissionDenied { socket, allowed }
            }
            _ => self.protocol(&error),
        }
    }

    fn protocol(&self, cause: &dyn fmt::Display) -> ClientError {
        let cause = bounded(&cause.to_string());
        ClientError::Protocol { socket: self.socket.clone(), cause }
    }
}

/// What came from behind the socket, for a terminal: whoever answers there may be anybody.
fn bounded(text: &str) -> String {
    let mut characters = text.trim_end().chars();
    let mut shown = printable(&characters.by_ref().take(MESSAGE_CHARS_MAX).collect::<String>());
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who may use the socket, read from its owner and mode.
fn describe_allowed(socket: &Path) -> String {
    let Ok(metadata) = socket.metadata() else {
        return "root; its directory cannot be entered. Try `sudo lbctl`".to_owned();
    };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    describe_owner(metadata.mode(), metadata.gid(), &groups)
}

fn describe_owner(mode: u32, gid: u32, groups: &str) -> String {
    if mode & 0o060 != 0o060 || gid == 0 {
        return "root only (set `api.group` in the agent's configuration to let a group use it). \
                Try `sudo lbctl`"
            .to_owned();
    }
    match group_name(gid, groups) {
        Some(name) => format!(
            "root and the group `{name}`. Join it (`usermod -aG {name} USER`, then log in again) \
             or try `sudo lbctl`"
        ),
        None => format!("root and the group with id {gid}. Try `sudo lbctl`"),
    }
}

/// Name of a group in the text of `/etc/group`.
fn group_name(gid: u32, groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?;
        (id.parse() == Ok(gid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::api::types::VipList;

    #[test]
    fn permission_message_names_the_group() {
        let groups = "root:x:0:\nbroken\nlb:x:990:alice\n";
        assert_snapshot!(describe_owner(0o140_660, 990, groups), @"root and the group `lb`. Join it (`usermod -aG lb USER`, then log in again) or try `sudo lbctl`");
        assert_snapshot!(describe_owner(0o140_660, 991, groups), @"root and the group with id 991. Try `sudo lbctl`");
        assert_snapshot!(describe_owner(0o140_600, 990, groups), @"root only (set `api.group` in the agent's configuration to let a group use it). Try `sudo lbctl`");
        assert_snapshot!(describe_owner(0o140_600, 0, groups), @"root only (set `api.group` in the agent's configuration to let a group use it). Try `sudo lbctl`");
    }

    #[cfg(feature = "agent")]
    #[tokio::test]
    async fn missing_and_dead_sockets_are_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("api.sock");
        let client = Client::new(&path);
        let error = client.get::<VipList>("/v1/vips").await.expect_err("nobody is there");
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
        let _socket = crate::dead_socket::dead_socket(&path);
        let error = client.get::<VipList>("/v1/vips").await.expect_err("nobody listens");
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    }

    /// Answers one request with `answer` and returns what the client makes of it.
    async fn check(answer: &'static [u8]) -> Result<VipList, ClientError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.expect("a request");
            assert!(request[..length].starts_with(b"GET /v1/vips HTTP/1.1\r\n"));
            stream.write_all(answer).await.expect("an answer");
        });
        let result = Client::new(&path).get("/v1/vips").await;
        server.await.expect("the server ends");
        result
    }

    #[tokio::test]
    async fn answers_are_understood_or_named() {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"vips\":[]}";
        assert_eq!(check(good).await.expect("a list").vips, []);

        let refused = b"HTTP/1.1 404 Not Found\r\ncontent-length: 17\r\n\r\n{\"error\":\"no x\"}\n";
        let error = check(refused).await.expect_err("an error");
        assert_snapshot!(error, @"the agent answered 404 Not Found: no x");

        let garbage = b"SSH-2.0-OpenSSH_9.6\r\n";
        let error = check(garbage).await.expect_err("not HTTP");
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");

        let other = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let error = check(other).await.expect_err("another API");
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    }
}
