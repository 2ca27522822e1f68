//! The service, without a `.proto` file and therefore without protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let work = Method::builder()
        .name("work")
        .route_name("Work")
        .input_type("crate::Asked")
        .output_type("crate::Asked")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service = Service::builder()
        .name("Worker")
        .package("overload")
        .method(work)
        .build();
    Builder::new().compile(&[service]);
}
