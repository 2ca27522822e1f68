//! `postroad probe`: asks a node how it does, for Kubernetes and for scripts.

use std::process::ExitCode;
use std::time::Duration;

use postroad::admin::AdminAddress;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::args::{Probe, Probed};
use crate::exit::{self, Failed};
use crate::terminal::say;

/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 * 1024;

/// What a node has answered.
struct Answer {
    status: u16,
    body: String,
}

pub(crate) fn run(probe: &Probe) -> Result<ExitCode, Failed> {
    let asked = probe.asked();
    let answer = super::runtime()?.block_on(ask(&probe.url, asked.path(), probe.timeout))?;
    match answer.status {
        200 => {
            say(asked.word());
            Ok(ExitCode::SUCCESS)
        }
        503 => Err(failing(asked, &answer.body)),
        status => {
            let what = format!("{}{} answers {status}", probe.url, asked.path());
            let hint = "a node tells how it does at the address of [admin]; is this one?";
            Err(Failed::new(exit::UNAVAILABLE, what).hint(hint))
        }
    }
}

/// The checks that have failed, in the node's words.
fn failing(asked: Probed, body: &str) -> Failed {
    let failed = body.lines().filter_map(|line| line.strip_prefix("[-]"));
    let failed = failed.collect::<Vec<_>>().join("; ");
    Failed::new(exit::FAILED, format!("not {}: {failed}", asked.word()))
}

async fn ask(url: &AdminAddress, path: &str, time: Duration) -> Result<Answer, Failed> {
    let hint = "is a node running there, and its [admin] listening?";
    let unreachable = |what: String| {
        let what = format!("{url}{path}: {what}");
        Failed::new(exit::UNAVAILABLE, what).hint(hint)
    };
    let asked = tokio::time::timeout(time, exchange(url, path)).await;
    let answer = asked
        .map_err(|_| {
            unreachable(format!(
                "no answer within {}",
                humantime::format_duration(time)
            ))
        })?
        .map_err(|error| unreachable(error.to_string()))?;
    parse(&answer).ok_or_else(|| unreachable("what answers does not speak HTTP".to_owned()))
}

/// Sends the request and reads the answer to its end.
async fn exchange(url: &AdminAddress, path: &str) -> std::io::Result<Vec<u8>> {
    match url.host_and_port() {
        Some(address) => exchange_over(TcpStream::connect(address).await?, path).await,
        None => {
            let socket = url.path().unwrap_or_else(|| "".as_ref());
            exchange_over(UnixStream::connect(socket).await?, path).await
        }
    }
}

async fn exchange_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> std::io::Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: postroad\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    let is_http = words.next()?.starts_with("HTTP/1.");
    let status = words.next()?.parse().ok()?;
    is_http.then(|| Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_what_is_none_is_not() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n[-]x failed: y\n");
        let answer = answer.expect("it is one");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, "[-]x failed: y\n")
        );
        for nonsense in [
            &b""[..],
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK",
        ] {
            assert!(parse(nonsense).is_none());
        }
    }
}
