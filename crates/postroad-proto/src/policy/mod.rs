//! Decisions as pure state machines: given what happened and the time, what to do next.
//!
//! Of one connection: [`Reconnect`] says when to dial again, [`ConnectionState`] what may follow
//! what. Of a call among several endpoints:
//!
//! ```text
//! Throttle -> may it be sent at all, or does the service shed?
//! Balancer -> which endpoint gets it?      by Load, skipping what Outlier has put aside
//! Breaker  -> does that endpoint answer?
//! Hedge    -> after how long is a second one asked?        both take from Budget
//! RetryRule-> it has failed: again, when, and where?
//! Why      -> what was decided, for whoever asks
//! ```
//!
//! Time and randomness are arguments. What is asked for every call is made of atomic numbers: no
//! policy takes a lock or memory on that path.

mod backoff;
mod balance;
mod breaker;
mod budget;
mod hedge;
mod load;
mod outcome;
mod outlier;
mod retry;
mod state;
mod throttle;
mod why;
mod window;

pub use backoff::{Backoff, BackoffError, Ended, GiveUp, Next, Pause, Random, Reconnect};
pub use balance::{Balance, Balancer, Candidate, UnknownBalance};
pub use breaker::{Breaker, BreakerRule, BreakerState, Permit};
pub use budget::{Budget, BudgetRule};
pub use hedge::{Hedge, HedgeRule};
pub use load::Load;
pub use outcome::{CallInfo, Ending, Outcome, Timing};
pub use outlier::{Outlier, OutlierRule, outliers};
pub use retry::{Failed, NoRetry, RetryRule, Verdict};
pub use state::{ConnectionState, IllegalTransition, ServerState};
pub use throttle::Throttle;
pub use why::{Considered, Step, Why};
