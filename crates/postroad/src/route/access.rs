//! Who may call which routes.
//!
//! The rules of a server are put together once, when they are set. What they say of a caller and a
//! route is asked for once for each route of a connection, not for each call: see
//! `server/lookup.rs`.

use std::time::SystemTime;

use postroad_proto::code::Code;
use postroad_proto::text::Printable;

use super::rule::RouteRule;
use super::word::Word;
use crate::caller::Caller;
use crate::error::Error;

/// Who a client is, it may say, and whether the server is well, it may ask, whatever the rules say.
const OPEN: [&str; 2] = ["postroad/health", "postroad/identify"];

/// What the rules of a server say of who may call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// Of each rule the pattern and whom it allows, in their order. Empty if no rule allows
    /// anybody: then everybody may call everything.
    rules: Vec<(RouteRule, Vec<Word>)>,
}

impl Access {
    /// Of rules that were checked: a word that is none allows nobody.
    pub(crate) fn of(rules: &[RouteRule]) -> Self {
        if rules.iter().all(|rule| rule.allow.is_none()) {
            return Self::default();
        }
        let words = |rule: &RouteRule| {
            let allow = rule.allow.iter().flatten();
            let words = allow.filter_map(|word| Word::read(word)).collect();
            (RouteRule::of(&rule.name), words)
        };
        Self {
            rules: rules.iter().map(words).collect(),
        }
    }

    /// Whether this caller may call this route now.
    ///
    /// # Errors
    /// Why not, as the caller is told.
    pub(crate) fn decide(
        &self,
        route: &str,
        caller: &Caller,
        now: SystemTime,
    ) -> Result<(), Error> {
        if OPEN.contains(&route) {
            return Ok(());
        }
        if caller.expires().is_some_and(|expires| expires <= now) {
            return Err(expired(caller));
        }
        if self.rules.is_empty() {
            return Ok(());
        }
        let rule = self.rules.iter().find(|(rule, _)| rule.fits(route));
        let words = rule.map_or(&[][..], |(_, words)| words);
        match words.iter().any(|word| word.admits(caller)) {
            true => Ok(()),
            false => Err(denied(route, caller, words)),
        }
    }
}

fn expired(caller: &Caller) -> Error {
    let what = match caller.token() {
        Some(token) if caller.expires() == Some(token.expires) => {
            "the token has expired: bring a new one by postroad/identify"
        }
        _ => "the certificate has expired: connect again with a new one",
    };
    Error::of(Code::EXPIRED, format!("{caller}: {what}"))
}

fn denied(route: &str, caller: &Caller, words: &[Word]) -> Error {
    let route = Printable(route);
    // What would be needed is told to those only whom the server knows.
    if caller.is_anonymous() {
        let text =
            format!("route {route}: nobody has said who calls; it takes a token or a certificate");
        return Error::of(Code::UNAUTHENTICATED, text);
    }
    let needed = match words {
        [] => "no rule allows it to anybody".to_owned(),
        words => {
            let words: Vec<_> = words.iter().map(Word::to_string).collect();
            format!("it takes {}", words.join(" or "))
        }
    };
    let text = format!("route {route}: {caller} may not call it; {needed}");
    Error::of(Code::FORBIDDEN, text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::caller::{PeerCertificate, SubjectName, Token};

    fn rule(name: &str, allow: &[&str]) -> RouteRule {
        let mut rule = RouteRule::of(name);
        rule.allow = Some(allow.iter().map(|word| (*word).to_owned()).collect());
        rule.check().expect("its words are right");
        rule
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)
    }

    fn bearer(subject: &str, roles: &[&str]) -> Caller {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let token = Token::new(subject, roles, now() + Duration::from_secs(60));
        Caller::new(Some(Arc::new(token)), None)
    }

    fn workload(id: &str) -> Caller {
        let certificate = PeerCertificate {
            names: vec![SubjectName::Uri(id.to_owned())],
            ..PeerCertificate::default()
        };
        Caller::new(None, Some(Arc::new(certificate)))
    }

    #[test]
    fn without_a_rule_that_allows_anybody_everybody_may_call() {
        let access = Access::of(&[RouteRule::of("Orders.*")]);
        assert_eq!(
            access.decide("any/thing", &Caller::anonymous(), now()),
            Ok(())
        );
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_what_no_rule_fits_is_denied() {
        let access = Access::of(&[
            rule("Orders.cancel", &["role:boss"]),
            rule("Orders.*", &["role:trader", "spiffe://plant/desk/*"]),
            rule("public/*", &["anonymous"]),
            RouteRule::of("Notes.*"),
            rule("Notes.read", &["any"]),
        ]);
        let code = |route, caller: &Caller| {
            let decided = access.decide(route, caller, now());
            decided.err().map(|error| error.code())
        };
        let (trader, nobody) = (bearer("ada", &["trader"]), Caller::anonymous());
        assert_eq!(code("Orders.place", &trader), None);
        assert_eq!(code("Orders.cancel", &trader), Some(Code::FORBIDDEN));
        assert_eq!(
            code("Orders.place", &bearer("bob", &["reader"])),
            Some(Code::FORBIDDEN)
        );
        assert_eq!(code("Orders.place", &nobody), Some(Code::UNAUTHENTICATED));
        assert_eq!(
            code("Orders.place", &workload("spiffe://plant/desk/7")),
            None
        );
        for other in [
            "spiffe://plant/desk",
            "spiffe://plant/deskx",
            "spiffe://evil/desk/7",
        ] {
            assert_eq!(
                code("Orders.place", &workload(other)),
                Some(Code::FORBIDDEN),
                "{other}"
            );
        }
        assert_eq!(
            (code("public/a", &nobody), code("public/a", &trader)),
            (None, None)
        );
        // The first that fits says nothing of who may.
        assert_eq!(code("Notes.read", &trader), Some(Code::FORBIDDEN));
        assert_eq!(code("elsewhere", &trader), Some(Code::FORBIDDEN));
        for open in OPEN {
            assert_eq!(code(open, &nobody), None);
        }
    }

    #[test]
    fn who_has_expired_may_call_nothing_that_is_not_open() {
        let open = Access::default();
        let later = now() + Duration::from_secs(60);
        let caller = bearer("ada", &[]);
        let error = open
            .decide("a", &caller, later)
            .expect_err("it has expired");
        assert_eq!(error.code(), Code::EXPIRED);
        assert!(error.message().contains("postroad/identify"), "{error}");
        assert_eq!(open.decide("postroad/identify", &caller, later), Ok(()));
    }

    #[test]
    fn a_denial_says_what_is_needed_to_those_only_whom_the_server_knows() {
        let access = Access::of(&[rule("a", &["role:trader", "subject:eve"])]);
        let told = |caller: &Caller| {
            access
                .decide("a", caller, now())
                .expect_err("no")
                .to_string()
        };
        let known = told(&bearer("bob", &[]));
        assert!(
            known.contains("bob") && known.contains("role:trader or subject:eve"),
            "{known}"
        );
        assert!(!told(&Caller::anonymous()).contains("trader"));
        assert_eq!(access.decide("a", &bearer("eve", &[]), now()), Ok(()));
    }

    #[test]
    fn a_word_that_is_none_is_told_with_what_there_is() {
        for word in [
            "role:",
            "trader",
            "Anonymous",
            "spiffe://",
            "spiffe://*",
            "spiffe://pla*",
            "spiffe://a/*/b",
            "any:x",
            "",
        ] {
            let mut rule = RouteRule::of("a");
            rule.allow = Some(vec![word.to_owned()]);
            let error = rule.check().expect_err(word).to_string();
            assert!(
                error.contains("allow") && error.contains("role:NAME"),
                "{error}"
            );
        }
        rule(
            "a",
            &[
                "spiffe://plant",
                "spiffe://plant/",
                "spiffe://plant/*",
                "subject:a:b",
            ],
        );
    }
}
