//! C `opcode`: magic `4D 43 50 01`, version, opcode, length.

use bytes::{BufMut, BytesMut};

use super::{
    DialectCodec, DialectFrame, be16, check_magic, check_version, code_of_frame, kind_of_code, take,
};
use crate::wire_error::WireError;

const MAGIC: [u8; 4] = [0x4D, 0x43, 0x50, 0x01];
const HEADER: usize = 8;

pub(super) fn decode(
    codec: &DialectCodec,
    buf: &mut BytesMut,
) -> Result<Option<DialectFrame>, WireError> {
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
    let kind = kind_of_code(code, true, codec.reader);
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
    out.put_u8(code_of_frame(frame));
    out.put_u16(frame.payload.len() as u16);
    out.put_slice(&frame.payload);
    Some(())
}
