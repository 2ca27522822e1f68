//! The program's allocator. It gives memory back to the system when connections have gone, where
//! glibc's keeps nearly all that many small pieces have taken.

use tikv_jemalloc_ctl::background_thread;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Has a thread of the allocator give back what was not used for some seconds. Otherwise that is
/// done only where memory is asked for, and a node that rests keeps what its peers have needed.
pub(crate) fn give_back() {
    if let Err(error) = background_thread::write(true) {
        tracing::warn!(%error, "memory that is not used any more stays with this process");
    }
}
