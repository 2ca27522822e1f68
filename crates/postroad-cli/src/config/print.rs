//! The configuration that is in effect, as a file that could be read again.

use std::collections::BTreeMap;
use std::fmt::Display;

use humantime::format_duration;
use postroad::Endpoint;

use super::{NodeConfig, rules};

impl NodeConfig {
    /// Every key with its value and where that comes from.
    pub(crate) fn print(&self) -> String {
        let mut out = String::new();
        for (section, keys) in self.sections() {
            out.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                let path = format!("{section}.{key}");
                let origin = self.origins.get(&path).map_or("default", String::as_str);
                let setting = format!("{key} = {value}");
                out.push_str(&format!("{setting:<36} # {origin}\n"));
            }
            out.push('\n');
        }
        // What these do not say is decided by the library: docs/client.md has its defaults.
        for (section, keys) in &self.written {
            out.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                let origin = self.origins.get(&format!("{section}.{key}"));
                let origin = origin.map_or("default", String::as_str);
                let setting = format!("{key} = {value}");
                out.push_str(&format!("{setting:<36} # {origin}\n"));
            }
            out.push('\n');
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let place = format!("route.{index}");
            let origin = self.origins.get(&place).map_or("default", String::as_str);
            out.push_str(&format!("[[route]] # {origin}\n"));
            for (key, value) in rule {
                let origin = self.origins.get(&format!("{place}.{key}"));
                let origin = origin.map_or("default", String::as_str);
                let setting = format!("{key} = {value}");
                out.push_str(&format!("{setting:<36} # {origin}\n"));
            }
            out.push('\n');
        }
        for (index, endpoint) in self.listen.iter().enumerate() {
            let origin = self.origins.get(&format!("listen.{index}"));
            let origin = origin.map_or("default", String::as_str);
            out.push_str(&format!("[[listen]] # {origin}\n"));
            let lines = listener(endpoint).into_iter();
            out.extend(lines.map(|line| format!("{line}\n")));
            out.push('\n');
        }
        out.trim_end().to_owned()
    }

    fn sections(&self) -> [(&'static str, Vec<(&'static str, String)>); 5] {
        let text = |value: &dyn Display| format!("{:?}", value.to_string());
        let number = |value: usize| value.to_string();
        let server = &self.server;
        let connection = &server.connection;
        let limits = &connection.limits;
        let mut of_connection = vec![
            ("preset", text(&connection.preset)),
            ("heartbeat", text(&format_duration(connection.heartbeat))),
            ("handshake", text(&format_duration(connection.handshake))),
            ("read_stall", text(&format_duration(connection.read_stall))),
            (
                "write_stall",
                text(&format_duration(connection.write_stall)),
            ),
        ];
        let idle = connection.idle;
        of_connection.extend(idle.map(|time| ("idle", text(&format_duration(time)))));
        // Without it the transport decides, which no value says.
        let checksum = connection.checksum;
        of_connection.extend(checksum.map(|is_on| ("checksum", is_on.to_string())));
        let mut of_server = vec![
            ("workers", number(server.workers.unwrap_or(1))),
            ("max_connections", number(server.max_connections)),
            ("max_requests", number(server.max_requests)),
            ("lameduck", text(&format_duration(server.lameduck))),
            ("drain", text(&format_duration(server.drain))),
            ("shed", server.shed.to_string()),
        ];
        // Without it there is no bound.
        let of_address = server.max_connections_per_address;
        of_server.extend(of_address.map(|max| ("max_connections_per_address", number(max))));
        // Without it the machine decides.
        of_server.extend(server.memory_max.map(|max| ("memory_max", number(max))));
        // Without it only `max_requests` counts.
        of_server.extend(
            server
                .concurrency
                .map(|most| ("concurrency", rules::most(most))),
        );
        [
            ("server", of_server),
            (
                "workers",
                vec![("cpu", number(server.cpu_workers.unwrap_or(1)))],
            ),
            ("connection", of_connection),
            (
                "limits",
                vec![
                    ("max_frame", number(limits.max_frame)),
                    ("max_message", number(limits.max_message)),
                    ("max_calls", number(limits.max_calls)),
                    ("max_routes", number(limits.max_routes)),
                    ("max_dialect_payload", number(limits.max_dialect_payload)),
                    ("outbox_pause", number(limits.outbox_pause)),
                    ("outbox_max", number(limits.outbox_max)),
                    ("assembly_max", number(limits.assembly_max)),
                    ("assemblies", number(limits.assemblies)),
                ],
            ),
            ("admin", vec![("listen", text(&self.admin.listen()))]),
        ]
    }
}

/// The keys of a listener. What its URL has already said is said twice, which is no harm.
pub(super) fn listener(endpoint: &Endpoint) -> Vec<String> {
    let mut lines = vec![format!("url = {:?}", endpoint.to_string())];
    let mapping = endpoint.mapping();
    if let Some(envelope) = mapping.envelope {
        lines.push(format!("envelope = {:?}", envelope.name()));
    }
    if let Some(route) = &mapping.fixed {
        lines.push(format!("route = {route:?}"));
    }
    if !mapping.codes.is_empty() {
        // In their order, so that two outputs can be compared.
        let codes: BTreeMap<_, _> = mapping.codes.iter().collect();
        let codes = codes.into_iter();
        let codes = codes.map(|(code, route)| format!("\"0x{code:02x}\" = {route:?}"));
        let codes = codes.collect::<Vec<_>>().join(", ");
        lines.push(format!("codes = {{ {codes} }}"));
    }
    lines
}
