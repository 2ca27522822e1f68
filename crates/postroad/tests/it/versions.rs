//! Several versions of a route side by side in one server.

use std::collections::BTreeMap;

use postroad::extract::Request;
use postroad::route::{RouteOptions, RouteRule};
use postroad::{Client, Code, Json, Router, RunningServer, Server, ServerConfig};

use crate::support::Tested;

fn rules(text: &str) -> Vec<RouteRule> {
    #[derive(serde::Deserialize)]
    struct File {
        route: Vec<RouteRule>,
    }
    let file: File = toml::from_str(text).expect("the rules are right");
    file.route
}

/// A router whose routes answer with this text.
fn says(text: &'static str) -> Router {
    let idempotent = RouteOptions::new().idempotent();
    Router::new()
        .route_with("greet", idempotent, move || async move { text })
        .route("part", move || async move { text })
}

async fn serve(name: &str, router: Router, text: &str) -> Tested<(RunningServer, String)> {
    let mut config = ServerConfig::default();
    config.rules = rules(text);
    let url = format!("mem://{name}");
    let server = Server::new(router).config(config);
    Ok((server.listen(url.parse()?).start().await?, url))
}

async fn ask(client: &Client, route: &str) -> Tested<String> {
    let answer = client.request(route).call_raw("").await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn without_shares_the_plain_route_counts_or_the_newest_version() -> Tested {
    let router = Router::new()
        .version("2", says("two"))
        .version("10", says("ten"));
    let (server, url) = serve("versions-plain", router, "route = []").await?;
    let client = Client::connect(&url).await?;
    assert_eq!(ask(&client, "greet").await?, "ten");
    assert_eq!(ask(&client, "greet@2").await?, "two");
    let missing = client.request("greet@3").call_raw("").await;
    assert_eq!(
        missing.expect_err("no such version").code(),
        Code::NOT_FOUND
    );
    // While it serves a route without a version is added, and taken away again.
    server.routes().add(says("plain"));
    assert_eq!(ask(&client, "greet").await?, "plain");
    assert!(server.routes().remove("greet"));
    assert!(server.routes().remove("greet@10"));
    assert_eq!(ask(&client, "greet").await?, "two");
    Ok(())
}

#[tokio::test]
async fn versions_are_listed_and_the_plain_name_with_what_holds_for_all_of_them() -> Tested {
    let third = Router::new().route("greet", async || "three");
    let router = Router::new().version("2", says("two")).version("3", third);
    let (server, _) = serve("versions-list", router, "route = []").await?;
    let listed = server.routes().list();
    let of_greet = listed
        .iter()
        .filter(|route| route.route.starts_with("greet"));
    let of_greet: Vec<_> = of_greet
        .map(|route| (&*route.route, route.is_idempotent))
        .collect();
    let expected = [("greet", false), ("greet@2", true), ("greet@3", false)];
    assert_eq!(
        of_greet, expected,
        "version 3 does not say that it may run twice"
    );
    Ok(())
}

/// How many of so many clients get which answer; each is asked twice, by two routes, and has to
/// stay with its version.
async fn count(url: &str, clients: usize) -> Tested<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..clients {
        let client = Client::connect(url).await?;
        let answer = ask(&client, "greet").await?;
        for route in ["greet", "part"] {
            assert_eq!(
                ask(&client, route).await?,
                answer,
                "a client stays with its version"
            );
        }
        *counts.entry(answer).or_default() += 1;
    }
    Ok(counts)
}

#[tokio::test]
async fn of_a_thousand_clients_each_version_gets_its_share() -> Tested {
    let router = Router::new()
        .version("1", says("one"))
        .version("2", says("two"));
    let text = "[[route]]\nname = '*'\nversions = { '2' = '10%', '1' = '90%' }";
    let (_server, url) = serve("versions-shares", router, text).await?;
    let counts = count(&url, 1000).await?;
    // Five standard deviations of a binomial distribution.
    assert!((53..=147).contains(&counts["two"]), "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn shares_change_while_it_runs_also_for_connections_that_are_open() -> Tested {
    let router = says("plain").version("2", says("two"));
    let text = "[[route]]\nname = '*'\nversions = { '2' = '100%' }";
    let (server, url) = serve("versions-change", router, text).await?;
    let client = Client::connect(&url).await?;
    assert_eq!(ask(&client, "greet").await?, "two");
    server.set_rules(rules(&text.replace("'2'", "'3'")))?;
    // There is no version 3: its share goes where requests go without shares.
    assert_eq!(ask(&client, "greet").await?, "plain");
    server.set_rules(rules(text))?;
    assert_eq!(ask(&client, "greet").await?, "two");
    server.set_rules(Vec::new())?;
    assert_eq!(ask(&client, "greet").await?, "plain");
    Ok(())
}

#[tokio::test]
async fn the_share_of_a_version_that_is_missing_does_not_go_to_the_others() -> Tested {
    let router = says("plain").version("2", says("two"));
    let text = "[[route]]\nname = 'greet'\nversions = { '2' = '10%', '1' = '90%' }";
    let (server, url) = serve("versions-missing", router, text).await?;
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..200 {
        let client = Client::connect(&url).await?;
        *counts.entry(ask(&client, "greet").await?).or_default() += 1;
    }
    assert!(counts["plain"] > 150, "{counts:?}");
    // A request that comes by no connection is treated in the same way.
    server.set_rules(rules(&text.replace("10%", "0%").replace("90%", "100%")))?;
    let reply = server.routes().call(Request::to("greet", "")).await?;
    assert_eq!(reply.payload, "plain");
    server.set_rules(rules(
        "[[route]]\nname = 'greet'\nversions = { '2' = '100%' }",
    ))?;
    let reply = server.routes().call(Request::to("greet", "")).await?;
    assert_eq!(reply.payload, "two");
    Ok(())
}

#[tokio::test]
async fn what_a_rule_says_of_a_route_holds_for_its_versions() -> Tested {
    let router = Router::new()
        .version("1", says("one"))
        .version("2", says("two"));
    let text = "[[route]]\nname = 'greet'\nallow = ['role:trader']";
    let (server, url) = serve("versions-allow", router, text).await?;
    let client = Client::connect(&url).await?;
    for route in ["greet", "greet@1", "greet@2", "part@1"] {
        let refused = client
            .request(route)
            .call_raw("")
            .await
            .expect_err("nobody has said who");
        assert_eq!(refused.code(), Code::UNAUTHENTICATED, "{route}");
    }
    // A rule of a version alone, for those who may call the route.
    let text = "[[route]]\nname = 'greet@2'\nallow = ['role:beta']\n\
                [[route]]\nname = 'greet'\nallow = ['anonymous']\n\
                versions = { '2' = '100%' }";
    server.set_rules(rules(text))?;
    assert_eq!(ask(&client, "greet@1").await?, "one");
    for route in ["greet", "greet@2"] {
        let refused = client
            .request(route)
            .call_raw("")
            .await
            .expect_err("it is no beta tester");
        assert_eq!(refused.code(), Code::UNAUTHENTICATED, "{route}");
    }
    Ok(())
}

#[tokio::test]
async fn a_handler_hears_which_version_it_is() -> Tested {
    let routes = Router::new().route("which", async |request: Request| {
        Json(request.route().to_owned())
    });
    let router = Router::new().version("2", routes);
    let (_server, url) = serve("versions-which", router, "route = []").await?;
    let client = Client::connect(&url).await?;
    assert_eq!(client.call::<_, String>("which", &()).await?, "which@2");
    Ok(())
}

#[test]
#[should_panic(expected = "is no version")]
fn a_version_with_a_mark_in_its_name_is_refused() {
    let _ = Router::new().version("2@3", says("two"));
}
