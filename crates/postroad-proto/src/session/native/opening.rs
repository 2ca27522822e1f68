//! Version, features and limits: who proposes, who settles, who refuses.

use bytes::{Buf, Bytes, BytesMut};

use super::{CloseReason, Event, Native, Phase, Role};
use crate::Time;
use crate::code::Retry;
use crate::frame::{CRITICAL, Hello, Opening, OpeningParts, Refuse, RefuseReason, Welcome};
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, PARTS_ROOM};
use crate::session::{Config, Credentials, Denial, PeerHello, Shortage, features};
use crate::text::Printable;
use crate::wire_error::{WireError, WireFault};

/// Part of both openings: who speaks, for logs.
const AGENT: u8 = 1;
/// Part of HELLO: what proves who the client is.
const CREDENTIALS: u8 = 2;

/// The heartbeat that this end proposes, within what may be proposed (M-008).
fn millis(config: &Config) -> u32 {
    let heartbeat = config.heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
    u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX)
}

fn agent_part(config: &Config) -> OpeningParts {
    let agent = crate::text::cut_at_char(&config.agent, 255).to_owned();
    vec![(AGENT, agent.into())]
}

/// What is kept of a HELLO that is welcome: nothing of the read buffer, and no credentials.
#[derive(Debug)]
pub(super) struct Settled {
    version: u16,
    agreed: u32,
    heartbeat_ms: u32,
    peer: super::Peer,
    agent: String,
}

/// The value of a part, whether it is critical or not.
fn part(parts: &OpeningParts, wanted: u8) -> Option<&Bytes> {
    let mut parts = parts.iter();
    let found = parts.find(|(tag, _)| tag & !CRITICAL == wanted)?;
    Some(&found.1)
}

fn agent_of(parts: &OpeningParts) -> String {
    let agent = part(parts, AGENT);
    agent
        .map(|value| Printable(&String::from_utf8_lossy(value)).to_string())
        .unwrap_or_default()
}

/// A critical part of an opening that nobody here reads (M-031). Parts that the protocol lays out
/// count as not understood until something reads them.
fn unread_critical(parts: &OpeningParts, read: &[u8]) -> Option<u8> {
    let tags = parts.iter().map(|(tag, _)| *tag);
    tags.filter(|tag| tag & CRITICAL != 0)
        .find(|tag| !read.contains(&(tag & !CRITICAL)))
}

impl Native {
    pub(super) fn send_hello(&mut self) {
        let (config, limits) = (&self.config, &self.config.limits);
        let mut parts = agent_part(config);
        if let Some(Credentials(bytes)) = &config.credentials {
            // Critical: a client that has to prove who it is must not be taken for a stranger.
            parts.push((CREDENTIALS | CRITICAL, bytes.clone()));
        }
        let hello = Opening::Hello(Hello {
            version_min: config.version_min,
            version_max: config.version_max,
            offered: config.offered,
            required: config.required,
            max_frame: limits.max_frame as u32,
            max_message: limits.max_message as u32,
            max_calls: 0,
            heartbeat_ms: millis(config),
            max_routes: limits.max_routes as u16,
            parts,
        });
        self.outbox.control_mut(|out| hello.encode(out));
    }

    pub(super) fn handle_opening(
        &mut self,
        now: Time,
        buf: &mut BytesMut,
    ) -> Result<bool, WireError> {
        let before = buf.remaining();
        let Some(opening) = Opening::decode(buf)? else {
            return Ok(false);
        };
        debug_assert!(buf.remaining() < before, "a decoded opening was taken");
        match (self.role, opening) {
            (Role::Server, Opening::Hello(hello)) => self.receive_hello(now, &hello),
            (Role::Client, Opening::Welcome(welcome)) => self.receive_welcome(now, &welcome)?,
            (Role::Client, Opening::Refuse(refuse)) => {
                self.close(now, CloseReason::Refused(Box::new(refuse)));
            }
            (_, Opening::Hello(_)) => return Err(wrong_way("HELLO from a server")),
            (_, Opening::Welcome(_)) => return Err(wrong_way("WELCOME from a client")),
            (_, Opening::Refuse(_)) => return Err(wrong_way("REFUSE from a client")),
        }
        Ok(true)
    }

    fn receive_hello(&mut self, now: Time, hello: &Hello) {
        match self.settle(hello) {
            Ok((version, agreed)) => {
                let settled = Settled {
                    version,
                    agreed,
                    heartbeat_ms: hello.heartbeat_ms,
                    peer: super::Peer {
                        max_frame: hello.max_frame,
                        max_message: hello.max_message,
                        max_routes: hello.max_routes,
                    },
                    agent: agent_of(&hello.parts),
                };
                let credentials = self.credentials_of(hello);
                match (credentials, self.phase) {
                    (Some(credentials), Phase::Opening(due)) if self.config.judges_credentials => {
                        self.phase = Phase::Judging(due);
                        self.events.push_back(Event::Presented(credentials));
                        self.judged = Some(Box::new(settled));
                    }
                    (credentials, _) => self.welcome(now, settled, credentials),
                }
            }
            Err(refuse) => {
                self.refuse(*refuse.clone());
                self.close(now, CloseReason::Refused(refuse));
            }
        }
    }

    /// The version and the features, or why there are none (M-005 to M-007).
    fn settle(&self, hello: &Hello) -> Result<(u16, u32), Box<Refuse>> {
        let config = &self.config;
        let version = hello.version_max.min(config.version_max);
        if version < hello.version_min || version < config.version_min {
            let text = format!(
                "no common version: the client speaks {} to {}, the server {} to {}",
                hello.version_min, hello.version_max, config.version_min, config.version_max
            );
            return Err(Box::new(self.refusal(
                RefuseReason::Version,
                Retry::Elsewhere,
                text,
            )));
        }
        let agreed = hello.offered & config.offered;
        let missing = (hello.required | config.required) & !agreed;
        if missing != 0 {
            let text = format!(
                "features 0x{missing:x} are required by one end and not offered by the other"
            );
            let refuse = self.refusal(RefuseReason::Features, Retry::Elsewhere, text);
            return Err(Box::new(Refuse {
                features: missing,
                ..refuse
            }));
        }
        let read: &[u8] = match config.accepts_credentials {
            true => &[AGENT, CREDENTIALS],
            false => &[AGENT],
        };
        if let Some(tag) = unread_critical(&hello.parts, read) {
            let text = format!("critical part 0x{tag:02x} of HELLO is not understood");
            return Err(Box::new(self.refusal(
                RefuseReason::Features,
                Retry::Elsewhere,
                text,
            )));
        }
        Ok((version, agreed))
    }

    /// What a HELLO brings to prove who the client is, if anybody wants to know. Copied, because a
    /// slice would keep the read buffer.
    fn credentials_of(&self, hello: &Hello) -> Option<Credentials> {
        let value = part(&hello.parts, CREDENTIALS)?;
        let is_wanted = self.config.accepts_credentials;
        is_wanted.then(|| Credentials(Bytes::copy_from_slice(value)))
    }

    pub(in crate::session) fn admit(&mut self, now: Time) {
        if let Some(settled) = self.judged.take()
            && self.phase != Phase::Closed
        {
            self.welcome(now, *settled, None);
        }
    }

    pub(in crate::session) fn deny(&mut self, now: Time, denial: Denial) {
        if self.judged.take().is_none() || self.phase == Phase::Closed {
            return;
        }
        let Denial { text, retry, after } = denial;
        let refuse = Refuse {
            retry_after_ms: u32::try_from(after.as_millis()).unwrap_or(u32::MAX),
            ..self.refusal(RefuseReason::Authentication, retry, text)
        };
        self.refuse(refuse.clone());
        self.close(now, CloseReason::Refused(Box::new(refuse)));
    }

    fn welcome(&mut self, now: Time, settled: Settled, credentials: Option<Credentials>) {
        let Settled {
            version,
            agreed,
            heartbeat_ms,
            peer,
            agent,
        } = settled;
        let heartbeat_ms = heartbeat_ms.max(millis(&self.config));
        let heartbeat_ms = heartbeat_ms.min(HEARTBEAT_MAX.as_millis() as u32);
        let limits = &self.config.limits;
        let welcome = Opening::Welcome(Welcome {
            version,
            features: agreed,
            max_frame: limits.max_frame as u32,
            max_message: limits.max_message as u32,
            max_calls: limits.max_calls as u32,
            heartbeat_ms,
            max_routes: limits.max_routes as u16,
            session_id: self.id,
            epoch: 1,
            parts: agent_part(&self.config),
        });
        self.outbox.control_mut(|out| welcome.encode(out));
        self.peer = peer;
        let peer = PeerHello {
            protocol: "native",
            version,
            agent,
            credentials,
        };
        self.open(now, agreed, heartbeat_ms, peer);
    }

    fn receive_welcome(&mut self, now: Time, welcome: &Welcome) -> Result<(), WireError> {
        let config = &self.config;
        let bad = |fault, at, detail: String| Err(WireError::new(fault, at, detail));
        if !(config.version_min..=config.version_max).contains(&welcome.version) {
            let (min, max) = (config.version_min, config.version_max);
            let detail = format!(
                "the server chose {}, offered were {min} to {max}",
                welcome.version
            );
            return bad(WireFault::Version, 8, detail);
        }
        let unasked = welcome.features & !config.offered;
        let missing = config.required & !welcome.features;
        if unasked | missing != 0 {
            let detail =
                format!("features 0x{unasked:x} were not offered, 0x{missing:x} are missing");
            return bad(WireFault::Reserved, 12, detail);
        }
        if let Some(tag) = unread_critical(&welcome.parts, &[AGENT]) {
            return bad(
                WireFault::Parts,
                56,
                format!("critical part 0x{tag:02x} is not understood"),
            );
        }
        if u128::from(welcome.heartbeat_ms) > HEARTBEAT_MAX.as_millis() {
            let detail = format!(
                "agreed heartbeat of {} ms, at most {HEARTBEAT_MAX:?}",
                welcome.heartbeat_ms
            );
            return bad(WireFault::Reserved, 28, detail);
        }
        if let Some(caller) = &mut self.caller {
            let accepted = welcome.max_calls as usize;
            let max = accepted.min(self.config.limits.max_calls);
            caller.slots.set_max(max);
        }
        self.peer = super::Peer {
            max_frame: welcome.max_frame,
            max_message: welcome.max_message,
            max_routes: welcome.max_routes,
        };
        let peer = PeerHello {
            protocol: "native",
            version: welcome.version,
            agent: agent_of(&welcome.parts),
            credentials: None,
        };
        self.open(now, welcome.features, welcome.heartbeat_ms, peer);
        Ok(())
    }

    fn open(&mut self, now: Time, agreed: u32, heartbeat_ms: u32, peer: PeerHello) {
        let checksum = agreed & features::CHECKSUM != 0;
        self.decoder.checksum = checksum;
        self.outbox.checksum = checksum;
        // A frame has room for parts beside its fragment.
        let max_frame = self.peer.max_frame as usize;
        let room = max_frame.saturating_sub(PARTS_ROOM).max(max_frame / 2);
        self.outbox.set_fragment(self.config.fragment.min(room));
        let beat = std::time::Duration::from_millis(heartbeat_ms.into());
        self.liveness.agree(now, beat);
        self.phase = Phase::Open;
        self.events.push_back(Event::Opened(Box::new(peer)));
    }

    fn refusal(&self, reason: RefuseReason, retry: Retry, text: String) -> Refuse {
        Refuse {
            version_min: self.config.version_min,
            version_max: self.config.version_max,
            reason,
            retry,
            retry_after_ms: 0,
            features: 0,
            text,
        }
    }

    fn refuse(&mut self, refuse: Refuse) {
        let opening = Opening::Refuse(refuse);
        self.outbox.control_mut(|out| opening.encode(out));
    }

    /// Tells a client whose magic was right what was wrong with its opening (M-003).
    pub(super) fn refuse_malformed(&mut self, error: &WireError) {
        if self.role == Role::Server && error.fault != WireFault::Magic {
            let refuse = self.refusal(RefuseReason::Malformed, Retry::Never, error.to_string());
            self.refuse(refuse);
        }
    }

    pub(in crate::session) fn turn_away(&mut self, now: Time, shortage: Shortage) {
        let text = shortage.text().to_owned();
        let refuse = self.refusal(RefuseReason::Capacity, Retry::Elsewhere, text);
        self.refuse(refuse);
        self.close(now, CloseReason::TurnedAway(shortage));
    }

    pub(super) fn refuse_draining(&mut self) {
        if self.role == Role::Server {
            let text = "the server is shutting down".to_owned();
            let refuse = self.refusal(RefuseReason::Draining, self.drain_retry, text);
            self.refuse(refuse);
        }
    }
}

/// A client waits for WELCOME before it says more (M-001).
#[cold]
pub(super) fn too_early() -> WireError {
    let detail = "bytes before WELCOME: the credentials are being judged";
    WireError::new(WireFault::State, 0, detail)
}

fn wrong_way(what: &str) -> WireError {
    WireError::new(WireFault::Type, 4, what.to_owned())
}
