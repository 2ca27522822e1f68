//! What cutting a frame of 64 B out of a read buffer costs, in process.
//!
//! `codec` is tokio-util's `LengthDelimitedCodec`; `owned` is Postroad's decoder, which checks the
//! whole head and gives a payload that shares the buffer; `owned-sum` checks the checksum too;
//! `borrowed` looks at frames where they lie.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use harness::{Arguments, Report, Result, Role, print};
use postroad::proto::frame::{FrameDecoder, Head, Kind, put_frame};
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

/// Frames in a buffer, as a read may bring them.
const FRAMES: usize = 512;
/// Largest body that is accepted.
const MAX_BODY: usize = 64 * 1024;

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Client(arguments) => run(&arguments),
        other => other.absent(),
    })
}

fn run(arguments: &Arguments) -> Result<()> {
    let payload = arguments.payload();
    match arguments.mode.as_str() {
        "codec" => {
            let mut codec = LengthDelimitedCodec::new();
            let put = |buffer: &mut BytesMut| {
                buffer.put_u32(payload.len() as u32);
                buffer.put_slice(&payload);
            };
            let cut = |buffer: &mut BytesMut| Ok(codec.decode(buffer)?.map(BytesMut::freeze));
            measure(arguments, put, cut)
        }
        mode @ ("owned" | "owned-sum") => {
            let checksum = mode == "owned-sum";
            let decoder = FrameDecoder {
                max_body: MAX_BODY,
                checksum,
            };
            let head = request();
            let put = |buffer: &mut BytesMut| put_frame(buffer, head, &[], &payload, checksum);
            measure(arguments, put, |buffer| Ok(decoder.decode(buffer)?))
        }
        "borrowed" => {
            let decoder = FrameDecoder {
                max_body: MAX_BODY,
                checksum: false,
            };
            let head = request();
            let mut at = 0;
            let cut = |buffer: &mut BytesMut| {
                let frame = decoder.peek(&buffer[at..])?;
                at = frame.map_or(0, |frame| at + frame.whole);
                Ok(frame.map(|frame| (frame.head, frame.body.len(), black_box(frame.body)[0])))
            };
            let put = |buffer: &mut BytesMut| put_frame(buffer, head, &[], &payload, false);
            measure(arguments, put, cut)
        }
        other => Err(format!("there is no decoder called `{other}`").into()),
    }
}

fn request() -> Head {
    Head {
        id: 7,
        arg: 9,
        route: 3,
        ..Head::new(Kind::Request)
    }
}

/// Cuts buffers of frames until the time is over; only the cutting is measured.
fn measure<F>(
    arguments: &Arguments,
    put: impl Fn(&mut BytesMut),
    mut cut: impl FnMut(&mut BytesMut) -> Result<Option<F>>,
) -> Result<()> {
    let mut whole = BytesMut::new();
    (0..FRAMES).for_each(|_| put(&mut whole));
    let end = Instant::now() + Duration::from_secs_f64(arguments.warm_up + arguments.seconds);
    let start = Instant::now() + Duration::from_secs_f64(arguments.warm_up);
    let (mut frames, mut time) = (0, Duration::ZERO);
    loop {
        let mut buffer = black_box(whole.clone());
        let from = Instant::now();
        let mut cut_now = 0;
        while let Some(frame) = cut(&mut buffer)? {
            black_box(frame);
            cut_now += 1;
        }
        let now = Instant::now();
        if cut_now != FRAMES {
            return Err(format!("{cut_now} of {FRAMES} frames were found").into());
        }
        if from >= start {
            frames += cut_now as u64;
            time += now - from;
        }
        if now >= end {
            let seconds = time.as_secs_f64();
            return print(&Report {
                calls: frames,
                seconds,
                ..Report::default()
            });
        }
    }
}
