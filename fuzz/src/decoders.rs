//! Bytes into every decoder: no panic, the same in any pieces, and decode after encode is the
//! identity.

use bytes::{Bytes, BytesMut};
use postroad_proto::dialect::{
    Crc, Dialect, DialectCodec, Envelope, Packet, PriorityHeader, Reader,
};
use postroad_proto::error_body::ErrorBody;
use postroad_proto::explain::{explain_dialect, explain_native};
use postroad_proto::frame::{Frame, FrameDecoder, Opening, Parts, put_frame};
use postroad_proto::session::SINK_ROOM;

/// Splits off the first byte, which decides how to read the rest.
fn choose(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(choice, rest)| (*choice, rest))
}

pub(crate) fn opening(data: &[u8]) {
    if let Ok(Some(opening)) = Opening::decode(&mut BytesMut::from(data)) {
        let mut out = Vec::new();
        opening.encode(&mut out);
        let mut out = BytesMut::from(&out[..]);
        let again = Opening::decode(&mut out).expect("what was encoded decodes");
        assert_eq!(again, Some(opening));
    }
}

fn frames(decoder: FrameDecoder, data: &[u8], step: usize) -> (Vec<Frame>, bool) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

/// The same, as a session takes them whose sink has so much room.
fn runs(decoder: FrameDecoder, data: &[u8], step: usize, room: usize) -> (Vec<Frame>, bool) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            let mut run = decoder.take_run(&mut buf, room);
            if run.rest().is_empty() {
                break;
            }
            let before = frames.len();
            loop {
                match run.take() {
                    Ok(Some((head, body))) => frames.push(Frame { head, body }),
                    Ok(None) => break,
                    Err(_) => return (frames, false),
                }
            }
            assert!(frames.len() - before <= room);
        }
        if decoder.check(&buf).is_err() {
            return (frames, false);
        }
    }
    (frames, true)
}

pub(crate) fn frame(data: &[u8]) {
    let (choice, data) = choose(data);
    let decoder = FrameDecoder {
        max_body: 4096,
        checksum: choice & 1 == 1,
    };
    let whole = frames(decoder, data, data.len().max(1));
    assert_eq!(frames(decoder, data, 1 + usize::from(choice >> 1)), whole);
    let step = 1 + usize::from(choice >> 1);
    for room in [1, 2, SINK_ROOM] {
        assert_eq!(runs(decoder, data, step, room), whole);
    }
    let in_place: Vec<_> = decoder.frames(data).collect();
    assert_eq!(in_place.len(), whole.0.len());
    for ((head, body), frame) in in_place.into_iter().zip(&whole.0) {
        assert_eq!((head, body), (frame.head, &frame.body[..]));
    }
    for frame in whole.0 {
        let mut out = Vec::new();
        let is_plain = !frame.head.has_parts();
        if is_plain {
            put_frame(&mut out, frame.head, &[], &frame.body, decoder.checksum);
            let mut out = BytesMut::from(&out[..]);
            let again = decoder.decode(&mut out).expect("what was encoded decodes");
            assert_eq!(again, Some(frame));
        }
    }
}

pub(crate) fn parts(data: &[u8]) {
    if let Ok((parts, end)) = Parts::split(data) {
        assert!(end <= data.len());
        let total: usize = parts.flatten().map(|part| 3 + part.value.len()).sum();
        assert!(total <= end);
    }
}

pub(crate) fn error_body(data: &[u8]) {
    if let Some(error) = ErrorBody::decode(Bytes::copy_from_slice(data)) {
        let mut out = BytesMut::new();
        error.encode(&mut out);
        let is_short = error.causes.iter().all(|cause| cause.message.len() <= 1024);
        let again = ErrorBody::decode(out.freeze()).expect("what was encoded decodes");
        assert!(!is_short || again == error);
    }
}

fn codec(choice: u8) -> DialectCodec {
    let dialect = Dialect::ALL[usize::from(choice & 7) % 6];
    let reader = if choice & 8 == 0 {
        Reader::Server
    } else {
        Reader::Client
    };
    let mut codec = DialectCodec::new(dialect, reader);
    codec.crc = Crc::ALL[usize::from(choice >> 4) % 5];
    let headers = [
        PriorityHeader::Nine,
        PriorityHeader::Ten,
        PriorityHeader::Twelve,
    ];
    codec.header = headers[usize::from(choice >> 4) % 3];
    codec.max_payload = 1024;
    codec
}

pub(crate) fn dialects(data: &[u8]) {
    let (choice, data) = choose(data);
    let read = |step: usize| {
        let (mut codec, mut buf, mut frames) = (codec(choice), BytesMut::new(), Vec::new());
        for piece in data.chunks(step) {
            buf.extend_from_slice(piece);
            loop {
                match codec.decode(&mut buf) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let whole = read(data.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(3), whole);
    let mut codec = codec(choice);
    for frame in whole.0 {
        let mut out = BytesMut::new();
        if codec.reader == Reader::Server && codec.encode(&frame, &mut out).is_ok() {
            let again = codec.decode(&mut out).expect("what was encoded decodes");
            assert_eq!(again, Some(frame));
        }
    }
    let _ = Dialect::detect(data);
}

pub(crate) fn envelopes(data: &[u8]) {
    let (choice, data) = choose(data);
    let all = [
        Envelope::Json,
        Envelope::MsgPack,
        Envelope::Protobuf,
        Envelope::Packet,
    ];
    let payload = Bytes::copy_from_slice(data);
    if let Ok(opened) = all[usize::from(choice) % 4].open(payload.clone()) {
        let _ = opened.reply.wrap(opened.payload);
    }
    if let Ok(packet) = Packet::decode(payload.clone()) {
        assert_eq!(packet.encode(), payload);
    }
}

pub(crate) fn explain(data: &[u8]) {
    let (choice, data) = choose(data);
    for checksum in [None, Some(true), Some(false)] {
        let explained = explain_native(data, checksum);
        assert!(explained.consumed <= data.len());
    }
    let explained = explain_dialect(&codec(choice), data);
    assert!(explained.consumed <= data.len());
}
