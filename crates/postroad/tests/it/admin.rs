//! Health and metrics over HTTP, and those who ask for them with bad manners.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use postroad::admin::{Admin, AdminError, Format, MetricSource, Metrics, RunningAdmin};
use postroad::{Router, ServerConfig};

use crate::support::{PATIENCE, Tested, connect, serve, serve_with};

fn admin() -> Result<RunningAdmin, AdminError> {
    Admin::listen("http://127.0.0.1:0")?.start()
}

/// A connection of somebody who asks.
fn dial(admin: &RunningAdmin) -> Tested<TcpStream> {
    let stream = TcpStream::connect(admin.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What is answered to these bytes, until the end.
fn say(admin: &RunningAdmin, request: &str) -> Tested<String> {
    let mut stream = dial(admin)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn get(admin: &RunningAdmin, path: &str) -> Tested<(u16, String)> {
    let answer = say(admin, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))?;
    let status = answer.split(' ').nth(1).ok_or("a status")?.parse()?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("a body")?;
    Ok((status, body.to_owned()))
}

/// Asks until the answer has this status; what it says.
fn wait_for(admin: &RunningAdmin, path: &str, status: u16) -> Tested<String> {
    let began = Instant::now();
    loop {
        let (found, body) = get(admin, path)?;
        if found == status {
            return Ok(body);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{path} still answers {found}: {body}").into());
        }
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn living_being_started_and_being_ready_are_three_things() -> Tested {
    let admin = admin()?;
    assert_eq!(get(&admin, "/livez")?, (200, "ok\n".to_owned()));
    let (status, body) = get(&admin, "/startupz")?;
    assert_eq!(status, 503);
    assert!(
        body.contains("[-]started failed: it is being started\n"),
        "{body}"
    );
    assert_eq!(get(&admin, "/readyz")?.0, 503);

    let server = serve("tcp://127.0.0.1:0", Router::new()).await?;
    admin.watch(&server);
    for path in ["/livez", "/startupz", "/readyz"] {
        assert_eq!(get(&admin, path)?, (200, "ok\n".to_owned()), "{path}");
    }
    let verbose = "[+]started ok\n[+]state ok\n[+]wants-calls ok\nreadyz check passed\n";
    assert_eq!(get(&admin, "/readyz?verbose")?, (200, verbose.to_owned()));

    server.routes().set_ready(false);
    let (status, body) = get(&admin, "/readyz")?;
    assert_eq!(status, 503);
    assert!(
        body.contains("[-]wants-calls failed: the program wants no calls now"),
        "{body}"
    );
    assert_eq!(get(&admin, "/livez")?.0, 200, "it lives all the same");
    server.routes().set_ready(true);
    assert_eq!(get(&admin, "/readyz")?.0, 200);

    server.shutdown().await;
    let (status, body) = get(&admin, "/readyz")?;
    assert_eq!(status, 503);
    assert!(
        body.contains("[-]state failed: Stopped: it has ended\n"),
        "{body}"
    );
    assert_eq!(
        get(&admin, "/livez")?.0,
        200,
        "killing it would help nobody"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reactor_that_a_handler_blocks_makes_the_node_dead_until_it_turns_again() -> Tested {
    let (free, blocked) = mpsc::sync_channel::<()>(1);
    let blocked = std::sync::Mutex::new(blocked);
    let blocked = std::sync::Arc::new(blocked);
    let router = Router::new().route("block", move || {
        let blocked = std::sync::Arc::clone(&blocked);
        async move {
            let _ = blocked.lock().map(|blocked| blocked.recv_timeout(PATIENCE));
        }
    });
    let mut config = ServerConfig::default();
    config.workers = Some(1);
    let server = serve_with("tcp://127.0.0.1:0", router, config).await?;
    let admin = Admin::listen("http://127.0.0.1:0")?.stuck_after(Duration::from_millis(100));
    let admin = admin.start()?;
    admin.watch(&server);
    wait_for(&admin, "/livez", 200)?;
    let client = connect(&server).await?;
    let call = async move {
        let call = client.request("block").timeout(PATIENCE);
        call.call_raw("").await.map(drop)
    };
    let call = tokio::spawn(call);
    let dead = tokio::task::spawn_blocking(move || {
        let body = wait_for(&admin, "/livez", 503).map_err(|error| error.to_string());
        let metrics = get(&admin, "/metrics").map_err(|error| error.to_string());
        (admin, body, metrics)
    });
    let (admin, body, metrics) = dead.await?;
    let (body, (_, metrics)) = (body?, metrics?);
    assert!(
        body.contains("[-]reactors failed: reactor 0 of 1 has not turned for"),
        "{body}"
    );
    assert!(body.ends_with("livez check failed\n"), "{body}");
    let waits = number(
        &metrics,
        "postroad_server_reactor_wait_seconds{reactor=\"0\"}",
    )?;
    assert!(waits >= 0.1, "{waits}");
    free.send(())?;
    call.await??;
    wait_for(&admin, "/livez", 200)?;
    Ok(())
}

/// The value of this series.
fn number(metrics: &str, series: &str) -> Tested<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    let line = line.ok_or_else(|| format!("no {series} in {metrics}"))?;
    Ok(line.trim().parse()?)
}

/// A source of the program's own.
struct Orders;

impl MetricSource for Orders {
    fn collect(&self, metrics: &mut Metrics) {
        metrics
            .counter("shop_orders_total", "Orders.")
            .add(&[("kind", "book")], 7_u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_the_server_has_counted_in_both_forms() -> Tested {
    let admin = Admin::listen("http://127.0.0.1:0")?
        .metrics(Orders)
        .start()?;
    let server = serve("tcp://127.0.0.1:0", Router::new()).await?;
    admin.watch(&server);
    let client = connect(&server).await?;
    for _ in 0..3 {
        client.request("postroad/echo").call_raw("x").await?;
    }
    assert!(client.request("nowhere").call_raw("x").await.is_err());
    let (_, text) = get(&admin, "/metrics")?;
    for (series, expected) in [
        ("postroad_server_state{state=\"Running\"}", 1.0),
        ("postroad_server_state{state=\"Error\"}", 0.0),
        ("postroad_server_ready", 1.0),
        ("postroad_server_connections", 1.0),
        ("postroad_server_connections_accepted_total", 1.0),
        ("postroad_server_requests_started_total", 3.0),
        ("postroad_server_requests_failed_total", 1.0),
        ("postroad_server_routes", 4.0),
        ("shop_orders_total{kind=\"book\"}", 7.0),
    ] {
        assert_eq!(number(&text, &format!("{series} "))?, expected, "{series}");
    }
    assert!(number(&text, "process_resident_memory_bytes ")? > 0.0);
    let mut metrics = Metrics::new();
    client.collect(&mut metrics);
    server.collect(&mut metrics);
    let own = metrics.render(Format::Text);
    let series = format!("{{target=\"{}\",state=\"Connected\"}} ", client.target());
    assert_eq!(
        number(&own, &format!("postroad_client_state{series}"))?,
        1.0
    );
    assert_eq!(number(&own, "postroad_server_ready ")?, 1.0);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let open = say(
        &admin,
        &format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n"),
    )?;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(open.contains(kind) && open.ends_with("# EOF\n"), "{open}");
    Ok(())
}

#[test]
fn what_is_not_asked_for_properly_is_refused_and_the_next_is_answered() -> Tested {
    let admin = admin()?;
    let (status, list) = get(&admin, "/")?;
    assert_eq!(status, 200);
    for page in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert!(list.contains(page), "{list}");
    }
    let head = say(&admin, "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let post = say(
        &admin,
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )?;
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD\r\n"),
        "{post}"
    );
    let endless = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx";
    assert!(say(&admin, endless)?.starts_with("HTTP/1.1 405 "));
    for path in [
        "/nothing",
        "/metrics/../../etc/passwd",
        "/livez/",
        "/%2e%2e",
        "*",
    ] {
        let (status, body) = get(&admin, path)?;
        assert!(status == 404 || status == 400, "{path}: {status} {body}");
    }
    let garbage = say(&admin, "\u{1}\u{2}nonsense\r\n\r\n")?;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "),
        "{garbage}"
    );
    assert_eq!(get(&admin, "/livez")?.0, 200);
    Ok(())
}

#[test]
fn a_head_without_end_is_cut_off_by_its_bytes_and_by_its_headers() -> Tested {
    let admin = admin()?;
    let large = format!("GET /livez HTTP/1.1\r\nX: {}\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    for head in [large, many] {
        let mut stream = dial(&admin)?;
        // It may hang up before all is written.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_eq!(get(&admin, "/livez")?.0, 200);
    Ok(())
}

#[test]
fn who_sends_a_byte_now_and_then_is_cut_off_and_nobody_waits_for_it() -> Tested {
    let admin = admin()?;
    let mut slow = dial(&admin)?;
    slow.write_all(b"GET /livez HTTP/1.1\r\nX: ")?;
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    slow.set_read_timeout(Some(Duration::from_millis(100)))?;
    // A timeout says that it is still open.
    while slow
        .read(&mut [0; 64])
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    {
        assert!(began.elapsed() < PATIENCE, "it is never cut off");
        let asked = Instant::now();
        assert_eq!(get(&admin, "/livez")?.0, 200);
        longest = longest.max(asked.elapsed());
        if slow.write_all(b"x").is_err() {
            break;
        }
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(
        began.elapsed() >= Duration::from_secs(4),
        "cut off after {:?}",
        began.elapsed()
    );
    Ok(())
}

#[test]
fn a_thousand_silent_connections_keep_nobody_from_being_answered() -> Tested {
    let admin = admin()?;
    let mut silent = Vec::new();
    let asked = Instant::now();
    for at in 0..1_000 {
        silent.push(TcpStream::connect(admin.address())?);
        if at % 100 == 99 {
            assert_eq!(get(&admin, "/livez")?.0, 200, "after {at}");
        }
    }
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    let (_, metrics) = get(&admin, "/metrics")?;
    let evicted = number(&metrics, "postroad_admin_connections_evicted_total ")?;
    assert!(evicted >= 900.0, "{evicted} of them have gone");
    for stream in &silent {
        let _ = stream.shutdown(Shutdown::Both);
    }
    Ok(())
}

#[test]
fn an_address_is_free_again_when_nothing_is_told_there_any_more() -> Tested {
    let first = admin()?;
    let url = format!("http://{}", first.address());
    let taken = Admin::listen(&url)?.start().expect_err("it is taken");
    assert!(taken.is_taken(), "{taken}");
    drop(first);
    let began = Instant::now();
    while let Err(error) = Admin::listen(&url)?.start() {
        assert!(error.is_taken() && began.elapsed() < PATIENCE, "{error}");
        std::thread::yield_now();
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_unix_socket_answers_too_and_leaves_no_file() -> Tested {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("admin.sock");
    let admin = Admin::listen(&format!("unix://{}", path.display()))?.start()?;
    let mut stream = std::os::unix::net::UnixStream::connect(&path)?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(admin);
    let began = Instant::now();
    while path.exists() {
        assert!(began.elapsed() < PATIENCE, "the file stays");
        std::thread::yield_now();
    }
    Ok(())
}
