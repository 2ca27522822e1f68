//! `[admin]`: where a node tells how it does.

use std::fmt;
use std::str::FromStr;

use postroad::admin::{AdminAddress, AdminError};
use serde::{Deserialize, Deserializer, de};

/// Where a node tells how it does if nobody says.
pub(crate) const DEFAULT_ADMIN: &str = "http://127.0.0.1:7490";

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminConfig {
    /// `None` if nobody has said anything.
    listen: Option<AdminListen>,
}

/// An address, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminListen {
    Off,
    At(AdminAddress),
}

impl FromStr for AdminListen {
    type Err = AdminError;

    fn from_str(text: &str) -> Result<Self, AdminError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address: AdminAddress = text.parse()?;
        address.check_listen()?;
        Ok(Self::At(address))
    }
}

impl<'de> Deserialize<'de> for AdminListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl AdminConfig {
    /// Lets a flag win.
    pub(crate) fn with_flag(mut self, flag: Option<AdminListen>) -> Self {
        self.listen = flag.or(self.listen);
        self
    }

    /// Whether somebody has said where, so that it has to be there.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.listen.is_some()
    }

    /// Where, or that it is nowhere.
    pub(crate) fn listen(&self) -> AdminListen {
        let default = || {
            DEFAULT_ADMIN
                .parse()
                .map_or(AdminListen::Off, AdminListen::At)
        };
        self.listen.clone().unwrap_or_else(default)
    }
}
