//! The servers of Postroad: the native protocol and its dialects.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad::codec::numbers;
use postroad::{Bytes, CallError, Client, ClientConfig, ConnectionState, Protocol, discovery};
use tokio::sync::watch;

use super::{Call, Connection, Ended, Pipeline, Target};
use crate::error::Error;
use crate::failure::{Failure, Outcome};
use crate::plan::{Payload, Plan};

/// The priority of calls for which none was asked.
const PRIORITY: u8 = 3;

/// A route of a server.
#[derive(Clone, Debug)]
pub(crate) struct Postroad {
    target: discovery::Target,
    config: ClientConfig,
    route: Arc<str>,
}

impl Postroad {
    /// What a plan calls.
    ///
    /// # Errors
    ///
    /// If its URL is no target.
    pub(crate) fn new(plan: &Plan) -> Result<Self, Error> {
        Ok(Self {
            target: plan.url.parse()?,
            config: plan.client_config(),
            route: plan.route.as_str().into(),
        })
    }

    /// Refuses calls that can never be made, with the reason that making them would give.
    ///
    /// # Errors
    ///
    /// What of the plan cannot be, and why.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), Error> {
        // Of several servers it is not known before connecting what they can carry.
        let Some(endpoint) = self.target.endpoint() else {
            return Ok(());
        };
        let route = &*self.route;
        if let Protocol::Dialect(codec) = endpoint.protocol()
            && codec.dialect.name() != "priority"
            && plan.priority.values().any(|each| *each != PRIORITY)
        {
            return Err(Error::asked(format!(
                "--priority {}: frames of the dialect `{}` carry no priority",
                plan.priority,
                codec.dialect.name()
            )));
        }
        let has_envelope = endpoint.mapping().envelope.is_some();
        for (number, body) in plan.payload.bodies().iter().enumerate() {
            let checked = endpoint.check_call(&self.config.connection, route, body);
            checked.map_err(|why| {
                let hint = if has_envelope && matches!(plan.payload, Payload::Sizes(_)) {
                    "; give a payload that fits into the envelope with --payload FILE"
                } else {
                    ""
                };
                let name = plan.payload.name(number);
                Error::asked(format!("--route {route:?}, {name}: {why}{hint}"))
            })?;
        }
        Ok(())
    }
}

impl Target for Postroad {
    type Connection = Connected;

    fn connect(&self) -> impl Future<Output = Result<Connected, Error>> + 'static {
        let (target, config) = (self.target.clone(), self.config.clone());
        let route = Arc::clone(&self.route);
        async move {
            let client = Client::connect_with(target, config).await?;
            Ok(Connected { client, route })
        }
    }
}

/// A client and the route that it calls.
pub(crate) struct Connected {
    client: Client,
    route: Arc<str>,
}

impl Connection for Connected {
    type Failure = CallError;
    type Pipeline = postroad::Pipeline;
    type Status = ConnectionState;

    #[inline]
    fn call(&self, call: &Call<'_>) -> impl Future<Output = Result<Bytes, CallError>> {
        let request = self.client.request(&self.route);
        let request = request.priority(call.priority).timeout(call.timeout);
        request.call_raw(call.body.clone())
    }

    async fn send(&self, call: &Call<'_>) -> Result<(), CallError> {
        let request = self.client.request(&self.route);
        let request = request.priority(call.priority).timeout(call.timeout);
        request.send_bytes(numbers::RAW, call.body.clone()).await
    }

    fn pipeline(&self) -> postroad::Pipeline {
        self.client.pipeline(&self.route)
    }

    fn status(&self) -> watch::Receiver<ConnectionState> {
        self.client.state()
    }

    fn is_connected(status: &ConnectionState) -> bool {
        *status == ConnectionState::Connected
    }
}

impl Pipeline for postroad::Pipeline {
    type Failure = CallError;

    #[inline]
    fn set(&mut self, priority: u8, timeout: Duration) {
        self.set_priority(priority);
        self.set_timeout(timeout);
    }

    #[inline]
    fn try_call(&mut self, tag: u64, body: &Bytes) -> Result<(), CallError> {
        Self::try_call(self, tag, body)
    }

    /// The connection's lock is taken once for many of them.
    #[inline]
    fn try_calls(&mut self, tag: u64, body: &Bytes, calls: u64) -> u64 {
        let alike = (0..calls).map(|_| (tag, body));
        match Self::try_calls(self, alike) {
            Ok(()) => calls,
            Err((made, _why)) => made as u64,
        }
    }

    fn flush(&mut self) {
        Self::flush(self);
    }

    #[inline]
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Ended<CallError>>> {
        Self::poll_next(self, context)
    }

    #[inline]
    fn ready(&self) -> usize {
        Self::ready(self)
    }

    #[inline]
    fn in_flight(&self) -> usize {
        Self::in_flight(self)
    }
}

impl Failure for CallError {
    fn code(&self) -> Cow<'_, str> {
        Cow::Owned(Self::code(self).as_str().to_owned())
    }

    fn text(&self) -> String {
        let all = self.to_string();
        let text = all.strip_prefix(Self::code(self).as_str());
        text.map_or(all.as_str(), str::trim_start).to_owned()
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::NotConnected { .. } => Outcome::NoConnection,
            Self::Busy(_) => Outcome::Full,
            Self::Deadline { sent: false, .. } => Outcome::Expired,
            Self::Unsendable(_) => Outcome::Unsendable,
            _ => Outcome::Left,
        }
    }

    fn expired(last: Option<&Self>, timeout: Duration) -> Self {
        match last {
            Some(Self::NotConnected {
                endpoint,
                state,
                reason,
            }) => Self::NotConnected {
                endpoint: endpoint.clone(),
                state: *state,
                reason: reason.clone(),
            },
            // It was never asked whether the server can do it.
            _ => Self::Deadline {
                timeout,
                sent: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::config::LoadConfig;
    use crate::plan::mix::Mix;

    fn checked(config: &LoadConfig) -> Result<(), Error> {
        let plan = Plan::new(config)?;
        Postroad::new(&plan)?.check(&plan)
    }

    #[test]
    fn calls_that_the_dialect_can_never_carry_are_refused_with_the_reason() {
        let load = |url: &str| LoadConfig::new(url);
        let route = |url: &str, route: &str| LoadConfig {
            route: Some(route.to_owned()),
            ..load(url)
        };
        let large = LoadConfig {
            size: Mix::one(70_000),
            ..load("tcp+session://h:1")
        };
        let urgent = LoadConfig {
            priority: Mix::one(7),
            ..load("tcp+session://h:1")
        };
        for (config, says) in [
            (route("tcp+session://h:1", "hello"), "hello"),
            (route("tcp+session://h:1", "command/300"), "command/300"),
            (route("tcp+opcode://h:1", "opcode/0"), "0x00"),
            (route("tcp://h:1", ""), "1 to 255 are allowed"),
            (load("tcp+sequence://h:1?envelope=json"), "--payload FILE"),
            (large, "--size 70000"),
            (urgent, "carry no priority"),
        ] {
            let refused = checked(&config).expect_err("it can never be made");
            assert!(refused.to_string().contains(says), "{refused}");
        }
        checked(&load("tcp+session://h:1")).expect("it can be made");
        checked(&load("tcp://h:1")).expect("it can be made");
    }

    #[test]
    fn the_newline_at_the_end_of_a_file_is_no_part_of_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let with = |bytes: &[u8]| {
            let path = folder.path().join("payload");
            std::fs::write(&path, bytes).expect("it is written");
            LoadConfig {
                payload: Some(path),
                ..LoadConfig::new("tcp+line://h:1")
            }
        };
        checked(&with(b"hello\n")).expect("an editor ends files so");
        let refused = checked(&with(b"hello\nworld\n")).expect_err("these are two lines");
        assert!(refused.to_string().contains("one line"), "{refused}");
    }
}
