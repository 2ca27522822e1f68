//! A code that is none.
//~ not an error code of the form SRV-E-404

fn main() {
    let _ = postroad::Error::new(postroad::code!("NOT_FOUND"), "no such order");
}
