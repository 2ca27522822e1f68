//! Typed clients with everything that a call can have, and hooks of clients.

#![allow(
    unused_qualifications,
    reason = "the library has another name in this file"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postroad::client::{Policies, RetryPolicy};
use postroad::extract::Metadata;
use postroad::{Bytes, CallContext, Client, ClientConfig, Error, Json, Retry, Router, code};

use crate::support::{Tested, serve};

/// The library under another name, as a renamed dependency or a re-export gives it.
mod renamed {
    pub(crate) use postroad as pr;
}

/// An alias, as many crates have one.
type Answer<T> = Result<T, Refusal>;

#[derive(Debug)]
struct Refusal;

impl From<Refusal> for Error {
    fn from(_: Refusal) -> Self {
        Self::new(code!("TYP-E-001"), "refused")
    }
}

#[postroad::service(crate = "renamed::pr")]
trait Circumstances {
    async fn told(&self, cx: &CallContext, key: String) -> Answer<String>;
    async fn urgency(&self, cx: CallContext) -> Answer<(u8, bool)>;
    async fn refuse(&self) -> Answer<()>;
}

struct Teller;

impl Circumstances for Teller {
    async fn told(&self, cx: &CallContext, key: String) -> Answer<String> {
        tokio::task::yield_now().await;
        assert_eq!(cx.route(), "Circumstances.told");
        assert!(cx.peer().is_some_and(|peer| peer.agent().is_some()));
        let value = cx.metadata(&key).unwrap_or_default();
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    async fn urgency(&self, cx: CallContext) -> Answer<(u8, bool)> {
        let is_short = cx.time_left() <= Some(Duration::from_secs(1));
        Ok((cx.priority(), is_short))
    }

    async fn refuse(&self) -> Answer<()> {
        Err(Refusal)
    }
}

#[tokio::test]
async fn a_typed_call_has_settings_of_its_own_and_the_method_sees_its_circumstances() -> Tested {
    let _server = serve("mem://typed-with", circumstances_routes(Teller)).await?;
    let plain = CircumstancesClient::new(Client::connect("mem://typed-with").await?);
    assert_eq!(plain.urgency().await?, (3, false));
    let tenant = plain.with(|call| call.metadata("tenant", "acme"));
    assert_eq!(tenant.told("tenant".to_owned()).await?, "acme");
    assert_eq!(plain.told("tenant".to_owned()).await?, "");
    let urgent = tenant.with(|call| call.priority(7).timeout(Duration::from_secs(1)));
    assert_eq!(urgent.urgency().await?, (7, true));
    // What was set before stays.
    assert_eq!(urgent.told("tenant".to_owned()).await?, "acme");
    Ok(())
}

#[tokio::test]
async fn a_result_by_an_alias_travels_with_its_own_error() -> Tested {
    let _server = serve("mem://typed-alias", circumstances_routes(Teller)).await?;
    let client = CircumstancesClient::new(Client::connect("mem://typed-alias").await?);
    let error = client.refuse().await.expect_err("it refuses");
    assert_eq!(error.code(), code!("TYP-E-001"));
    Ok(())
}

#[tokio::test]
async fn what_travels_to_a_method_can_be_sent_by_name() -> Tested {
    let _server = serve("mem://typed-args", circumstances_routes(Teller)).await?;
    let client = Client::connect("mem://typed-args").await?;
    let call = client
        .request("Circumstances.told")
        .metadata("colour", "red");
    let arguments = CircumstancesToldArgs {
        key: "colour".to_owned(),
    };
    let answer: String = call.call(&arguments).await?;
    assert_eq!(answer, "red");
    Ok(())
}

#[tokio::test]
async fn a_clients_hook_adds_to_every_call_in_each_way_of_sending() -> Tested {
    let (seen, mut arrived) = tokio::sync::mpsc::channel(16);
    let router = Router::new().route("told", move |Metadata(pairs): Metadata| {
        let seen = seen.clone();
        async move {
            let values = pairs
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()));
            let pairs: Vec<(String, Bytes)> = values.collect();
            seen.send(pairs).await.ok();
            Json(())
        }
    });
    let router = router.merge(circumstances_routes(Teller));
    let _server = serve("mem://client-hook", router).await?;
    let client = Client::connect("mem://client-hook").await?;
    let client = client
        .before(|call| call.metadata("token", call.route().to_owned()))
        .before(|call| call.metadata("second", "2"));

    client.call::<_, ()>("told", &()).await?;
    client.send("told", &()).await?;
    let mut producer = client.producer("told");
    producer.send("a").await?;
    producer
        .send_all(["b", "c"].map(Bytes::from))
        .await
        .map_err(|(_, error)| error)?;
    producer.flush().await?;
    let mut pipeline = client.pipeline("told");
    pipeline.call(1, "d").await?;
    let more = Bytes::from("e");
    pipeline
        .try_calls([(2, &more), (3, &more)])
        .map_err(|(_, error)| error)?;
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
    }
    let expected = [("token", "told"), ("second", "2")];
    let expected = expected.map(|(key, value)| (key.to_owned(), Bytes::from(value)));
    for _ in 0..8 {
        assert_eq!(arrived.recv().await.as_deref(), Some(&expected[..]));
    }
    let typed = CircumstancesClient::new(client);
    assert_eq!(typed.told("token".to_owned()).await?, "Circumstances.told");
    Ok(())
}

#[postroad::service]
trait Ledger {
    /// What is kept with it is kept.
    #[idempotent]
    async fn read(&self, page: u32) -> Result<u32, Error>;
    async fn write(&self) -> Result<(), Error>;
}

struct Paper;

impl Ledger for Paper {
    async fn read(&self, page: u32) -> Result<u32, Error> {
        Ok(page)
    }

    async fn write(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn the_route_of_an_idempotent_method_declares_it() -> Tested {
    let _server = serve("mem://typed-idempotent", ledger_routes(Paper)).await?;
    let client = Client::connect("mem://typed-idempotent").await?;
    let routes: Vec<serde_json::Value> = client.call("postroad/routes", &()).await?;
    let declared = |name: &str| {
        let mut routes = routes.iter();
        let route = routes.find(|route| route["route"] == name);
        route.is_some_and(|route| route["idempotent"] == true)
    };
    assert!(declared("Ledger.read"), "{routes:?}");
    assert!(!declared("Ledger.write"), "{routes:?}");
    Ok(())
}

#[tokio::test]
async fn the_client_of_an_idempotent_method_sends_it_again() -> Tested {
    // These routes declare nothing, so what is sent again is what the client's method says.
    let fails_first = || {
        let is_first = Arc::new(AtomicBool::new(true));
        move || {
            std::future::ready(if is_first.swap(false, Ordering::Relaxed) {
                let error = Error::new(code!("TYP-E-002"), "half of it was done");
                Err(error.with_retry(Retry::IfIdempotent, Duration::ZERO))
            } else {
                Ok(Json(7))
            })
        }
    };
    let router = Router::new()
        .route("Ledger.write", fails_first())
        .route("Ledger.read", fails_first());
    let _server = serve("mem://typed-again", router).await?;
    let mut config = ClientConfig::default();
    let mut retry = RetryPolicy::default();
    retry.wait = Duration::from_millis(1);
    let mut policies = Policies::default();
    policies.retry = Some(retry);
    config.policies = Some(policies);
    let client = Client::connect_with("mem://typed-again".parse()?, config).await?;
    let ledger = LedgerClient::new(client);
    let error = ledger.write().await.expect_err("it may not run twice");
    assert_eq!(error.code(), code!("TYP-E-002"));
    assert_eq!(ledger.read(1).await?, 7);
    Ok(())
}
