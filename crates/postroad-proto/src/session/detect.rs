//! A connection whose first bytes have not said yet what it speaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::timers::{Timer, Timers};
use super::{CloseReason, Config, DialectConfig, Event, Mapping, Session, Shortage, spoken};
use crate::Time;
use crate::dialect::{Dialect, DialectCodec, Reader};
use crate::frame::MAGIC;
use crate::wire_error::{WireError, WireFault};

/// Waits for a magic until the handshake time is up.
#[derive(Debug)]
pub(super) struct Detect {
    config: Arc<Config>,
    mapping: Arc<Mapping>,
    id: [u8; 16],
    since: Time,
    closed: bool,
    /// There is no room for it, which it is told in what it speaks.
    turned_away: Option<Shortage>,
    event: Option<Event>,
}

impl Detect {
    pub(super) fn new(config: Arc<Config>, mapping: Arc<Mapping>, id: [u8; 16], now: Time) -> Self {
        Self {
            config,
            mapping,
            id,
            since: now,
            closed: false,
            turned_away: None,
            event: None,
        }
    }

    /// The session that these bytes are for, once they say so.
    pub(super) fn decide(&mut self, now: Time, buf: &BytesMut) -> Option<Session> {
        if self.closed {
            return None;
        }
        let mut session = self.detect(now, buf)?;
        if let Some(shortage) = self.turned_away {
            session.turn_away(now, shortage);
        }
        Some(session)
    }

    fn detect(&mut self, now: Time, buf: &BytesMut) -> Option<Session> {
        let native = buf.iter().zip(MAGIC).take_while(|(a, b)| **a == *b).count();
        if native == buf.len().min(MAGIC.len()) {
            if native < MAGIC.len() {
                return None;
            }
            // Detection and opening share one time.
            let config = Arc::clone(&self.config);
            return Some(Session::server(config, self.id, self.since));
        }
        match Dialect::detect(buf) {
            Ok(None) => None,
            Ok(Some(dialect)) => {
                let (config, mapping) = (Arc::clone(&self.config), Arc::clone(&self.mapping));
                let mut codec = DialectCodec::new(dialect, Reader::Server);
                codec.max_payload = config.limits.max_dialect_payload;
                let dialect = DialectConfig { codec, mapping };
                Some(Session::dialect_server(config, dialect, now))
            }
            Err(mut error) => {
                // The native magic may have gone on for longer.
                if native as u64 > error.at {
                    let detail = format!(
                        "found 0x{:02x}, expected 0x{:02x}",
                        buf[native], MAGIC[native]
                    );
                    error = WireError::new(WireFault::Magic, native, detail);
                }
                let error = spoken::with_guess(error, buf, "auto");
                self.close(now, CloseReason::Protocol(error));
                None
            }
        }
    }

    pub(super) fn handle_end(&mut self, now: Time, buf: &BytesMut, error: Option<String>) {
        let reason = match error {
            Some(error) => CloseReason::Transport(error),
            None if buf.is_empty() => CloseReason::Peer,
            None => {
                let detail = "the stream ended before it said what it speaks";
                CloseReason::Protocol(WireError::new(WireFault::Truncated, buf.len(), detail))
            }
        };
        self.close(now, reason);
    }

    pub(super) fn handle_written(&mut self, _now: Time, _blocked: bool) {}

    pub(super) fn drain(&mut self, now: Time, _grace: Duration) {
        self.close(now, CloseReason::Drained);
    }

    /// Turns the peer away as soon as it has said what it speaks.
    pub(super) fn turn_away(&mut self, shortage: Shortage) {
        self.turned_away = Some(shortage);
    }

    pub(super) fn close(&mut self, _now: Time, reason: CloseReason) {
        if !self.closed {
            self.closed = true;
            self.event = Some(Event::Closed(reason));
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    pub(super) fn poll_transmit(&mut self, _out: &mut Vec<u8>) -> bool {
        false
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        false
    }

    pub(super) fn wants_read(&self) -> bool {
        !self.closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Timers for Detect {
    fn due(&self, timer: Timer) -> Time {
        match timer {
            Timer::Handshake if !self.closed => self.since + self.config.handshake,
            Timer::Handshake
            | Timer::LateFault
            | Timer::WriteStall
            | Timer::ReadStall
            | Timer::CallDeadlines
            | Timer::RequestDeadlines
            | Timer::Drain
            | Timer::Idle
            | Timer::ReleaseMemory
            | Timer::Heartbeat => Time::NEVER,
        }
    }

    /// Only the handshake is ever due.
    fn fire(&mut self, now: Time, _timer: Timer) {
        let time = self.config.handshake;
        let detail = format!("nothing that can be detected within {time:?}");
        let error = WireError::new(WireFault::Magic, 0, detail);
        self.close(now, CloseReason::Protocol(error));
    }
}
