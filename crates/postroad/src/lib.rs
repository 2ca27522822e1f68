//! Postroad carries messages between services and devices fast, in order of importance, and without
//! losing any.
//!
//! A service and its client:
//!
//! ```
//! use postroad::{Client, Error, Server};
//!
//! #[postroad::service]
//! trait Greeter {
//!     async fn hello(&self, name: String) -> Result<String, Error>;
//! }
//!
//! struct Polite;
//!
//! impl Greeter for Polite {
//!     async fn hello(&self, name: String) -> Result<String, Error> {
//!         Ok(format!("Good day, {name}"))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::new(greeter_routes(Polite));
//! let server = server.listen("mem://greeter".parse()?).start().await?;
//! let greeter = GreeterClient::new(Client::connect("mem://greeter").await?);
//! assert_eq!(greeter.hello("Ada".to_owned()).await?, "Good day, Ada");
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Where to look: [`Server`] and [`Router`] serve, [`Client`] calls, [`Endpoint`] says where,
//! [`codec`] says how values become bytes, [`transport`] carries them. What is decided,
//! not done, is in `postroad-proto`.

mod client;
mod clock;
pub mod codec;
pub mod config;
mod context;
mod driver;
mod endpoint;
mod error;
pub mod extract;
mod handler;
mod preset;
mod router;
mod server;
mod trace;
pub mod transport;

pub use bytes::Bytes;
pub use postroad_macros::service;
pub use postroad_proto::code::{Code, Fault, Retry};
pub use postroad_proto::policy::{ConnectionState, ServerState};
pub use postroad_proto::trace::Trace;
pub use serde;

pub use client::{
    BlockingClient, CallBuilder, Client, ClientConfig, ConnectError, Pipeline, Producer,
};
pub use codec::{Json, MsgPack};
pub use context::CallContext;
pub use endpoint::{Endpoint, Protocol};
pub use error::{CallError, Error};
pub use handler::Handler;
pub use router::{Description, Router, Routes};
pub use server::{RunningServer, Server, ServerConfig, ServerStats, StartError};

/// The example of the crate's README is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
