//! Texts behind keys: stand-ins for the stores of Consul and Nacos. That of etcd is tried with the
//! program.

use std::time::Duration;

use postroad::discovery::{Document, Reading};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::discovery_etcd::base64;
use super::discovery_http::{Answered, Asked, Stand, reply};
use super::support::{PATIENCE, Tested};

/// What stands behind the key, and how often it was changed.
type Kept = watch::Sender<(Option<&'static str>, u64)>;

/// How long the stand-in for Consul holds an answer back.
const HOLD: Duration = Duration::from_secs(2);

async fn consul(kept: Kept, asked: Asked, mut stream: TcpStream) -> Answered {
    assert_eq!(asked.path, "/v1/kv/postroad/node1");
    let last: u64 = asked.get("index").parse()?;
    let mut heard = kept.subscribe();
    // As the real one: it answers when there is another number, or the wait is over.
    let another = heard.wait_for(|(_, index)| *index != last);
    drop(timeout(HOLD, another).await);
    let (text, index) = *kept.borrow();
    let index = format!("x-consul-index: {index}\r\n");
    match text {
        None => reply(&mut stream, "404 Not Found", &index, "").await,
        Some(text) => {
            let body = format!("[{{\"Key\":\"k\",\"Value\":\"{}\"}}]", base64(text));
            reply(&mut stream, "200 OK", &index, &body).await
        }
    }
}

async fn nacos(kept: Kept, asked: Asked, mut stream: TcpStream) -> Answered {
    assert_eq!(
        (asked.get("dataId"), asked.get("group")),
        ("node1", "postroad")
    );
    let (text, _) = *kept.borrow();
    let body = match (asked.path.as_str(), text) {
        ("/nacos/v1/cs/configs", None) => {
            let said = "config data not exist";
            return reply(&mut stream, "404 Not Found", "", said).await;
        }
        ("/nacos/v1/cs/configs", Some(text)) => {
            assert_eq!(asked.get("tenant"), "test");
            text.to_owned()
        }
        ("/nacos/v2/cs/config", None) => "{\"code\":20004,\"message\":\"no\"}".to_owned(),
        ("/nacos/v2/cs/config", Some(text)) => {
            assert_eq!(asked.get("namespaceId"), "test");
            format!("{{\"code\":0,\"message\":\"success\",\"data\":\"{text}\"}}")
        }
        (other, _) => return Err(format!("{other} was asked for").into()),
    };
    reply(&mut stream, "200 OK", "", &body).await
}

/// Waits until the text is known to be this one.
async fn until_text(heard: &mut watch::Receiver<Reading>, text: Option<&str>) -> Tested {
    let is_it = |reading: &Reading| {
        reading.is_read && reading.trouble.is_none() && reading.text.as_deref() == text
    };
    timeout(PATIENCE, heard.wait_for(is_it)).await??;
    Ok(())
}

/// Follows a text that is not there, comes, changes and goes.
async fn follow(document: &Document, kept: &Kept) -> Tested {
    assert_eq!(document.read().await?, None);
    let mut heard = document.follow()?;
    until_text(&mut heard, None).await?;
    for (index, text) in [
        (2, Some("one")),
        (3, Some("two")),
        (4, None),
        (5, Some("two")),
    ] {
        kept.send_replace((text, index));
        until_text(&mut heard, text).await?;
    }
    // A store that begins anew counts anew.
    kept.send_replace((Some("three"), 1));
    until_text(&mut heard, Some("three")).await
}

#[tokio::test]
async fn a_key_of_consul_is_read_and_followed() -> Tested {
    let kept = watch::Sender::new((None, 1));
    let store = kept.clone();
    let stand = Stand::start(move |asked, stream| consul(store.clone(), asked, stream)).await?;
    let url = format!("consul://127.0.0.1:{}/postroad/node1", stand.port);
    follow(&url.parse()?, &kept).await
}

#[tokio::test]
async fn a_text_of_nacos_is_read_and_followed_by_both_versions_of_its_api() -> Tested {
    for options in ["namespace=test", "namespace=test&api=v2"] {
        let kept = watch::Sender::new((None, 1));
        let store = kept.clone();
        let stand = Stand::start(move |asked, stream| nacos(store.clone(), asked, stream)).await?;
        let url = format!("nacos://127.0.0.1:{}/postroad/node1?{options}", stand.port);
        follow(&url.parse()?, &kept).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_down_keeps_what_was_read_and_says_why() -> Tested {
    let kept = watch::Sender::new((Some("one"), 1));
    let store = kept.clone();
    let stand = Stand::start(move |asked, stream| consul(store.clone(), asked, stream)).await?;
    let url = format!("consul://127.0.0.1:{}/postroad/node1", stand.port);
    let document: Document = url.parse()?;
    let mut heard = document.follow()?;
    until_text(&mut heard, Some("one")).await?;
    drop(stand);
    let down = heard.wait_for(|reading| reading.trouble.is_some());
    let down = timeout(PATIENCE, down).await??.clone();
    assert_eq!(down.text.as_deref(), Some("one"));
    document.read().await.expect_err("nobody answers");
    Ok(())
}

#[test]
fn a_url_that_names_no_key_is_refused_with_what_to_write() {
    for (url, says) in [
        ("etcd://h:2379", "as in etcd://h:2379/postroad/node1"),
        ("etcd://h:2379/a//b", "single `/`"),
        ("consul://h/a", "\"h\" is not HOST:PORT"),
        ("consul://h:1/a?x=1", "unknown option"),
        ("nacos://h:1/a/b/c", "GROUP/NAME"),
        ("nacos://h:1/a?api=v3", "v1 or v2"),
        ("http://h:1/a", "http is no registry"),
    ] {
        let refused = url.parse::<Document>().expect_err(url).to_string();
        assert!(refused.contains(says), "{url}: {refused}");
    }
}
