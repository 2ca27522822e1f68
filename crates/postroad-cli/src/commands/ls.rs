//! `postroad ls URL`.

use std::process::ExitCode;

use postroad::{Client, ClientConfig};
use serde::{Deserialize, Serialize};

use crate::args::{Ls, Output};
use crate::exit::Failed;

#[derive(Debug, Deserialize, Serialize)]
struct Route {
    route: String,
    request: String,
    response: String,
}

pub(crate) fn run(ls: &Ls) -> Result<ExitCode, Failed> {
    let endpoint = ls.url.parse()?;
    let routes = super::runtime()?.block_on(async {
        let client = Client::connect_with(endpoint, ClientConfig::default()).await?;
        let routes: Vec<Route> = client.call("postroad/routes", &()).await?;
        client.close().await;
        Ok::<_, Failed>(routes)
    })?;
    match ls.output {
        Output::Json => println!("{}", serde_json::to_string(&routes).unwrap_or_default()),
        Output::Text => {
            let width = |len: fn(&Route) -> usize| routes.iter().map(len).max().unwrap_or(0);
            let (name, request) = (width(|r| r.route.len()), width(|r| r.request.len()));
            for Route {
                route,
                request: takes,
                response,
            } in &routes
            {
                println!("{route:name$}  {takes:request$}  -> {response}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
