//! E `compact`: magic `4D 43`, version, type, length.

use bytes::{BufMut, BytesMut};

use super::{
    DialectCodec, DialectFrame, FrameKind, be32, check_magic, check_version, kind_of, take,
    type_of, unknown_type,
};
use crate::wire_error::WireError;

const MAGIC: [u8; 2] = [0x4D, 0x43];
const HEADER: usize = 8;

pub(super) fn decode(
    codec: &DialectCodec,
    buf: &mut BytesMut,
) -> Result<Option<DialectFrame>, WireError> {
    check_magic(buf, &MAGIC)?;
    check_version(buf, 2)?;
    if buf.len() < HEADER {
        return Ok(None);
    }
    let kind = kind_of(buf[3]).ok_or_else(|| unknown_type(buf[3], 3))?;
    let len = be32(buf, 4) as usize;
    codec.check_len(len, 4, 0)?;
    let Some(payload) = take(buf, HEADER, len) else {
        return Ok(None);
    };
    Ok(Some(DialectFrame::new(kind, payload)))
}

pub(super) fn encode(frame: &DialectFrame, out: &mut BytesMut) -> Option<()> {
    // A one-way message is a request whose answer nobody reads: the dialect has no other.
    let wire = type_of(frame.kind).or_else(|| type_of(FrameKind::Request))?;
    out.put_slice(&MAGIC);
    out.put_u8(1);
    out.put_u8(wire);
    out.put_u32(frame.payload.len() as u32);
    out.put_slice(&frame.payload);
    Some(())
}
