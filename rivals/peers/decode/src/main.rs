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
use postroad_proto::frame::{FrameDecoder, Head, Kind, put_frame};
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
            let put = |buffer: &mut Vec<u8>| {
                buffer.put_u32(payload.len() as u32);
                buffer.put_slice(&payload);
            };
            measure(arguments, put, |buffer| {
                let mut frames = 0;
                while let Some(frame) = codec.decode(buffer)? {
                    black_box(frame.freeze());
                    frames += 1;
                }
                Ok(frames)
            })
        }
        mode @ ("owned" | "owned-sum") => {
            let checksum = mode == "owned-sum";
            let decoder = FrameDecoder {
                max_body: MAX_BODY,
                checksum,
            };
            let head = request();
            let put = |buffer: &mut Vec<u8>| put_frame(buffer, head, &[], &payload, checksum);
            measure(arguments, put, |buffer| {
                let mut frames = 0;
                let mut run = decoder.take_run(buffer, FRAMES);
                while let Some(frame) = run.take()? {
                    black_box(frame);
                    frames += 1;
                }
                Ok(frames)
            })
        }
        "borrowed" => {
            let decoder = FrameDecoder {
                max_body: MAX_BODY,
                checksum: false,
            };
            let head = request();
            let put = |buffer: &mut Vec<u8>| put_frame(buffer, head, &[], &payload, false);
            measure(arguments, put, |buffer| {
                let mut frames = 0;
                for (head, body) in decoder.frames(buffer) {
                    black_box((head.id(), body.as_ptr()));
                    frames += 1;
                }
                Ok(frames)
            })
        }
        other => Err(format!("there is no decoder called `{other}`").into()),
    }
}

fn request() -> Head {
    Head::new(Kind::Request).with_id(7).with_arg(9).with_route(3)
}

/// Cuts buffers of frames until the time is over; only the cutting is measured. `cut` says how many
/// frames it has cut.
fn measure(
    arguments: &Arguments,
    put: impl Fn(&mut Vec<u8>),
    mut cut: impl FnMut(&mut BytesMut) -> Result<usize>,
) -> Result<()> {
    let mut whole = Vec::new();
    (0..FRAMES).for_each(|_| put(&mut whole));
    let end = Instant::now() + Duration::from_secs_f64(arguments.warm_up + arguments.seconds);
    let start = Instant::now() + Duration::from_secs_f64(arguments.warm_up);
    let (mut frames, mut time) = (0, Duration::ZERO);
    loop {
        let mut buffer = black_box(BytesMut::from(&whole[..]));
        let from = Instant::now();
        let cut_now = cut(&mut buffer)?;
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
