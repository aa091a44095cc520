//! HTTP/1.1: one request, and as much of the answer as is needed to judge it.

use std::{ops::RangeInclusive, sync::Arc};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    ext::on_informational,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    super::{
        book::Job,
        outcome::{FailureKind, Outcome},
    },
    bounded::{INTERIM_MAX, Interim},
};
use crate::model::HttpProbe;

/// Bytes of an answer's head; more is a failure.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of an answer; more is a failure.
const HEADERS_MAX: usize = 256;
/// Bytes of an answer's body that are looked at.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How the agent calls itself.
const AGENT: &str = concat!("lb-agent/", env!("CARGO_PKG_VERSION"), " (health probe)");

/// The request of a probe. It does not ask the server to close: who closes first keeps the connection
/// in `TIME_WAIT`, and we close by a reset, which leaves nothing. Labels and config have been checked;
/// what slips through fails here.
pub(super) fn request(http: &HttpProbe, job: &Job) -> Result<Request<Empty<Bytes>>, Outcome> {
    let host = http.host.clone().unwrap_or_else(|| match http.port {
        Some(port) => std::net::SocketAddr::new(job.target.address.ip(), port).to_string(),
        None => job.target.address.to_string(),
    });
    Request::builder()
        .method(http.method.as_str())
        .uri(http.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, AGENT)
        .header(header::ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(|error| Outcome::Inconclusive(format!("the request cannot be made: {error}")))
}

/// Sends the request and judges the answer. All that is read of the connection is bounded by it.
pub(super) async fn exchange<C>(
    http: &HttpProbe,
    mut request: Request<Empty<Bytes>>,
    connection: C,
) -> Outcome
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(connection))
        .await;
    let (mut sender, driver) = match handshake {
        Ok(parts) => parts,
        Err(error) => return no_answer(&error),
    };
    let interim = Arc::new(Interim::default());
    let counted = Arc::clone(&interim);
    on_informational(&mut request, move |_answer| counted.add());
    let answer = async {
        match sender.send_request(request).await {
            Ok(response) => judge(http, response).await,
            Err(error) => no_answer(&error),
        }
    };
    // The driver moves the bytes. When it has ended, what is there is all that will come.
    tokio::pin!(answer, driver);
    let outcome = tokio::select! {
        biased;
        outcome = &mut answer => outcome,
        _ = &mut driver => answer.await,
        () = interim.wait_too_many() => too_many_interim(),
    };
    // The answer may have come in one piece with them.
    if interim.are_too_many() { too_many_interim() } else { outcome }
}

fn too_many_interim() -> Outcome {
    let text = format!("more than {INTERIM_MAX} interim answers (1xx), and no other");
    Outcome::failed(FailureKind::Wrong, text)
}

async fn judge(http: &HttpProbe, response: Response<Incoming>) -> Outcome {
    let status = response.status();
    if !http.expect_status.iter().any(|range| range.contains(&status.as_u16())) {
        let expected = ranges(&http.expect_status);
        return Outcome::failed(FailureKind::Wrong, format!("{status}, expected {expected}"));
    }
    match &http.expect_body {
        None => passed(status),
        Some(text) => look_for(text, status, response.into_body()).await,
    }
}

/// Reads until the text has been found or can no longer be.
async fn look_for(text: &str, status: StatusCode, mut body: Incoming) -> Outcome {
    let mut read: Vec<u8> = Vec::new();
    loop {
        let from = read.len().saturating_sub(text.len());
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return no_answer(&error),
            None => {
                let text = format!("{status}, but the body does not contain the expected text");
                return Outcome::failed(FailureKind::Wrong, text);
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        read.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - read.len())]);
        if contains(&read[from..], text.as_bytes()) {
            return passed(status);
        }
        if read.len() >= BODY_BYTES_MAX {
            let text = format!(
                "{status}, but the first {BODY_BYTES_MAX} bytes of the body do not contain the \
                 expected text"
            );
            return Outcome::failed(FailureKind::Wrong, text);
        }
    }
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || hay.windows(needle.len()).any(|window| window == needle)
}

fn passed(status: StatusCode) -> Outcome {
    match status {
        StatusCode::OK => Outcome::Passed("200 OK".into()),
        other => Outcome::Passed(other.to_string().into()),
    }
}

fn no_answer(error: &hyper::Error) -> Outcome {
    let mut text = format!("no proper HTTP answer: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Outcome::failed(FailureKind::Wrong, text)
}

fn ranges(ranges: &[RangeInclusive<u16>]) -> String {
    let range = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What a server could send: an answer with pieces replaced, or anything.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"Content-Length: 18446744073709551615\r\n".to_vec()),
            Just(b"Connection: upgrade\r\nUpgrade: x\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"ffffffffffffffff\r\n".to_vec()),
            Just(b"5\r\nhello\r\n".to_vec()),
            Just(b"all is well".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn whatever_a_server_sends_is_judged_and_ends(
            bytes in bytes(),
            expect_body in prop_oneof![Just(None), Just(Some("all is well".to_owned()))],
        ) {
            let http = HttpProbe { expect_body, ..HttpProbe::default() };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let outcome = runtime.block_on(async {
                let (ours, mut theirs) = duplex(1024);
                let request = Request::builder().body(Empty::new()).expect("a request");
                let server = async {
                    let mut request = [0; 1024];
                    let _read = theirs.read(&mut request).await;
                    let _sent = theirs.write_all(&bytes).await;
                    drop(theirs);
                };
                let probe = tokio::time::timeout(
                    Duration::from_secs(1), exchange(&http, request, ours));
                tokio::join!(probe, server).0
            });
            let outcome = outcome.expect("an end of the connection is an end of the probe");
            // Who has not sent an answer has not passed.
            let text = String::from_utf8_lossy(&bytes);
            if matches!(outcome, Outcome::Passed(_)) {
                prop_assert!(text.contains("HTTP/1.1 200 OK"));
                prop_assert!(http.expect_body.is_none_or(|body| text.contains(&body)));
            }
        }
    }
}
