//! D `priority`: version, type, sequence id, length, priority, and 0, 1 or 3 bytes of padding.

use bytes::{BufMut, BytesMut};

use super::{
    DialectCodec, DialectFrame, FrameKind, Reader, be16, be32, check_version, take, unknown_type,
};
use crate::wire_error::{WireError, WireFault};

const PRIORITY_MAX: u8 = 7;

pub(super) fn decode(
    codec: &DialectCodec,
    buf: &mut BytesMut,
) -> Result<Option<DialectFrame>, WireError> {
    check_version(buf, 0)?;
    let header = codec.header.bytes();
    if buf.len() < header {
        return Ok(None);
    }
    let (id, len, priority) = (u32::from(be16(buf, 2)), be32(buf, 4) as usize, buf[8]);
    let kind = match (buf[1], codec.reader) {
        (1, _) => FrameKind::Request,
        (2, _) => FrameKind::Response,
        (3, Reader::Server) => FrameKind::Ping,
        (3, Reader::Client) => FrameKind::Pong,
        (4, _) => FrameKind::Error,
        (other, _) => return Err(unknown_type(other, 1).with_id(id)),
    };
    codec.check_len(len, 4, id)?;
    if priority > PRIORITY_MAX {
        let detail = format!("priority {priority}, at most {PRIORITY_MAX}");
        return Err(WireError::new(WireFault::Priority, 8, detail).with_id(id));
    }
    let Some(payload) = take(buf, header, len) else {
        return Ok(None);
    };
    Ok(Some(DialectFrame {
        kind,
        code: 0,
        id,
        priority,
        payload,
    }))
}

pub(super) fn encode(codec: &DialectCodec, frame: &DialectFrame, out: &mut BytesMut) -> Option<()> {
    let wire = match frame.kind {
        FrameKind::Request | FrameKind::OneWay => 1,
        FrameKind::Response => 2,
        FrameKind::Ping | FrameKind::Pong => 3,
        FrameKind::Error => 4,
    };
    out.put_u8(1);
    out.put_u8(wire);
    out.put_u16(frame.id as u16);
    out.put_u32(frame.payload.len() as u32);
    out.put_u8(frame.priority.min(PRIORITY_MAX));
    out.put_bytes(0, codec.header.bytes() - 9);
    out.put_slice(&frame.payload);
    Some(())
}
