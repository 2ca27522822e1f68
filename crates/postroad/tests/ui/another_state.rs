//! A state of another type than the router's.
//~ cannot handle a route of a router with state `u32`

use postroad::extract::State;

fn main() {
    let _ = postroad::Router::with_state(5_u32).route("state", async |_: State<u64>| "ok");
}
