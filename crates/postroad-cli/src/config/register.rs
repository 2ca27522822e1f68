//! `[register]`: a node tells a registry that it is there.

use postroad::Endpoint;
use postroad::discovery::{Instance, Target};
use serde::Deserialize;

/// The section as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Register {
    at: Option<String>,
    pub(super) weight: Option<u16>,
    pub(super) tag: Option<String>,
    pub(super) zone: Option<String>,
    url: Option<String>,
}

/// What is wrong, and at which key.
pub(super) type Wrong = (&'static str, String);

impl Register {
    /// The registry.
    pub(crate) fn at(&self) -> Result<Target, Wrong> {
        let wrong = |what: String| ("at", what);
        let at = self.at.as_deref();
        let at = at.ok_or_else(|| wrong("missing key `at`: the registry".to_owned()))?;
        let registries = ["etcd://", "consul://", "nacos://"];
        if !registries.iter().any(|scheme| at.starts_with(scheme)) {
            let what = format!("{at:?} is no registry; there are etcd://, consul://, nacos://");
            return Err(wrong(what));
        }
        at.parse().map_err(|error| wrong(format!("{error}")))
    }

    /// The same registry and endpoint, with the weight, tag and zone of another section.
    pub(crate) fn weighed_as(&self, other: &Self) -> Self {
        Self {
            at: self.at.clone(),
            url: self.url.clone(),
            ..other.clone()
        }
    }

    /// Every key with its value, and whether another value counts while the node runs.
    pub(super) fn settings(&self) -> [(&'static str, Option<String>, bool); 5] {
        [
            ("at", self.at.clone(), false),
            ("url", self.url.clone(), false),
            ("weight", self.weight.map(|weight| weight.to_string()), true),
            ("tag", self.tag.clone(), true),
            ("zone", self.zone.clone(), true),
        ]
    }

    /// Checks what can be known before the node listens.
    pub(super) fn check(&self, first: Option<&Endpoint>) -> Result<(), Wrong> {
        self.at()?;
        // A port that the system will choose stands for any.
        let address = first.map(|first| match first.address().strip_suffix(":0") {
            Some(host) => format!("{host}:1"),
            None => first.address().to_owned(),
        });
        match (&self.url, first, address) {
            (None, Some(first), Some(address)) => self.instance(first, &address).map(drop),
            (Some(url), _, _) => own(url).map(drop),
            _ => Ok(()),
        }
    }

    /// The node as others reach it, whose first listener has this address.
    pub(crate) fn instance(&self, first: &Endpoint, address: &str) -> Result<Instance, Wrong> {
        let endpoint = match &self.url {
            Some(url) => own(url)?,
            None => {
                let wrong = |what: String| {
                    let what = format!("the first listener cannot be registered: {what}");
                    (
                        "at",
                        format!(
                            "{what}; say how others reach this node: url = \"tcp://HOST:PORT\""
                        ),
                    )
                };
                let scheme = first.url().split("://").next().unwrap_or_default();
                let scheme = scheme.strip_suffix("+auto").unwrap_or(scheme);
                let url = format!("{scheme}://{address}");
                let endpoint: Endpoint = url.parse().map_err(|error| wrong(format!("{error}")))?;
                reachable(&endpoint).map_err(wrong)?;
                endpoint
            }
        };
        let mut instance = Instance::new(endpoint);
        instance.weight = self.weight.map_or(1, u32::from);
        instance.tag = self.tag.as_deref().map(Into::into);
        instance.zone = self.zone.as_deref().map(Into::into);
        Ok(instance)
    }
}

/// The URL that the section names.
fn own(url: &str) -> Result<Endpoint, Wrong> {
    let endpoint: Endpoint = url.parse().map_err(|error| ("url", format!("{error}")))?;
    reachable(&endpoint).map_err(|what| ("url", what))?;
    Ok(endpoint)
}

/// Refuses an endpoint that no other process or machine could connect to.
fn reachable(endpoint: &Endpoint) -> Result<(), String> {
    let address = endpoint.address();
    if endpoint.transport() == "mem" {
        return Err(format!("{endpoint} is inside of this process"));
    }
    if !matches!(endpoint.transport(), "tcp" | "tls") {
        return Ok(());
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    if matches!(host, "0.0.0.0" | "[::]" | "" | "*") {
        return Err(format!(
            "{address} is every address of this machine, and none to connect to"
        ));
    }
    if port == "0" {
        return Err(format!(
            "{endpoint} has port 0, which the system replaces by another"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: Option<&str>, listener: &str) -> String {
        let register = Register {
            at: Some("etcd://127.0.0.1:2379/orders".to_owned()),
            url: url.map(str::to_owned),
            ..Register::default()
        };
        let listener: Endpoint = listener.parse().unwrap();
        register.check(Some(&listener)).unwrap_err().1
    }

    #[test]
    fn what_nobody_could_connect_to_is_not_registered() {
        for listener in ["tcp://0.0.0.0:7400", "tcp+auto://[::]:0"] {
            let refused = refusal(None, listener);
            assert!(
                refused.contains("every address") && refused.contains("url ="),
                "{refused}"
            );
        }
        assert!(refusal(None, "mem://x").contains("inside of this process"));
        assert!(refusal(Some("tcp://h:0"), "tcp://h:1").contains("port 0"));
        assert!(refusal(Some("tcp://0.0.0.0:1"), "tcp://h:1").contains("every address"));
    }

    #[test]
    fn the_first_listener_is_registered_by_its_own_port_without_what_only_servers_need() {
        let listener: Endpoint = "tcp+auto://127.0.0.1:0".parse().unwrap();
        let register = Register {
            at: Some("etcd://127.0.0.1:2379/orders".to_owned()),
            weight: Some(10),
            ..Register::default()
        };
        register.check(Some(&listener)).unwrap();
        let instance = register.instance(&listener, "127.0.0.1:7411").unwrap();
        assert_eq!(
            (instance.to_string().as_str(), instance.weight),
            ("tcp://127.0.0.1:7411", 10)
        );
    }
}
