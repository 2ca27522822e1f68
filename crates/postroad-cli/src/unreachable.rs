//! What to do where a server cannot be reached, or an endpoint not be listened on: as far as the
//! reason tells.

use std::io;

use rustix::io::Errno;

/// What a failed attempt to connect comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// Whether no server has been asked, because of a limit at this end.
    pub(crate) is_local: bool,
    pub(crate) hint: Option<String>,
}

/// Of an attempt to connect to this URL that failed for this reason, in the library's words.
pub(crate) fn to_connect(url: &str, reason: &str) -> Advice {
    if let Some(hint) = os_error(reason).and_then(|error| of_this_machine(url, error)) {
        return Advice {
            is_local: true,
            hint: Some(hint.to_owned()),
        };
    }
    Advice {
        is_local: false,
        hint: of_the_server(url, reason),
    }
}

/// What is wrong at this end, where no server has been asked.
fn of_this_machine(url: &str, error: Errno) -> Option<&'static str> {
    Some(match error {
        Errno::MFILE | Errno::NFILE => {
            "this machine allows no more open files: raise the limit (`ulimit -n`)"
        }
        Errno::ADDRNOTAVAIL => {
            "this machine has no port left for it, or no such address; a port is free again a \
             minute after its connection has ended"
        }
        Errno::ACCESS | Errno::PERM if is_unix(url) => {
            "this user may not open the socket: look at its owner and mode, and at its folder's"
        }
        Errno::ACCESS | Errno::PERM => "this machine does not let this user connect there",
        _ => return None,
    })
}

/// What may be wrong at the other end or between; nothing where it has told so itself.
fn of_the_server(url: &str, reason: &str) -> Option<String> {
    if reason.contains("failed to lookup address") {
        let host = host(url);
        return Some(format!(
            "this machine finds no address for the name {host:?}: is it spelt right?"
        ));
    }
    if reason.contains("found 0x15,") {
        return Some("0x15 begins an alert of TLS: write tls:// instead of tcp://".to_owned());
    }
    let hint = if reason.contains("has not opened it within") || reason.contains("magic at byte") {
        "something answers there, but does not speak what the URL says"
    } else if reason.contains("not valid for name") {
        "?name=NAME says which name the server's certificate has"
    } else if reason.contains("tls handshake eof") || reason.contains("corrupt message") {
        "it may not speak TLS: write tcp:// instead of tls://"
    } else if reason.contains("invalid peer certificate") && !url.contains("ca=") {
        "?ca=FILE names the authority that has signed the server's certificate"
    } else if os_error(reason) == Some(Errno::NOENT) {
        "no server has made this socket: is it running, and is the path right?"
    } else if os_error(reason).is_some() || reason.contains("within") {
        "is the server running, and is the address right?"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

/// Of an endpoint that cannot be listened on.
pub(crate) fn to_listen(url: &str, error: &io::Error) -> Option<&'static str> {
    let error = Errno::from_raw_os_error(error.raw_os_error()?);
    Some(match error {
        Errno::ADDRINUSE => "`--listen URL` takes another endpoint",
        Errno::ADDRNOTAVAIL => "no network interface of this machine has this address",
        Errno::MFILE | Errno::NFILE => {
            "this machine allows no more open files: raise the limit (`ulimit -n`)"
        }
        Errno::NOENT if is_unix(url) => "the folder is not there: make it first",
        Errno::ACCESS | Errno::PERM if is_unix(url) => {
            "this user may not make a socket there: look at the owner and the mode of the folder"
        }
        Errno::ACCESS | Errno::PERM => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE: take a higher one, or grant it"
        }
        _ => return None,
    })
}

fn is_unix(url: &str) -> bool {
    url.starts_with("unix")
}

fn host(url: &str) -> &str {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = address.split('?').next().unwrap_or_default();
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// The system's error, which texts of the standard library end with.
fn os_error(reason: &str) -> Option<Errno> {
    let (_, rest) = reason.rsplit_once("(os error ")?;
    let (number, _) = rest.split_once(')')?;
    number.parse().ok().map(Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_this_machine_is_not_called_the_servers_absence() {
        for (url, error, word) in [
            ("tcp://h:1", Errno::MFILE, "ulimit -n"),
            ("tcp://h:1", Errno::ADDRNOTAVAIL, "no port left"),
            ("tcp://h:1", Errno::ACCESS, "does not let this user"),
            ("unix:///s", Errno::ACCESS, "may not open the socket"),
        ] {
            let reason = io::Error::from(error).to_string();
            let advice = to_connect(url, &format!("connect to {url}: {reason} (1 attempt)"));
            assert!(advice.is_local, "{reason}");
            assert!(
                advice.hint.as_ref().is_some_and(|hint| hint.contains(word)),
                "{advice:?}"
            );
        }
    }

    #[test]
    fn a_server_that_has_answered_is_not_asked_whether_it_runs() {
        for reason in [
            "the other end's certificate expired on Jan 1 2020",
            "refused (capacity): too many connections",
            "the server wants a certificate of this client: ?cert=FILE&key=FILE",
        ] {
            let advice = to_connect("tls://h:1?ca=x", reason);
            assert_eq!((advice.is_local, advice.hint), (false, None), "{reason}");
        }
    }
}
