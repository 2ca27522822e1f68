//! `postroad call TARGET ROUTE [JSON | @FILE | -]`.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use postroad::client::Explanation;
use postroad::codec::numbers;
use postroad::identity::TokenSource;
use postroad::{Bytes, CallError, Client, Endpoint, Protocol, Trace};
use postroad_proto::dialect::Dialect;
use postroad_proto::text::Printable;

use crate::args::Call;
use crate::exit::Failed;
use crate::layout;
use crate::signals::Signals;
use crate::terminal::{say, tell, write_data};

/// Bytes of a payload that are read at most: more than any message may have by default.
const PAYLOAD_MAX: u64 = 64 << 20;

/// How long a node may take to say what a route takes, beside an error that is shown anyway.
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(1);

pub(crate) fn run(call: &Call) -> Result<ExitCode, Failed> {
    let mut service = super::service(&call.target, call.config.as_deref())?;
    if let Some(token) = token(call) {
        service.config.token = Some(token);
    }
    let endpoint = service.target.endpoint().cloned();
    let is_native = is_native(endpoint.as_ref());
    if call.trace && !is_native {
        return Err(Failed::usage("--trace: a dialect carries no trace"));
    }
    let (codec, payload) = payload(call, endpoint.as_ref())?;
    let metadata = call.metadata.iter().map(|pair| {
        let pair = pair.split_once('=');
        pair.ok_or_else(|| Failed::usage("--metadata takes KEY=VALUE"))
    });
    let metadata: Vec<_> = metadata.collect::<Result<_, _>>()?;
    super::runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let work = async {
            let connected = super::deadline::connect(service, call.timeout, call.max_message);
            let (client, left) = connected.await?;
            let why = Explanation::default();
            let mut request = client
                .request(&call.route)
                .timeout(left)
                .priority(call.priority);
            for (key, value) in metadata {
                request = request.metadata(key, value.to_owned());
            }
            if call.trace {
                let trace = trace();
                tell(format_args!("trace {trace}"));
                request = request.trace(trace);
            }
            if call.one_way {
                request.send_bytes(codec, payload).await?;
            } else {
                if call.explain {
                    request = request.explain(&why);
                }
                let answer = request.call_bytes(codec, payload).await;
                match answer {
                    Ok((codec, answer)) => {
                        print(codec, &answer);
                        explain(call, &why);
                    }
                    Err(error) if is_native => {
                        explain(call, &why);
                        return Err(hinted(&client, call, error).await);
                    }
                    Err(error) => return Err(of_dialect(error)),
                }
            }
            client.close().await;
            Ok::<(), Failed>(())
        };
        tokio::select! {
            result = work => result.map(|()| ExitCode::SUCCESS),
            code = signals.next() => Ok(code),
        }
    })
}

/// The token that the command names, which goes before the service's own. A file that is named goes
/// before the environment.
fn token(call: &Call) -> Option<TokenSource> {
    let file = call.token_file.as_ref().map(TokenSource::file);
    let text = call
        .token
        .as_ref()
        .filter(|token| !token.0.trim().is_empty());
    file.or_else(|| text.map(|token| TokenSource::from(&*token.0)))
}

fn is_native(endpoint: Option<&Endpoint>) -> bool {
    // Servers that discovery finds may speak anything; what is said of them here is the rule.
    endpoint.is_none_or(|endpoint| matches!(endpoint.protocol(), Protocol::Native))
}

/// Says why the call went where it went, if that was asked for.
fn explain(call: &Call, why: &Explanation) {
    if !call.explain {
        return;
    }
    let why = why.take().to_string();
    match why.trim_end() {
        "" => tell("one endpoint without policies: there was nothing to decide"),
        why => tell(layout::visible(why.as_bytes())),
    }
}

/// A trace of its own for the call, to be found in logs.
fn trace() -> Trace {
    Trace {
        id: rand::random(),
        span: rand::random(),
        flags: 1,
    }
}

/// The failure of a dialect's call. A server that speaks something else can only hang up.
fn of_dialect(error: CallError) -> Failed {
    let is_lost = matches!(error, CallError::Lost { .. });
    let failed = Failed::from(error);
    match is_lost {
        true => failed.hint(
            "if every call ends like this, the server speaks something else than the URL says; its \
             log names what it has seen",
        ),
        false => failed,
    }
}

/// The failure, with what the route takes if it did not like what it got and the node tells.
async fn hinted(client: &Client, call: &Call, error: CallError) -> Failed {
    let is_bad_request = error.code().as_str() == "SRV-E-400";
    let failed = Failed::from(error);
    if !is_bad_request {
        return failed;
    }
    let routes = super::ls::routes(client, LOOKED_UP_WITHIN).await;
    let routes = routes.unwrap_or_default();
    match routes.iter().find(|known| known.route == call.route) {
        Some(known) => failed.hint(format!(
            "{} takes {}",
            Printable(&known.route),
            Printable(&known.request)
        )),
        None => failed,
    }
}

/// JSON for whoever speaks it; bytes as they are for dialects that say nothing about their payload.
fn payload(call: &Call, endpoint: Option<&Endpoint>) -> Result<(u8, Bytes), Failed> {
    let mut bytes = match call.payload.as_deref() {
        Some("-" | "@-") => read("stdin", std::io::stdin())?,
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let opened = std::fs::File::open(path);
                let file = opened.map_err(|error| {
                    let hint = "@ is for files; other text that begins with it can come from stdin";
                    Failed::usage(format!("{path}: {error}")).hint(hint)
                })?;
                read(path, file)?
            }
            None => text.as_bytes().to_vec(),
        },
        None => Vec::new(),
    };
    let protocol = endpoint.map(Endpoint::protocol);
    let is_dialect = matches!(protocol, Some(Protocol::Dialect(_)));
    let is_line =
        matches!(protocol, Some(Protocol::Dialect(codec)) if codec.dialect == Dialect::Line);
    if is_line && bytes.ends_with(b"\n") {
        // The end of a line is the dialect's; `echo` brings one along.
        bytes.pop();
    }
    if call.raw
        || is_dialect && endpoint.is_some_and(|endpoint| endpoint.mapping().envelope.is_none())
    {
        return Ok((numbers::RAW, bytes.into()));
    }
    if bytes.is_empty() {
        return Ok((numbers::JSON, Bytes::from_static(b"null")));
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        let hint = "a string has its own quotes: '\"text\"'; @FILE reads a file, --raw sends bytes";
        return Err(Failed::usage(format!("the payload is not JSON: {error}")).hint(hint));
    }
    Ok((numbers::JSON, bytes.into()))
}

/// All bytes of a file or of stdin.
fn read(name: &str, from: impl Read) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    let read = from.take(PAYLOAD_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failed::usage(format!("{name}: {error}")))?;
    if bytes.len() as u64 > PAYLOAD_MAX {
        let what = format!("{name} has more than {PAYLOAD_MAX} bytes");
        return Err(Failed::usage(what));
    }
    Ok(bytes)
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
