//! `postroad decode`: a frame field by field, and the place where it goes wrong.

use std::io::Read;
use std::process::ExitCode;

use postroad_proto::dialect::{Crc, Dialect, DialectCodec, PriorityHeader, Reader};
use postroad_proto::explain::{Explanation, explain_dialect, explain_native};
use postroad_proto::frame::MAGIC;

use crate::args::Decode;
use crate::exit::{self, Failed};
use crate::terminal::{Color, Output, Style, say};

/// Bytes shown of one field.
const SHOWN: usize = 8;

enum As {
    Native,
    Dialect(Box<DialectCodec>),
}

pub(crate) fn run(decode: &Decode, color: Color) -> Result<ExitCode, Failed> {
    let bytes = input(&decode.input)?;
    if bytes.is_empty() {
        return Err(Failed::usage("there are no bytes to decode"));
    }
    let reading = reading(decode, &bytes)?;
    let style = Style::new(color, &std::io::stdout());
    let (mut at, mut is_right, mut all) = (0, true, Vec::new());
    while at < bytes.len() {
        let rest = &bytes[at..];
        let explanation = match &reading {
            As::Native => explain_native(rest, decode.checksum),
            As::Dialect(codec) => explain_dialect(codec, rest),
        };
        is_right &= explanation.error.is_none() && !explanation.is_incomplete;
        let consumed = explanation.consumed;
        match decode.output {
            Output::Text => print(&explanation, rest, at, style),
            Output::Json => all.push(json(&explanation, at)),
        }
        if consumed == 0 || explanation.error.is_some() {
            break;
        }
        at += consumed;
    }
    if decode.output == Output::Json {
        say(serde_json::Value::from(all));
    }
    Ok(ExitCode::from(if is_right { 0 } else { exit::FAILED }))
}

/// Hexadecimal digits, a file, or stdin.
fn input(input: &str) -> Result<Vec<u8>, Failed> {
    let content = if input == "-" {
        let mut content = Vec::new();
        std::io::stdin().read_to_end(&mut content)?;
        content
    } else if std::path::Path::new(input).is_file() {
        std::fs::read(input)?
    } else {
        let digits = input.trim().replace("0x", "");
        let digits = digits.chars().filter(|c| !is_separator(*c));
        let count = digits.clone().count();
        let what = if count % 2 == 1 && digits.clone().all(|c| c.is_ascii_hexdigit()) {
            format!("{count} hexadecimal digits: two make a byte, so one is missing")
        } else {
            format!("{input:?} is neither a file nor hexadecimal digits")
        };
        return hex(input).ok_or_else(|| Failed::usage(what));
    };
    let as_hex = std::str::from_utf8(&content).ok().and_then(hex);
    Ok(as_hex.unwrap_or(content))
}

/// What may stand between digits.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, ':' | '-' | ',')
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().replace("0x", "");
    let digits: Vec<char> = text.chars().filter(|c| !is_separator(*c)).collect();
    if digits.is_empty() || digits.len() % 2 == 1 {
        return None;
    }
    let byte = |pair: &[char]| Some((pair[0].to_digit(16)? << 4 | pair[1].to_digit(16)?) as u8);
    digits.chunks(2).map(byte).collect()
}

fn reading(decode: &Decode, bytes: &[u8]) -> Result<As, Failed> {
    let codec = |dialect| {
        let reader = if decode.answer {
            Reader::Client
        } else {
            Reader::Server
        };
        let mut codec = DialectCodec::new(dialect, reader);
        let crc = Crc::from_name(&decode.crc);
        codec.crc = crc.ok_or_else(|| Failed::usage(format!("no checksum {:?}", decode.crc)))?;
        let header = decode
            .header
            .parse()
            .ok()
            .and_then(PriorityHeader::from_bytes);
        codec.header = header.ok_or_else(|| Failed::usage("--header is 9, 10 or 12"))?;
        Ok(As::Dialect(Box::new(codec)))
    };
    match decode.dialect.as_deref() {
        Some("native") => Ok(As::Native),
        Some(name) => {
            let dialect = Dialect::from_name(name);
            let names = Dialect::ALL.map(Dialect::name).join(", ");
            codec(dialect.ok_or_else(|| {
                Failed::usage(format!("no dialect {name:?}; there are native, {names}"))
            })?)
        }
        None if bytes.starts_with(&MAGIC[..bytes.len().min(4)]) => Ok(As::Native),
        None => match Dialect::detect(bytes) {
            Ok(Some(dialect)) => codec(dialect),
            _ => {
                let what = "the first bytes are no magic: name the dialect";
                let hint =
                    "--dialect native, session, priority or line: what they send has no magic";
                Err(Failed::usage(what).hint(hint))
            }
        },
    }
}

fn print(explanation: &Explanation, bytes: &[u8], base: usize, style: Style) {
    let title = format!("{} at byte {base}", explanation.title);
    say(style.bold(&title));
    for field in &explanation.fields {
        let end = field.offset + field.len;
        let raw = bytes
            .get(field.offset..end.min(bytes.len()))
            .unwrap_or_default();
        let mut shown: String = raw
            .iter()
            .take(SHOWN)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if raw.len() > SHOWN {
            shown.push_str("..");
        }
        let at = style.dim(&format!("{:>6}", base + field.offset));
        say(format_args!(
            "{at}  {shown:<18}  {:<18}  {}",
            field.name, field.value
        ));
    }
    if let Some(error) = &explanation.error {
        let at = base as u64 + error.at;
        let what = format!(
            "wrong: {} at byte {at}: {}",
            error.fault.word(),
            error.detail
        );
        say(format_args!("{at:>6}  {}", style.red(&what)));
    }
    if explanation.is_incomplete {
        let what = match explanation.missing {
            Some(1) => "incomplete: 1 byte is missing".to_owned(),
            Some(missing) => format!("incomplete: {missing} bytes are missing"),
            None => "incomplete: the bytes end before the frame does".to_owned(),
        };
        say(format_args!(
            "{:>6}  {}",
            base + bytes.len(),
            style.red(&what)
        ));
    }
}

fn json(explanation: &Explanation, base: usize) -> serde_json::Value {
    let fields = explanation.fields.iter().map(|field| {
        let offset = base + field.offset;
        let (name, value) = (&field.name, &field.value);
        serde_json::json!({ "offset": offset, "len": field.len, "name": name, "value": value })
    });
    let error = explanation.error.as_ref().map(|error| {
        serde_json::json!({
            "fault": error.fault.word(), "at": base as u64 + error.at, "detail": error.detail
        })
    });
    serde_json::json!({
        "title": explanation.title,
        "offset": base,
        "fields": fields.collect::<Vec<_>>(),
        "error": error,
        "is_incomplete": explanation.is_incomplete,
        "missing": explanation.missing,
    })
}
