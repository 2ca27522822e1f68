//! An argument of a service that is not owned.
//~ arguments of a service travel, so they are owned: String, not &str

#[postroad::service]
trait Greeter {
    async fn hello(&self, name: &str) -> Result<String, postroad::Error>;
}

fn main() {}
