//! Why there is no connection, in words for those who wait for one.

use std::time::Duration;

use postroad_proto::Time;

/// What has gone wrong since there was a connection last. Everything in here is about the present
/// state: a connection that is made clears it.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Why the last attempt failed, or the last connection ended.
    reason: String,
    /// Attempts that have failed since the last connection that worked.
    failed: u32,
    /// When the first of them did.
    since: Option<Time>,
    /// When the next attempt begins, if nobody asks for it sooner.
    next: Option<Time>,
    /// Why there will never be a connection again.
    end: Option<&'static str>,
}

impl Trouble {
    /// There is a connection.
    pub(super) fn clear(&mut self) {
        *self = Self {
            end: self.end,
            ..Self::default()
        };
    }

    /// A connection has ended in order, and the next attempt begins at once.
    pub(super) fn ended(&mut self, reason: String) {
        self.clear();
        self.reason = reason;
    }

    /// An attempt has failed, or a connection has broken.
    pub(super) fn failed(&mut self, reason: String, failed: u32, since: Option<Time>) {
        self.reason = reason;
        self.failed = failed;
        self.since = since;
        self.next = None;
    }

    /// Another attempt begins then, unless somebody asks for it sooner.
    pub(super) fn waits_until(&mut self, next: Time) {
        self.next = Some(next);
    }

    /// The attempt that was waited for has begun.
    pub(super) fn dials(&mut self) {
        self.next = None;
    }

    /// There will be no connection any more. The first cause is the one that is told.
    pub(super) fn end(&mut self, why: &'static str) {
        self.end.get_or_insert(why);
    }

    /// Whether an attempt has failed since there was a connection.
    pub(super) fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// The reason, how often and since when it was tried, and when it is tried again.
    pub(super) fn explain(&self, now: Time) -> String {
        if let Some(end) = self.end {
            return if self.reason.is_empty() {
                end.to_owned()
            } else {
                format!("{end}; before that: {}", self.reason)
            };
        }
        let mut text = if self.reason.is_empty() {
            "the first attempt to connect has not ended yet".to_owned()
        } else {
            self.reason.clone()
        };
        if self.failed == 1 {
            text.push_str(" (1 attempt has failed");
        } else if self.failed > 1 {
            let since = self.since.map_or(Duration::ZERO, |since| now.since(since));
            text.push_str(&format!(
                " ({} attempts have failed in {since:.1?}",
                self.failed
            ));
        } else {
            return text;
        }
        match self.next {
            Some(next) => text.push_str(&format!("; the next is in {:.1?})", next.since(now))),
            None => text.push_str("; the next is being made)"),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_how_often_and_since_when_it_was_tried_and_when_it_is_tried_again() {
        let begin = Time(1_000_000_000);
        let mut trouble = Trouble::default();
        assert_eq!(
            trouble.explain(begin),
            "the first attempt to connect has not ended yet"
        );
        trouble.failed("refused".to_owned(), 3, Some(begin));
        trouble.waits_until(begin + Duration::from_secs(14));
        assert_eq!(
            trouble.explain(begin + Duration::from_secs(10)),
            "refused (3 attempts have failed in 10.0s; the next is in 4.0s)"
        );
        trouble.clear();
        assert!(!trouble.explain(begin).contains("refused"), "it is past");
        trouble.end("the client was closed");
        trouble.end("its runtime has ended");
        assert_eq!(trouble.explain(begin), "the client was closed");
    }
}
