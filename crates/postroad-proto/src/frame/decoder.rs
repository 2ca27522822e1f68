//! Cuts frames out of a stream of bytes.

use bytes::{Buf, Bytes, BytesMut};

use super::{CLASS_RESERVED, Head, Kind, QOS, checksum, frame_bytes};
use crate::limits::{CHECKSUM_BYTES, HEAD_BYTES};
use crate::wire_error::{WireError, WireFault};

/// A frame and its body, parts included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The head.
    pub head: Head,
    /// What stands between head and checksum: a slice of the read buffer.
    pub body: Bytes,
}

/// Cuts frames out of a stream of bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    /// Largest body, bytes, as announced to the peer.
    pub max_body: usize,
    /// Whether a checksum follows the body.
    pub checksum: bool,
}

impl FrameDecoder {
    /// The frames at the beginning of `bytes`, where they lie, as far as they are whole and right.
    #[must_use]
    #[inline]
    pub fn frames(self, bytes: &[u8]) -> Frames<'_> {
        let rest = bytes;
        Frames {
            rest,
            decoder: self,
        }
    }

    /// Looks at what is no whole, right frame: well if it may become one.
    ///
    /// # Errors
    /// M-010, M-011, M-012 and M-013: length, checksum, reserved bits and kind, each with its byte.
    pub fn check(&self, rest: &[u8]) -> Result<(), WireError> {
        let Some(bytes) = rest.first_chunk::<HEAD_BYTES>() else {
            return Ok(());
        };
        let head = Head::decode(bytes);
        if !self.is_right(head) {
            return Err(self.what_is_wrong(head));
        }
        match rest.get(..self.whole(head)) {
            Some(frame) if self.checksum => {
                check_sum(frame).map_err(|error| error.with_id(head.id()))
            }
            _ => Ok(()),
        }
    }

    /// Takes one frame from the beginning of `buf`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// As [`Self::check`].
    #[inline]
    pub fn decode(&self, buf: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some((head, _)) = self.frames(buf).next() else {
            return self.check(buf).map(|()| None);
        };
        let len = head.len();
        buf.advance(HEAD_BYTES);
        // What is not the body is stepped over, so that a frame costs one reference count.
        let body = match len {
            0 => Bytes::new(),
            len => buf.split_to(len).freeze(),
        };
        buf.advance(self.whole(head) - HEAD_BYTES - len);
        Ok(Some(Frame { head, body }))
    }

    /// How many bytes of the next frame are missing, or `None` if its head is not there yet.
    #[must_use]
    pub fn missing(&self, buf: &[u8]) -> Option<usize> {
        let head = Head::decode(buf.first_chunk::<HEAD_BYTES>()?);
        Some(self.whole(head).saturating_sub(buf.len()))
    }

    /// Cuts the whole frames off the beginning of `buf`, at most `max`; their bodies will share one
    /// buffer. It ends before a frame whose head is wrong, whose error [`Self::check`] tells.
    #[inline]
    pub fn take_run(&self, buf: &mut BytesMut, max: usize) -> Run {
        let mut frames = self.frames(buf);
        let mut left = max;
        while left > 0 && frames.step().is_some() {
            left -= 1;
        }
        let end = buf.len() - frames.rest.len();
        let bytes = match end {
            0 => Bytes::new(),
            end => buf.split_to(end).freeze(),
        };
        let (taken, checksum) = (0, self.checksum);
        Run {
            bytes,
            taken,
            checksum,
        }
    }

    /// Bytes of the whole frame, head and checksum included.
    #[inline]
    fn whole(&self, head: Head) -> usize {
        frame_bytes(head.len(), self.checksum)
    }

    /// One test for the common case; which rule was broken is found out only when one was.
    #[inline]
    fn is_right(&self, head: Head) -> bool {
        let class = head.class();
        let is_class_right = (class & CLASS_RESERVED == 0) & (class & QOS != QOS);
        (head.len() <= self.max_body) & is_class_right & known_or_skippable(head.kind())
    }

    #[cold]
    #[inline(never)]
    fn what_is_wrong(&self, head: Head) -> WireError {
        let error = if head.len() > self.max_body {
            let detail = format!(
                "body of {} bytes, at most {} are accepted",
                head.len(),
                self.max_body
            );
            WireError::new(WireFault::Length, 0, detail)
        } else if !known_or_skippable(head.kind()) {
            WireError::new(
                WireFault::Type,
                3,
                format!("unknown kind 0x{:02x}", head.kind()),
            )
        } else if head.qos() == 3 {
            WireError::new(WireFault::Reserved, 4, "QoS 3 does not exist")
        } else {
            WireError::new(WireFault::Reserved, 4, "reserved bit 7 of class is set")
        };
        error.with_id(head.id())
    }
}

/// Frames where they lie, each as its head and its body; see [`FrameDecoder::frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    decoder: FrameDecoder,
}

impl<'a> Frames<'a> {
    /// What follows the frames that were taken. After the last: the beginning of a frame, or one
    /// that is wrong, as [`FrameDecoder::check`] tells.
    #[must_use]
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes the next whole frame, whose checksum nobody has looked at.
    #[inline]
    fn step(&mut self) -> Option<(Head, &'a [u8])> {
        let head = Head::decode(self.rest.first_chunk::<HEAD_BYTES>()?);
        let (frame, rest) = self.rest.split_at_checked(self.decoder.whole(head))?;
        if !self.decoder.is_right(head) {
            return None;
        }
        self.rest = rest;
        Some((head, frame))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = (Head, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let before = self.rest;
        let (head, frame) = self.step()?;
        if self.decoder.checksum && !is_sum_right(frame) {
            self.rest = before;
            return None;
        }
        let body = frame.get(HEAD_BYTES..HEAD_BYTES + head.len())?;
        Some((head, body))
    }
}

/// Whole frames that were cut off a stream together, to be taken one after the other.
///
/// Each body costs one reference count and nothing else, the last not even that: the buffer is cut
/// once for all.
#[derive(Clone, Debug)]
pub struct Run {
    bytes: Bytes,
    /// Bytes of the frames that were taken.
    taken: usize,
    checksum: bool,
}

impl Run {
    /// Takes the next frame; `None` after the last. What the bytes before it are worth is not
    /// undone by an error.
    ///
    /// # Errors
    /// M-011: the checksum is wrong.
    #[inline]
    pub fn take(&mut self) -> Result<Option<(Head, Bytes)>, WireError> {
        let rest = &self.bytes[self.taken..];
        let Some(bytes) = rest.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let head = Head::decode(bytes);
        let whole = frame_bytes(head.len(), self.checksum);
        if self.checksum {
            check_sum(&rest[..whole]).map_err(|error| error.with_id(head.id()))?;
        }
        let begin = self.taken + HEAD_BYTES;
        let body = self.bytes.slice(begin..begin + head.len());
        self.taken += whole;
        Ok(Some((head, body)))
    }

    /// Bytes of the frames that were taken.
    #[must_use]
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The frames that were not taken, as they came.
    #[must_use]
    #[inline]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

/// One bit for each kind that is known or to be skipped.
const KNOWN: [u64; 4] = {
    let (mut known, mut kind) = ([0; 4], 0);
    while kind < 256 {
        if kind & 0x80 != 0 || Kind::from_wire(kind as u8).is_some() {
            known[kind / 64] |= 1 << (kind % 64);
        }
        kind += 1;
    }
    known
};

#[inline]
fn known_or_skippable(kind: u8) -> bool {
    KNOWN[usize::from(kind / 64)] >> (kind % 64) & 1 != 0
}

#[inline]
fn is_sum_right(frame: &[u8]) -> bool {
    let parts = frame.split_last_chunk::<CHECKSUM_BYTES>();
    parts.is_none_or(|(covered, found)| u32::from_le_bytes(*found) == checksum(covered))
}

#[inline]
pub(super) fn check_sum(frame: &[u8]) -> Result<(), WireError> {
    match is_sum_right(frame) {
        true => Ok(()),
        false => Err(wrong_sum(frame)),
    }
}

#[cold]
#[inline(never)]
fn wrong_sum(frame: &[u8]) -> WireError {
    let (covered, found) = frame.split_at(frame.len() - CHECKSUM_BYTES);
    let found = found.try_into().map_or(0, u32::from_le_bytes);
    let detail = format!("found {found:08x}, computed {:08x}", checksum(covered));
    WireError::new(WireFault::Checksum, covered.len(), detail)
}
