//! Small messages that wait to be written: whole frames, encoded already.

use std::collections::VecDeque;

use crate::frame::frame_bytes;

/// Bytes under which copying is cheaper than leaving a large buffer with a connection that may not
/// need it again.
const SWAP_MIN: usize = 4096;
/// Whole encoded frames in order, in chunks that leave as they are: the bytes of a long queue are
/// neither copied again nor moved up.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Those that were filled before `last`.
    pub(super) full: VecDeque<Vec<u8>>,
    /// What is being filled.
    pub(super) last: Vec<u8>,
    /// Bytes of the first chunk that were taken.
    taken: usize,
    /// The memory of a chunk that has left.
    pub(super) spare: Vec<u8>,
}

impl Frames {
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Where the next frame of so many bytes is to be encoded: chunks have at most `chunk` bytes,
    /// if their frames have.
    #[inline]
    pub(super) fn room(&mut self, bytes: usize, chunk: usize) -> &mut Vec<u8> {
        if self.last.len() + bytes > chunk && !self.last.is_empty() {
            let spare = std::mem::take(&mut self.spare);
            self.full
                .push_back(std::mem::replace(&mut self.last, spare));
        }
        &mut self.last
    }

    /// Moves frames of up to `room` bytes behind `out`, or one where there is none; how many bytes
    /// that was.
    pub(super) fn take(&mut self, out: &mut Vec<u8>, room: usize, checksum: bool) -> usize {
        let first = self.full.front_mut().unwrap_or(&mut self.last);
        let rest = &first[self.taken..];
        let mut len = rest.len();
        if room == 0 {
            len = first_bytes(rest, checksum);
        } else if len > room {
            len = 0;
            // Not all of them fit, so this ends.
            loop {
                let next = first_bytes(&rest[len..], checksum);
                if len + next > room {
                    break;
                }
                len += next;
            }
        }
        if len < rest.len() {
            out.extend_from_slice(&rest[..len]);
            self.taken += len;
            return len;
        }
        if out.is_empty() && self.taken == 0 && len >= SWAP_MIN {
            std::mem::swap(first, out);
        } else {
            out.extend_from_slice(rest);
            first.clear();
        }
        self.taken = 0;
        if let Some(left) = self.full.pop_front() {
            self.spare = left;
        }
        len
    }

    /// The bytes from so far behind the first that was not taken.
    pub(super) fn behind(&mut self, offset: usize) -> Option<&mut [u8]> {
        let mut at = self.taken + offset;
        for chunk in self.full.iter_mut().chain([&mut self.last]) {
            if at < chunk.len() {
                return Some(&mut chunk[at..]);
            }
            at -= chunk.len();
        }
        None
    }
}

/// The whole length of the encoded frame at the beginning of `queue`.
pub(super) fn first_bytes(queue: &[u8], checksum: bool) -> usize {
    let body = u32::from_le_bytes([queue[0], queue[1], queue[2], 0]) as usize;
    frame_bytes(body, checksum)
}
