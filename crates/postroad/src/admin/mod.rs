//! How a node does, told to those who run it: health for Kubernetes, metrics for Prometheus.
//!
//! [`Metrics`] and [`MetricSource`] are always there; a [`RunningServer`](crate::RunningServer) is
//! a source. With the feature `admin`, `Admin` answers by HTTP:
//!
//! | path | what it answers |
//! | --- | --- |
//! | `/` | these paths |
//! | `/livez` | whether the threads that drive connections still turn |
//! | `/readyz` | whether the server wants calls |
//! | `/startupz` | whether the server has been started |
//! | `/metrics` | [`Metrics`], as Prometheus text or as OpenMetrics |
//!
//! The first three answer 200 or 503; with `?verbose`, and whenever a check has failed, each check
//! is named.

#[cfg(feature = "admin")]
mod address;
#[cfg(feature = "admin")]
mod health;
#[cfg(feature = "admin")]
mod http;
#[cfg(feature = "admin")]
mod listener;
mod metrics;
#[cfg(feature = "admin")]
mod pages;
mod process;
mod sources;
#[cfg(feature = "admin")]
mod told;

#[cfg(feature = "admin")]
pub use address::{AdminAddress, AdminError};
#[cfg(feature = "admin")]
pub use listener::{Admin, RunningAdmin};
pub use metrics::{Format, MetricSource, Metrics, Number, Series};
pub use process::ProcessMetrics;

pub use crate::observe::counters::ServerStats;
