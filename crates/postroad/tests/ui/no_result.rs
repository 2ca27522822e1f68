//! A method that returns no `Result`.
//~ a method of a service cannot return `u32`
//~ methods return `Result<T, E>` or an alias of it

#[postroad::service]
trait Greeter {
    async fn hello(&self, name: String) -> u32;
}

fn main() {}
