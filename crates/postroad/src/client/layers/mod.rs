//! A client as a service of tower, and policies as its layers, with feature `tower`.
//!
//! ```
//! use std::time::Duration;
//!
//! use postroad::client::layers::{BreakerLayer, Call, DeadlineLayer, RetryLayer};
//! use postroad::client::{BreakerPolicy, CallOptions, RetryPolicy};
//! use postroad::{Client, Router, Server};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let router = Router::new().route("text/shout", async |text: String| text.to_uppercase());
//! let server = Server::new(router).listen("mem://layers".parse()?).start().await?;
//! let client = Client::connect("mem://layers").await?;
//! // What comes first is outermost.
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(2)))
//!     .layer(RetryLayer::new(RetryPolicy::default()))
//!     .layer(BreakerLayer::new("text", BreakerPolicy::default()))
//!     .service(client);
//! let call = Call::new("text/shout", "hello").options(CallOptions::new().idempotent());
//! assert_eq!(service.oneshot(call).await?.payload, "HELLO");
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! They are for clients of one endpoint, and for services of your own that take a [`Call`]. A
//! client with [`Policies`](super::Policies) does all this by itself, and better, because it knows
//! its servers: retries around it would multiply with its own.

mod breaker;
mod call;
mod deadline;
mod hedge;
mod retry;

pub use breaker::{BreakerLayer, BreakerService};
pub use call::Call;
pub use deadline::{DeadlineLayer, DeadlineService};
pub use hedge::{HedgeLayer, HedgeService};
pub use retry::{RetryLayer, RetryService};

/// An answer that is on its way.
type Answering = crate::transport::BoxFuture<
    'static,
    Result<postroad_proto::session::Reply, crate::error::CallError>,
>;
