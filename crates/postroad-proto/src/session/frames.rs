//! Small messages that wait to be written: whole frames, encoded already.

use std::collections::VecDeque;

use crate::frame::frame_bytes;

/// From this many bytes on, a chunk is handed to the transport as it is, by swapping buffers. Less
/// is copied: that is cheap, and the connection does not end up with a large buffer of the
/// transport that it may never need again.
const SWAP_MIN: usize = 4096;

/// Whole encoded frames in order, in chunks that leave as they are: the bytes of a long queue are
/// neither copied again nor moved up.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Chunks that are full, the oldest first.
    pub(super) full: VecDeque<Vec<u8>>,
    /// The chunk that is being filled. It is empty only if all of them are.
    pub(super) last: Vec<u8>,
    /// Bytes of the oldest chunk that were taken already.
    taken: usize,
    /// The memory of a chunk that was taken, kept for the next one.
    pub(super) spare: Vec<u8>,
}

impl Frames {
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// The buffer to which a frame of `bytes` bytes is to be appended. A chunk has at most `chunk`
    /// bytes, or holds a single frame that is larger.
    #[inline]
    pub(super) fn room(&mut self, bytes: usize, chunk: usize) -> &mut Vec<u8> {
        if self.last.len() + bytes > chunk && !self.last.is_empty() {
            let spare = std::mem::take(&mut self.spare);
            self.full
                .push_back(std::mem::replace(&mut self.last, spare));
        }
        &mut self.last
    }

    /// Moves whole frames of up to `room` bytes to the end of `out`, and returns how many bytes
    /// that was. With no room at all it moves one frame, which is what a priority that was passed
    /// over for too long gets.
    pub(super) fn take(&mut self, out: &mut Vec<u8>, room: usize, checksum: bool) -> usize {
        let first = self.full.front_mut().unwrap_or(&mut self.last);
        let rest = &first[self.taken..];
        let mut len = rest.len();
        if room == 0 {
            len = first_bytes(rest, checksum);
        } else if len > room {
            len = 0;
            // Not all frames fit, so the loop ends before the chunk does.
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

    /// The bytes that begin `offset` bytes behind the first one that was not taken, up to the end
    /// of their chunk; `None` if nothing so far behind is queued.
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

/// The length of the first encoded frame in `queue`, with its head and its checksum.
pub(super) fn first_bytes(queue: &[u8], checksum: bool) -> usize {
    let body = u32::from_le_bytes([queue[0], queue[1], queue[2], 0]) as usize;
    frame_bytes(body, checksum)
}
