//! `postroad ls URL`.

use std::process::ExitCode;

use postroad::{Client, ClientConfig, Endpoint, Protocol};
use serde::{Deserialize, Serialize};

use crate::args::Ls;
use crate::exit::Failed;
use crate::terminal::{Output, say};

#[derive(Debug, Deserialize, Serialize)]
struct Route {
    route: String,
    request: String,
    response: String,
}

pub(crate) fn run(ls: &Ls) -> Result<ExitCode, Failed> {
    let endpoint: Endpoint = ls.url.parse()?;
    if !matches!(endpoint.protocol(), Protocol::Native) {
        let hint = "name the node's native endpoint, such as tcp://127.0.0.1:7400";
        return Err(Failed::usage("a dialect cannot list routes").hint(hint));
    }
    let routes = super::runtime()?.block_on(async {
        let client = Client::connect_with(endpoint, ClientConfig::default()).await?;
        let routes: Vec<Route> = client.call("postroad/routes", &()).await?;
        client.close().await;
        Ok::<_, Failed>(routes)
    })?;
    match ls.output {
        Output::Json => say(serde_json::to_string(&routes).unwrap_or_default()),
        Output::Text => {
            let width = |len: fn(&Route) -> usize| routes.iter().map(len).max().unwrap_or(0);
            let (name, request) = (width(|r| r.route.len()), width(|r| r.request.len()));
            for Route {
                route,
                request: takes,
                response,
            } in &routes
            {
                say(format_args!(
                    "{route:name$}  {takes:request$}  -> {response}"
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
