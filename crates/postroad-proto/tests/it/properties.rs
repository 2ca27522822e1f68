//! Properties of every codec: any pieces decode the same, decode after encode is the identity, and
//! nothing panics.

use bytes::{Bytes, BytesMut};
use postroad_proto::code::{Code, Retry};
use postroad_proto::dialect::{
    Crc, Dialect, DialectCodec, DialectFrame, FrameKind, PriorityHeader, Reader,
};
use postroad_proto::error_body::{Cause, ErrorBody};
use postroad_proto::frame::{Frame, FrameDecoder, Head, Kind, put_frame};
use postroad_proto::wire_error::WireError;
use proptest::collection::vec;
use proptest::prelude::*;

/// Feeds `bytes` in pieces whose lengths repeat `pieces`.
fn feed<T>(
    bytes: &[u8],
    pieces: &[usize],
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
) -> (Vec<T>, Option<WireError>) {
    let (mut buf, mut all, mut rest) = (BytesMut::new(), Vec::new(), bytes);
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let len = pieces
            .next()
            .map_or(rest.len(), |len| *len.min(&rest.len()));
        buf.extend_from_slice(&rest[..len]);
        rest = &rest[len..];
        loop {
            match decode(&mut buf) {
                Ok(Some(one)) => all.push(one),
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}

fn codecs() -> impl Strategy<Value = DialectCodec> {
    (0..6_usize, 0..5_usize, 0..3_usize).prop_map(|(dialect, crc, header)| {
        let mut codec = DialectCodec::new(Dialect::ALL[dialect], Reader::Server);
        codec.crc = Crc::ALL[crc];
        let headers = [
            PriorityHeader::Nine,
            PriorityHeader::Ten,
            PriorityHeader::Twelve,
        ];
        codec.header = headers[header];
        codec
    })
}

/// What every dialect can say as a request.
fn requests() -> impl Strategy<Value = DialectFrame> {
    (1..0xFF_u8, any::<u16>(), 0..8_u8, "[a-zäß€ ]{0,80}").prop_map(|(code, id, priority, text)| {
        let (kind, payload) = (FrameKind::Request, Bytes::from(text));
        DialectFrame {
            kind,
            code,
            id: id.into(),
            priority,
            payload,
        }
    })
}

/// The same frame without the fields that its dialect does not have.
fn as_said(codec: &DialectCodec, frame: &DialectFrame) -> DialectFrame {
    let mut frame = frame.clone();
    let has = |dialects: &[Dialect]| dialects.contains(&codec.dialect);
    if !has(&[Dialect::Session, Dialect::Opcode]) {
        frame.code = 0;
    }
    if !has(&[Dialect::Session, Dialect::Sequence, Dialect::Priority]) {
        frame.id = 0;
    }
    if !has(&[Dialect::Priority]) {
        frame.priority = 0;
    }
    frame
}

proptest! {
    #[test]
    fn requests_of_every_dialect_arrive_as_they_were_said_in_any_pieces(
        codec in codecs(),
        frames in vec(requests(), 1..10),
        pieces in vec(1..40_usize, 1..10),
    ) {
        let mut wire = BytesMut::new();
        for frame in &frames {
            codec.encode(frame, &mut wire).expect("every dialect can say it");
        }
        let mut decoder = codec.clone();
        let (found, error) = feed(&wire, &pieces, |buf| decoder.decode(buf));
        prop_assert_eq!(error, None);
        let said: Vec<_> = frames.iter().map(|frame| as_said(&codec, frame)).collect();
        prop_assert_eq!(found, said);
    }

    #[test]
    fn any_bytes_decode_the_same_in_any_pieces(
        codec in codecs(),
        bytes in vec(any::<u8>(), 0..300),
        pieces in vec(1..40_usize, 1..10),
    ) {
        let (mut whole, mut cut) = (codec.clone(), codec);
        let together = feed(&bytes, &[bytes.len().max(1)], |buf| whole.decode(buf));
        prop_assert_eq!(feed(&bytes, &pieces, |buf| cut.decode(buf)), together);
    }

    #[test]
    fn native_frames_arrive_as_they_were_put_in_any_pieces(
        bodies in vec((any::<u32>(), any::<u32>(), 0..8_u8, vec(any::<u8>(), 0..300)), 1..8),
        pieces in vec(1..60_usize, 1..10),
        checksum in any::<bool>(),
    ) {
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (id, arg, class, body) in bodies {
            let len = body.len();
            let head = Head::new(Kind::Response).with_id(id).with_arg(arg);
            let head = head.with_class(class).with_len(len);
            put_frame(&mut wire, head, &[], &body, checksum);
            expected.push(Frame { head, body: body.into() });
        }
        let decoder = FrameDecoder { max_body: 4096, checksum };
        let (found, error) = feed(&wire, &pieces, |buf| decoder.decode(buf));
        prop_assert_eq!(error, None);
        prop_assert_eq!(&found, &expected);
        let mut in_place = decoder.frames(&wire);
        for frame in &expected {
            let (head, body) = in_place.next().unwrap();
            prop_assert_eq!((head, body), (frame.head, &frame.body[..]));
        }
        prop_assert!(in_place.next().is_none() && in_place.rest().is_empty());
        if let Some(last) = wire.len().checked_sub(1) {
            let cut = decoder.frames(&wire[..last]);
            prop_assert_eq!(cut.count(), expected.len() - 1, "the last one is not whole");
        }
        let (mut buf, mut in_runs) = (BytesMut::new(), Vec::new());
        for (piece, max) in wire.chunks(pieces[0]).zip((1..4).cycle()) {
            buf.extend_from_slice(piece);
            let mut run = decoder.take_run(&mut buf, max);
            while let Some((head, body)) = run.take().unwrap() {
                in_runs.push(Frame { head, body });
            }
        }
        loop {
            let mut run = decoder.take_run(&mut buf, 2);
            if run.rest().is_empty() {
                break;
            }
            while let Some((head, body)) = run.take().unwrap() {
                in_runs.push(Frame { head, body });
            }
        }
        prop_assert_eq!(in_runs, expected);
    }

    #[test]
    fn errors_survive_the_wire(
        causes in vec(("[A-Z]{2,8}-[EWF]-[0-9]{3}", "\\PC{0,60}"), 1..16),
        retry in 0..4_u8,
    ) {
        let cause = |(code, message): (String, String)| {
            Cause { code: Code::parse(&code).expect("it is a code"), message }
        };
        let error = ErrorBody {
            retry: Retry::from_wire(retry).expect("it is a retry"),
            retry_after_ms: 0,
            causes: causes.into_iter().map(cause).collect(),
            trace: None,
        };
        let mut wire = BytesMut::new();
        error.encode(&mut wire);
        prop_assert_eq!(ErrorBody::decode(wire.freeze()), Some(error));
    }
}
