//! An answer that nothing encodes, asked for by itself.
//~ a handler cannot answer with `Thing`
//~ wrap a value of your own in `Json`

use postroad::extract::IntoReply;

struct Thing;

fn answer(_: impl IntoReply) {}

fn main() {
    answer(Thing);
}
