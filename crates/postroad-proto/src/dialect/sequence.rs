//! B `sequence`: magic `AB CD`, version, cmd, length, sequence id.

use bytes::{BufMut, BytesMut};

use super::{
    DialectCodec, DialectFrame, FrameKind, be32, check_magic, check_version, kind_of, take,
    type_of, unknown_type,
};
use crate::wire_error::WireError;

pub(super) const MAGIC: [u8; 2] = [0xAB, 0xCD];
const HEADER: usize = 12;
const ONE_WAY: u8 = 6;

pub(super) fn decode(
    codec: &DialectCodec,
    buf: &mut BytesMut,
) -> Result<Option<DialectFrame>, WireError> {
    check_magic(buf, &MAGIC)?;
    check_version(buf, 2)?;
    if buf.len() < HEADER {
        return Ok(None);
    }
    let (code, len, id) = (buf[3], be32(buf, 4) as usize, be32(buf, 8));
    let kind = match code {
        ONE_WAY => FrameKind::OneWay,
        _ => kind_of(code).ok_or_else(|| unknown_type(code, 3).with_id(id))?,
    };
    codec.check_len(len, 4, id)?;
    let Some(payload) = take(buf, HEADER, len) else {
        return Ok(None);
    };
    Ok(Some(DialectFrame {
        kind,
        code: 0,
        id,
        priority: 0,
        payload,
    }))
}

pub(super) fn encode(frame: &DialectFrame, out: &mut BytesMut) -> Option<()> {
    out.put_slice(&MAGIC);
    out.put_u8(1);
    out.put_u8(type_of(frame.kind).unwrap_or(ONE_WAY));
    out.put_u32(frame.payload.len() as u32);
    out.put_u32(frame.id);
    out.put_slice(&frame.payload);
    Some(())
}
