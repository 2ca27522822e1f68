//! Decisions as pure state machines: given what happened and the time, what to do next.
//!
//! Time is an argument, and so is what is random. What many threads share on the way of a call is
//! made of atomics: no piece waits for a lock, and none allocates for a call.
//!
//! | piece | belongs to | decides |
//! | --- | --- | --- |
//! | [`Reconnect`] | a connection | when to dial again |
//! | [`Load`] | an endpoint | nothing; it remembers calls, latency, failures |
//! | [`Balancer`] | a list of endpoints | which endpoint gets a call |
//! | [`Breaker`] | an endpoint | whether a call may pass |
//! | [`Outlier`] | an endpoint | nothing; it remembers how calls ended |
//! | [`Ejector`] | a list of endpoints | which of them gets no calls for a while |
//! | [`Throttle`] | an endpoint or service | whether a call is held back here |
//! | [`PoolConfig`] | an endpoint | how many connections, who waits for one, when one is old |
//! | [`Budget`] | a service | whether anything may be sent again; shared by retries and hedges |
//! | [`RetryConfig`] | a service or method | whether a failed call is sent again, when and where |
//! | [`Hedge`] | a service or method | when a slow call is sent a second time |
//! | [`Rate`] | a route, or a client of it | whether something may pass by how often it may |
//! | [`AdaptiveLimit`] | a route | how many requests may be in hand |
//! | [`Shares`] | a server | who is let in once the limit is reached |
//! | [`Usual`] | a route | what a request can expect, and which comes too late |
//! | [`Codel`] | a queue | which of those that waited are hopeless |
//! | [`Pressure`] | a server | whether to read less, or to refuse what is not critical |
//! | [`Levels`] | what serves requests | which of eight priorities is served next |
//! | [`Why`] | a call that somebody asks about | nothing; it is the record of what was decided |
//!
//! [`Ending`] says how a call ended and [`Verdict`] what that says about its endpoint.

mod backoff;
mod balance;
mod breaker;
mod budget;
mod codel;
mod expect;
mod hedge;
mod limit;
mod load;
mod order;
mod outcome;
mod outlier;
mod pool;
mod pressure;
mod rate;
mod retry;
mod shares;
mod state;
mod throttle;
mod verdict;
mod why;
mod window;

pub use backoff::{Backoff, BackoffError, Ended, GiveUp, Next, Pause, Random, Reconnect};
pub use balance::{Ask, Balance, Balancer, Candidate, hash_key};
pub use breaker::{Breaker, BreakerConfig, BreakerOpen, BreakerState, Permit};
pub use budget::{Budget, BudgetConfig};
pub use codel::{Codel, CodelConfig, Queued};
pub use expect::{Prospect, Usual, UsualConfig};
pub use hedge::{Hedge, HedgeConfig, NoHedge};
pub use limit::{AdaptiveLimit, AdaptiveLimitConfig};
pub use load::{Load, LoadConfig, RAMP_WHOLE};
pub use order::{Levels, OrderConfig};
pub use outcome::{CallInfo, Ending, Outcome, Timing};
pub use outlier::{Ejector, Outlier, OutlierConfig};
pub use pool::{PoolConfig, PoolCounts, PoolFull};
pub use pressure::{Pressure, PressureConfig, PressureState};
pub use rate::{Rate, RateConfig, RateExceeded, Shape};
pub use retry::{Again, Failed, NoRetry, RetryConfig};
pub use shares::{Shares, SharesConfig};
pub use state::{ConnectionState, IllegalTransition, ServerState};
pub use throttle::{Throttle, ThrottleConfig, Throttled};
pub use verdict::Verdict;
pub use why::{Considered, Step, WHY_CANDIDATES_MAX, WHY_STEPS_MAX, Why};
