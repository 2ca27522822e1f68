//! Native frames: the 16-byte head, its body and its checksum. Layouts: `docs/protocol.md`, section
//! 2.

mod decoder;
mod head;
mod opening;
mod parts;

pub use decoder::{Frame, FrameDecoder, Frames, Run};
pub(crate) use head::QOS;
pub use head::{
    CLASS_RESERVED, Head, Kind, MESSAGE_ID, MORE, NO_DEADLINE, NO_RETRY, OF_RESPONSE, PARTS,
};
pub use opening::{Hello, MAGIC, Opening, OpeningParts, Refuse, RefuseReason, Welcome};
pub(crate) use parts::put_metadata;
pub use parts::{CRITICAL, Part, PartTag, Parts, put_part, put_trace};

use crate::limits::{CHECKSUM_BYTES, FRAME_BODY_MAX, HEAD_BYTES};

/// Bytes of a whole frame with so long a body.
#[inline]
pub(crate) fn frame_bytes(len: usize, checksum: bool) -> usize {
    HEAD_BYTES + len + if checksum { CHECKSUM_BYTES } else { 0 }
}

/// CRC-32C, the checksum of every frame and opening.
#[inline]
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    // The function of this one algorithm: the one that takes the algorithm as an argument looks it
    // up for each frame.
    crc_fast::crc32_iscsi(bytes)
}

/// Appends one frame whose body is `parts` followed by `payload`.
///
/// The length and the PARTS bit of the head are filled in here. The caller keeps the body within
/// the peer's limit (M-009).
///
/// Inlined into calling and answering, which write nearly all frames without parts.
#[inline(always)]
pub fn put_frame(out: &mut Vec<u8>, mut head: Head, parts: &[u8], payload: &[u8], checksum: bool) {
    let parts_bytes = if parts.is_empty() { 0 } else { 2 + parts.len() };
    let len = parts_bytes + payload.len();
    debug_assert!(len <= FRAME_BODY_MAX, "the caller splits into fragments");
    head = head.with_len(len);
    let start = out.len();
    out.reserve(HEAD_BYTES + len + CHECKSUM_BYTES);
    if parts.is_empty() {
        out.extend_from_slice(&head.encode());
    } else {
        head = head.with_class(head.class() | PARTS);
        out.extend_from_slice(&head.encode());
        out.extend_from_slice(&(parts.len() as u16).to_le_bytes());
        out.extend_from_slice(parts);
    }
    out.extend_from_slice(payload);
    if checksum {
        let sum = self::checksum(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire_error::WireFault;

    const DECODER: FrameDecoder = FrameDecoder {
        max_body: 64 * 1024,
        checksum: true,
    };

    fn frame(checksum: bool) -> BytesMut {
        let head = Head::new(Kind::Request)
            .with_id(7)
            .with_arg(9)
            .with_class(5 | 1 << 3)
            .with_form(1)
            .with_route(3);
        let mut out = Vec::new();
        put_frame(&mut out, head, b"", b"payload", checksum);
        BytesMut::from(&out[..])
    }

    #[test]
    fn a_small_request_costs_twenty_bytes_with_its_checksum_and_sixteen_without() {
        assert_eq!(frame(true).len() - 7, 20);
        assert_eq!(frame(false).len() - 7, 16);
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_has_arrived_m_010() {
        let head = Head::new(Kind::Request).with_len(64 * 1024 + 1);
        let error = DECODER
            .decode(&mut BytesMut::from(&head.encode()[..]))
            .unwrap_err();
        assert_eq!((error.fault, error.at), (WireFault::Length, 0));
    }

    #[test]
    fn every_flipped_bit_is_caught_by_a_check_or_leaves_the_frame_incomplete_m_011() {
        let good = frame(true);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let result = DECODER.decode(&mut bad);
            assert!(
                !matches!(result, Ok(Some(_))),
                "bit {bit} went unseen: {result:?}"
            );
        }
    }

    #[test]
    fn reserved_bits_and_unknown_kinds_are_refused_m_012_m_013() {
        let refuse = |head: Head| {
            DECODER
                .decode(&mut BytesMut::from(&head.encode()[..]))
                .unwrap_err()
        };
        let request = Head::new(Kind::Request);
        assert_eq!(refuse(request.with_class(0x80)).fault, WireFault::Reserved);
        assert_eq!(
            refuse(request.with_class(3 << 3)).fault,
            WireFault::Reserved
        );
        assert_eq!(refuse(request.with_kind(0x7f)).fault, WireFault::Type);
        let skippable = request.with_kind(0x80);
        assert!(
            DECODER
                .decode(&mut BytesMut::from(&skippable.encode()[..]))
                .unwrap()
                .is_none()
        );
    }
}
