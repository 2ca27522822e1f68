//! A `session`: command, session id, length, payload, CRC-16.

use bytes::{Buf, BufMut, BytesMut};
use crc::{CRC_16_ARC, CRC_16_IBM_3740, CRC_16_KERMIT, CRC_16_MODBUS, CRC_16_XMODEM};

use super::{Crc, DialectCodec, DialectFrame, be16, be32, code_of_frame, kind_of_code};
use crate::wire_error::{WireError, WireFault};

const HEADER: usize = 7;
const TRAILER: usize = 2;

fn checksum(crc: Crc, bytes: &[u8]) -> u16 {
    static IBM_3740: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_IBM_3740);
    static MODBUS: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_MODBUS);
    static XMODEM: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_XMODEM);
    static ARC: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_ARC);
    static KERMIT: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_KERMIT);
    match crc {
        Crc::Ibm3740 => IBM_3740.checksum(bytes),
        Crc::Modbus => MODBUS.checksum(bytes),
        Crc::Xmodem => XMODEM.checksum(bytes),
        Crc::Arc => ARC.checksum(bytes),
        Crc::Kermit => KERMIT.checksum(bytes),
    }
}

pub(super) fn decode(
    codec: &DialectCodec,
    buf: &mut BytesMut,
) -> Result<Option<DialectFrame>, WireError> {
    if buf.len() < HEADER {
        return Ok(None);
    }
    let (code, id, len) = (buf[0], be32(buf, 1), usize::from(be16(buf, 5)));
    codec.check_len(len, 5, id)?;
    let end = HEADER + len;
    if buf.len() < end + TRAILER {
        return Ok(None);
    }
    let (found, expected) = (be16(buf, end), checksum(codec.crc, &buf[..end]));
    if found != expected {
        let detail = format!(
            "found {found:04x}, computed {expected:04x} ({})",
            codec.crc.name()
        );
        return Err(WireError::new(WireFault::Checksum, end, detail).with_id(id));
    }
    let mut payload = buf.split_to(end + TRAILER).freeze();
    payload.truncate(end);
    payload.advance(HEADER);
    let kind = kind_of_code(code, len == 0, codec.reader);
    Ok(Some(DialectFrame {
        kind,
        code,
        id,
        priority: 0,
        payload,
    }))
}

pub(super) fn encode(codec: &DialectCodec, frame: &DialectFrame, out: &mut BytesMut) -> Option<()> {
    let start = out.len();
    out.put_u8(code_of_frame(frame));
    out.put_u32(frame.id);
    out.put_u16(frame.payload.len() as u16);
    out.put_slice(&frame.payload);
    let sum = checksum(codec.crc, &out[start..]);
    out.put_u16(sum);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_checksum_has_the_published_check_value() {
        let expected = [0x29B1, 0x4B37, 0x31C3, 0xBB3D, 0x2189];
        for (crc, value) in Crc::ALL.into_iter().zip(expected) {
            assert_eq!(checksum(crc, b"123456789"), value, "{}", crc.name());
        }
    }
}
