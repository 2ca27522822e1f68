//! A service with a type parameter.
//~ a service has no generics

#[postroad::service]
trait Store<T> {
    async fn keep(&self, item: String) -> Result<(), postroad::Error>;
}

fn main() {}
