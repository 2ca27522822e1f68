//! C `opcode`: magic `4D 43 50 01`, version, opcode, length.

use bytes::{BufMut, BytesMut};

use super::{Codec, DialectFrame, FrameKind, Reader, be16, check_magic, check_version, take};
use crate::error::WireError;

const MAGIC: [u8; 4] = [0x4D, 0x43, 0x50, 0x01];
const HEADER: usize = 8;
const HEARTBEAT: u8 = 0x00;
const ERROR: u8 = 0xFF;

pub(super) fn decode(codec: &Codec, buf: &mut BytesMut) -> Result<Option<DialectFrame>, WireError> {
    check_magic(buf, &MAGIC)?;
    check_version(buf, 4)?;
    if buf.len() < HEADER {
        return Ok(None);
    }
    let (code, len) = (buf[5], usize::from(be16(buf, 6)));
    codec.check_len(len, 6, 0)?;
    let Some(payload) = take(buf, HEADER, len) else {
        return Ok(None);
    };
    let kind = match (code, codec.reader) {
        (HEARTBEAT, Reader::Server) => FrameKind::Ping,
        (HEARTBEAT, Reader::Client) => FrameKind::Pong,
        (ERROR, _) => FrameKind::Error,
        (_, Reader::Server) => FrameKind::Request,
        (_, Reader::Client) => FrameKind::Response,
    };
    Ok(Some(DialectFrame {
        kind,
        code,
        id: 0,
        priority: 0,
        payload,
    }))
}

pub(super) fn encode(frame: &DialectFrame, out: &mut BytesMut) -> Option<()> {
    out.put_slice(&MAGIC);
    out.put_u8(1);
    out.put_u8(match frame.kind {
        FrameKind::Ping | FrameKind::Pong => HEARTBEAT,
        FrameKind::Error => ERROR,
        FrameKind::Request | FrameKind::Response | FrameKind::OneWay => frame.code,
    });
    out.put_u16(frame.payload.len() as u16);
    out.put_slice(&frame.payload);
    Some(())
}
