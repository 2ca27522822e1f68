//! An argument that is no extractor.
//~ cannot handle a route of a router with state
//~ a handler is an async function of at most six extractors

struct Thing;

fn main() {
    let _ = postroad::Router::new().route("thing", async |_: Thing| "ok");
}
