//! `postroad ls TARGET`.

use std::process::ExitCode;
use std::time::Duration;

use postroad::{CallError, Client, Protocol};
use serde::{Deserialize, Serialize};

use crate::args::Ls;
use crate::exit::Failed;
use crate::layout;
use crate::terminal::{Output, say};

/// A route as a node describes it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Route {
    pub(super) route: String,
    pub(super) request: String,
    response: String,
    // What a route's author has declared of it. An older node does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    idempotent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority_max: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema: Option<serde_json::Value>,
}

impl Route {
    /// What was declared, in one line; empty if nothing was.
    fn declared(&self) -> String {
        let idempotent = self.idempotent.then(|| "idempotent".to_owned());
        let priority = self.priority_max.map(|max| format!("priority up to {max}"));
        let timeout = self.timeout_ms.map(|ms| format!("timeout {ms} ms"));
        let all = [self.description.clone(), idempotent, priority, timeout];
        let all: Vec<_> = all.into_iter().flatten().collect();
        match all.is_empty() {
            true => String::new(),
            false => format!("  # {}", all.join("; ")),
        }
    }
}

/// The routes of the node that the client is connected to.
pub(super) async fn routes(client: &Client, timeout: Duration) -> Result<Vec<Route>, CallError> {
    let request = client.request("postroad/routes").timeout(timeout);
    request.call(&()).await
}

pub(crate) fn run(ls: &Ls) -> Result<ExitCode, Failed> {
    let service = super::service(&ls.target, ls.config.as_deref())?;
    let endpoint = service.target.endpoint();
    if endpoint.is_some_and(|endpoint| !matches!(endpoint.protocol(), Protocol::Native)) {
        let hint = "name the node's native endpoint, such as tcp://127.0.0.1:7400";
        return Err(Failed::usage("a dialect cannot list routes").hint(hint));
    }
    let routes = super::runtime()?.block_on(async {
        let (client, left) = super::deadline::connect(service, ls.timeout, None).await?;
        let routes = routes(&client, left).await?;
        client.close().await;
        Ok::<_, Failed>(routes)
    })?;
    match ls.output {
        Output::Json => say(serde_json::to_string(&routes).unwrap_or_default()),
        Output::Text => {
            let width = |len: fn(&Route) -> usize| routes.iter().map(len).max().unwrap_or(0);
            let (name, request) = (width(|r| r.route.len()), width(|r| r.request.len()));
            for each in &routes {
                let Route {
                    route,
                    request: takes,
                    response,
                    ..
                } = each;
                let declared = each.declared();
                let line = format!("{route:name$}  {takes:request$}  -> {response}{declared}");
                // What a node's author has written does not steer a terminal either.
                say(layout::visible(line.as_bytes()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
