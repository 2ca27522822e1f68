//! All tests with clients and servers in one process, in one program: it is linked once, and its
//! tests share one support module. `cargo test -p postroad --test it pipeline::` runs one module.
//!
//! Names of `mem://` endpoints belong to the process, so each test has its own.
//!
//! Tests that look at the whole process (its memory, its open files, its threads) are programs of
//! their own beside this folder.

#[cfg(feature = "admin")]
mod admin;
mod admission;
mod blocking;
mod calls;
#[cfg(all(unix, feature = "tls"))]
mod certificates;
mod codecs;
mod coming_and_going;
mod dead_paths;
mod diagnostics;
mod discovery;
#[cfg(feature = "dns")]
mod discovery_dns;
#[cfg(feature = "discovery")]
mod discovery_documents;
#[cfg(feature = "etcd")]
mod discovery_etcd;
#[cfg(feature = "discovery")]
mod discovery_http;
mod ending;
mod envelopes;
mod fleet;
mod hooks;
mod hostile;
mod hostile_floods;
#[cfg(feature = "jwt")]
mod identity;
mod intake;
#[cfg(feature = "tower")]
mod layers;
mod never_give_up;
mod outages;
mod peers;
mod pipeline;
mod polling;
mod pressure;
mod reload;
mod slow_line;
mod support;
mod threads;
mod transports;
mod typed;
mod versions;
