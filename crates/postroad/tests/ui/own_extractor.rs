//! An argument type that is asked for by itself and is no extractor.
//~ `Thing` is not something that a handler on a router with state `()` can ask for
//~ or a type that implements `FromRequest`

use postroad::extract::FromRequest;

struct Thing;

fn take<T: FromRequest<()>>() {}

fn main() {
    take::<Thing>();
}
