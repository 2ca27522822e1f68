//! A server is away for a while: every client comes back by itself, of every protocol and every
//! kind, and the clients do not dial in step.

use std::sync::Arc;
use std::time::Duration;

use postroad::transport::{BoxFuture, Listener, Stream, Transport, TransportError, Transports};
use postroad::{
    BlockingClient, Bytes, CallError, Client, ClientConfig, ConnectionState, Endpoint, Router,
    RunningServer,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{DIALECTS, Tested, echo_route, serve};

const CLIENTS: usize = 40;

/// When clients have dialled.
#[derive(Clone)]
struct Dials(watch::Sender<Vec<Instant>>);

impl Dials {
    fn made(&self) -> usize {
        self.0.borrow().len()
    }

    /// Asserts that of the attempts in this time, no tenth of it has more than a third.
    fn assert_spread(&self, begin: Instant, end: Instant) {
        let mut tenths = [0; 10];
        let within = |at: &&Instant| (begin..end).contains(*at);
        for at in self.0.borrow().iter().filter(within) {
            let part = at.duration_since(begin).as_nanos() * 10;
            let tenth = part / end.duration_since(begin).as_nanos();
            tenths[tenth as usize] += 1;
        }
        let all: usize = tenths.iter().sum();
        let most = tenths.iter().max().copied().unwrap_or_default();
        assert!(all >= CLIENTS / 2, "{all} attempts are too few to judge");
        assert!(most * 3 <= all, "they dial in step: {tenths:?}");
    }
}

/// A built-in transport whose dials are noted.
struct Noted {
    transport: Arc<dyn Transport>,
    dials: Dials,
}

impl Transport for Noted {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        self.dials.0.send_modify(|all| all.push(Instant::now()));
        self.transport.dial(endpoint)
    }

    fn listen<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        unreachable!("the clients dial only")
    }

    fn has_integrity(&self) -> bool {
        self.transport.has_integrity()
    }
}

/// The built-in transport of this scheme, noted.
fn noted(scheme: &str) -> Tested<(Transports, Dials)> {
    let dials = Dials(watch::Sender::new(Vec::new()));
    let mut transports = Transports::default();
    let endpoint = format!("{scheme}:///any").parse()?;
    let transport = Arc::clone(transports.get(&endpoint)?);
    let noted = Noted {
        transport,
        dials: dials.clone(),
    };
    transports.register(scheme, noted);
    Ok((transports, dials))
}

/// A protocol, and where its server is.
#[derive(Clone)]
struct Place {
    url: String,
    route: &'static str,
}

/// A place for the native protocol and each dialect.
fn places(scheme: &str, name: &str) -> Vec<Place> {
    let native = Place {
        url: format!("{scheme}://{name}"),
        route: echo_route(None),
    };
    let dialects = DIALECTS.iter().map(|dialect| Place {
        url: format!("{scheme}+{dialect}://{name}-{dialect}?route=postroad/echo"),
        route: echo_route(Some(dialect)),
    });
    std::iter::once(native).chain(dialects).collect()
}

async fn serve_all(places: &[Place]) -> Tested<Vec<RunningServer>> {
    let mut servers = Vec::new();
    for place in places {
        servers.push(serve(&place.url, Router::new()).await?);
    }
    Ok(servers)
}

async fn until(client: &Client, wanted: ConnectionState) {
    let mut state = client.state();
    let seen = state.wait_for(|state| *state == wanted).await;
    drop(seen.expect("the client lives"));
}

/// Who uses a client.
enum User {
    Call(Client),
    Pipeline(Client),
    Producer(Client),
    /// Shared, because a thread of its own calls.
    Blocking(Arc<BlockingClient>),
}

impl User {
    fn client(&self) -> &Client {
        match self {
            Self::Call(client) | Self::Pipeline(client) | Self::Producer(client) => client,
            Self::Blocking(client) => client.client(),
        }
    }

    /// Sends something, and waits for its answer if there is one.
    async fn use_it(&self, route: &'static str) -> Result<(), CallError> {
        let body = Bytes::from_static(b"x");
        match self {
            Self::Call(client) => client.request(route).call_raw(body).await.map(drop),
            Self::Pipeline(client) => {
                let mut pipeline = client.pipeline(route);
                pipeline.call(0, body).await?;
                pipeline.next().await.expect("a call was made").1.map(drop)
            }
            Self::Producer(client) => client.producer(route).send(body).await,
            Self::Blocking(client) => {
                let client = Arc::clone(client);
                let call = move || client.with(route, |call| call.call_raw(body)).map(drop);
                let called = tokio::task::spawn_blocking(call);
                called.await.expect("a call does not panic")
            }
        }
    }
}

/// Forty users at these places; each fourth is a blocking client if there may be any.
async fn users(
    places: &[Place],
    config: &ClientConfig,
    transports: &Transports,
    may_block: bool,
) -> Tested<Vec<(&'static str, Arc<User>)>> {
    let mut users = Vec::new();
    for (number, place) in places.iter().cycle().take(CLIENTS).enumerate() {
        let endpoint: Endpoint = place.url.parse()?;
        let user = if may_block && number % 4 == 3 {
            let config = config.clone();
            let connect = move || BlockingClient::connect_with(endpoint.into(), config);
            User::Blocking(Arc::new(tokio::task::spawn_blocking(connect).await??))
        } else {
            let client = Client::with_transports(endpoint.into(), config.clone(), transports)?;
            match number % 3 {
                0 => User::Call(client),
                1 => User::Pipeline(client),
                _ => User::Producer(client),
            }
        };
        until(user.client(), ConnectionState::Connected).await;
        user.use_it(place.route).await?;
        users.push((place.route, Arc::new(user)));
    }
    Ok(users)
}

/// All servers are back. How long after that the last user has been answered.
async fn last_to_come(users: &[(&'static str, Arc<User>)]) -> Tested<Duration> {
    let back = Instant::now();
    let mut coming = JoinSet::new();
    for (route, user) in users {
        let (route, user) = (*route, Arc::clone(user));
        coming.spawn(async move {
            until(user.client(), ConnectionState::Connected).await;
            user.use_it(route).await.map(|()| back.elapsed())
        });
    }
    let mut last = Duration::ZERO;
    while let Some(came) = coming.join_next().await {
        last = last.max(came??);
    }
    Ok(last)
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_forty_clients_come_back_within_the_longest_wait_and_spread() -> Tested {
    let (transports, dials) = noted("mem")?;
    let config = ClientConfig::default();
    let places = places("mem", "away");
    let servers = serve_all(&places).await?;
    let users = users(&places, &config, &transports, false).await?;
    let went = Instant::now();
    for server in servers {
        server.shutdown().await;
    }
    for (_, user) in &users {
        until(user.client(), ConnectionState::Offline).await;
    }
    tokio::time::sleep(Duration::from_secs(600)).await; // tidy: paused clock
    let back = Instant::now();
    let _servers = serve_all(&places).await?;
    let longest = config.backoff.max;
    assert!(last_to_come(&users).await? <= longest + Duration::from_secs(1));
    dials.assert_spread(went, back);
    dials.assert_spread(back, back + longest);
    Ok(())
}

#[tokio::test]
async fn after_an_outage_in_real_time_clients_of_every_kind_come_back_within_the_longest_wait()
-> Tested {
    let (transports, dials) = noted("unix")?;
    let mut config = ClientConfig::default();
    config.backoff.first = Duration::from_millis(100);
    config.backoff.max = Duration::from_secs(1);
    let folder = tempfile::tempdir()?;
    let places = places("unix", &folder.path().join("s").display().to_string());
    let servers = serve_all(&places).await?;
    let users = users(&places, &config, &transports, true).await?;
    for server in servers {
        server.shutdown().await;
    }
    for (_, user) in &users {
        until(user.client(), ConnectionState::Offline).await;
    }
    // Five attempts of each client are some three seconds.
    let offline = Instant::now();
    let enough = dials.made() + CLIENTS * 4;
    let mut made = dials.0.subscribe();
    drop(made.wait_for(|all| all.len() >= enough).await?);
    dials.assert_spread(offline, Instant::now());
    let _servers = serve_all(&places).await?;
    // The second more is the machine's, which runs other tests too.
    let last = last_to_come(&users).await?;
    assert!(
        last <= config.backoff.max + Duration::from_secs(1),
        "{last:?}"
    );
    Ok(())
}
