//! Postroad carries calls and one-way messages between services and devices, fast, and urgent ones
//! before bulk. Every call has a deadline and a priority, is stopped when its caller gives up, and
//! fails with an error that says whether it is safe to try again.
//!
//! Not built yet: acknowledged delivery, publish and subscribe, streams. A one-way message is
//! sent at most once, and nobody confirms it.
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
//! # Features
//!
//! | feature | what it adds | default |
//! | --- | --- | --- |
//! | `tls` | TLS 1.3 and mutual TLS: endpoints `tls://` | no |
//! | `protobuf` | the payload codec `codec::Protobuf`, by prost | no |
//! | `avro` | the payload codec `codec::Avro` | no |
//! | `admin` | health and metrics over HTTP: [`admin`] | no |
//! | `jwt` | tokens that say who calls: [`identity`] | no |
//! | `tower` | tower's layers around routes; clients as its services: `client::layers` | no |
//!
//! JSON, MessagePack, TCP, Unix sockets, memory and all dialects are always there.
//!
//! # Testing
//!
//! `mem://NAME` connects client and server within a process, as above; each test takes a name of
//! its own. With `#[tokio::test(start_paused = true)]` and tokio's feature `test-util` time passes
//! as soon as nothing else happens, so that deadlines and reconnecting cost no time. A handler can
//! be called without a connection by [`Routes::call`], and [`practice`] has routes that are slow,
//! large or wrong on purpose.
//!
//! # Where to look
//!
//! [`Server`] and [`Router`] serve, [`Client`] calls, [`Endpoint`] says where,
//! [`codec`] says how values become bytes, [`transport`] carries them. The state
//! machines that decide what happens next are in `postroad-proto`, which does no I/O.

pub mod admin;
mod caller;
pub mod client;
mod clock;
pub mod codec;
pub mod config;
mod context;
pub mod discovery;
mod driver;
mod endpoint;
mod error;
pub mod extract;
mod handler;
mod hook;
pub mod identity;
mod observe;
pub mod practice;
mod preset;
pub mod route;
mod router;
mod server;
pub mod transport;
#[doc(hidden)]
pub mod typed;
mod watched_file;

pub use bytes::Bytes;
pub use postroad_macros::service;
pub use postroad_proto::code::{Code, Fault, Retry};
pub use postroad_proto::policy::{ConnectionState, ServerState};
pub use postroad_proto::trace::Trace;
pub use serde;

pub use client::{BlockingClient, Client, ClientConfig, Pipeline};
pub use codec::{Json, MsgPack};
pub use context::CallContext;
pub use endpoint::{Endpoint, Protocol};
pub use error::{CallError, Error};
pub use handler::Handler;
pub use hook::Next;
pub use router::Router;
pub use server::{Routes, RunningServer, Server, ServerConfig, StartError};

/// The example of the crate's README is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
