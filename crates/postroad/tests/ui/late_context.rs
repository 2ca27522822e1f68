//! The circumstances of a call behind another argument.
//~ arguments of a service travel, so they are owned: not &CallContext

#[postroad::service]
trait Greeter {
    async fn hello(&self, name: String, cx: &CallContext) -> Result<String, postroad::Error>;
}

fn main() {}
