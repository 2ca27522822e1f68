//! `postroad call URL ROUTE [JSON | -]`.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use postroad::codec::numbers;
use postroad::{Bytes, Endpoint, Protocol};
use postroad_proto::dialect::Dialect;

use crate::args::Call;
use crate::exit::Failed;
use crate::layout;
use crate::signals::Signals;
use crate::terminal::{say, write_data};

/// Bytes of a payload that are read from stdin at most: more than any message may have by default.
const STDIN_MAX: u64 = 64 << 20;

pub(crate) fn run(call: &Call) -> Result<ExitCode, Failed> {
    let endpoint: Endpoint = call.url.parse()?;
    let (codec, payload) = payload(call, &endpoint)?;
    let metadata = call.metadata.iter().map(|pair| {
        let pair = pair.split_once('=');
        pair.ok_or_else(|| Failed::usage("--metadata takes KEY=VALUE"))
    });
    let metadata: Vec<_> = metadata.collect::<Result<_, _>>()?;
    super::runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let work = async {
            let (client, left) = super::deadline::connect(endpoint, call.timeout).await?;
            let mut request = client
                .request(&call.route)
                .timeout(left)
                .priority(call.priority);
            for (key, value) in metadata {
                request = request.metadata(key, value.to_owned());
            }
            if call.one_way {
                request.send_bytes(codec, payload).await?;
                client.close().await;
                return Ok(());
            }
            let (codec, answer) = request.call_bytes(codec, payload).await?;
            print(codec, &answer);
            client.close().await;
            Ok::<(), Failed>(())
        };
        tokio::select! {
            result = work => result.map(|()| ExitCode::SUCCESS),
            code = signals.next() => Ok(code),
        }
    })
}

/// JSON for whoever speaks it; bytes as they are for dialects that say nothing about their payload.
fn payload(call: &Call, endpoint: &Endpoint) -> Result<(u8, Bytes), Failed> {
    let mut bytes = match call.payload.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(STDIN_MAX + 1)
                .read_to_end(&mut bytes)?;
            if bytes.len() as u64 > STDIN_MAX {
                return Err(Failed::usage(format!(
                    "stdin has more than {STDIN_MAX} bytes"
                )));
            }
            bytes
        }
        Some(text) => text.as_bytes().to_vec(),
        None => Vec::new(),
    };
    let is_dialect = matches!(endpoint.protocol(), Protocol::Dialect(_));
    let is_line =
        matches!(endpoint.protocol(), Protocol::Dialect(codec) if codec.dialect == Dialect::Line);
    if is_line && bytes.ends_with(b"\n") {
        // The end of a line is the dialect's; `echo` brings one along.
        bytes.pop();
    }
    if call.raw || is_dialect && endpoint.mapping().envelope.is_none() {
        return Ok((numbers::RAW, bytes.into()));
    }
    if bytes.is_empty() {
        return Ok((numbers::JSON, Bytes::from_static(b"null")));
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        let hint = "quote a string twice, as in '\"text\"', or send bytes with --raw";
        return Err(Failed::usage(format!("the payload is not JSON: {error}")).hint(hint));
    }
    Ok((numbers::JSON, bytes.into()))
}

/// On a terminal JSON is laid out for reading and nothing steers the terminal; elsewhere the bytes
/// are the data.
fn print(codec: u8, answer: &Bytes) {
    if std::io::stdout().is_terminal() {
        let laid_out = (codec == numbers::JSON).then(|| layout::json(answer));
        let shown = laid_out
            .flatten()
            .unwrap_or_else(|| layout::visible(answer));
        return say(shown.strip_suffix('\n').unwrap_or(&shown));
    }
    let is_text = std::str::from_utf8(answer).is_ok() && !answer.ends_with(b"\n");
    let end: &[u8] = if is_text { b"\n" } else { b"" };
    write_data(&[answer, end].concat());
}
