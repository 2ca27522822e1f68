//! The floors: what a round trip and a one-way message cost without any protocol.
//!
//! `blocking` is std's sockets; `spin` the same without ever giving the processor away, both ends;
//! `tokio` an echo on tokio; `codec` tokio-util's `LengthDelimitedCodec`, fed.

mod blocking;
mod polled;

use std::process::ExitCode;

use harness::Role;

fn main() -> ExitCode {
    harness::main(|role| {
        let mode = match &role {
            Role::Server(it) | Role::Client(it) | Role::Receiver(it) | Role::Sender(it) => {
                it.mode.clone()
            }
        };
        match mode.as_str() {
            "blocking" => blocking::run(role, false),
            "spin" => blocking::run(role, true),
            "tokio" => polled::echo(role),
            "codec" => polled::one_way(role),
            _ => Err(format!("there is no floor called `{mode}`").into()),
        }
    })
}
