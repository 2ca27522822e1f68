//! An answer of a handler's own type, which nothing encodes.
//~ cannot handle a route of a router with state
//~ a value of your own goes in `Json`, both ways

use postroad::Json;

fn main() {
    let _ = postroad::Router::new().route("double", async |Json(n): Json<u32>| n * 2);
}
