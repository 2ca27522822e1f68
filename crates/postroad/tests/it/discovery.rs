//! What clients see of a source: lists, files, copies, and sources that fail, flap or lie.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postroad::discovery::{Discovery, DiscoveryError, Found, Instance, Target, Updates};
use postroad::transport::BoxFuture;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{interval, timeout};

use super::support::{PATIENCE, Tested};

/// Whether a peer is there. `POSTROAD_TEST_PEERS=require` makes a missing one a failure.
pub(crate) fn has_peer(name: &str, package: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {name}")])
        .output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        let wants = std::env::var("POSTROAD_TEST_PEERS").unwrap_or_default();
        assert_ne!(
            wants, "require",
            "{name} is missing: apt-get install {package}"
        );
        eprintln!("NOT RUN: {name} is missing; apt-get install {package}");
    }
    is_there
}

pub(crate) fn instance(url: &str) -> Instance {
    Instance::new(url.parse().expect("the test names endpoints"))
}

/// URL, weight and tag of each instance.
pub(crate) fn urls(found: &Found) -> Vec<String> {
    found.instances.iter().map(ToString::to_string).collect()
}

/// Waits until what is known is as it should be.
pub(crate) async fn until(
    found: &mut watch::Receiver<Found>,
    is_so: impl Fn(&Found) -> bool,
) -> Found {
    let waited = timeout(2 * PATIENCE, found.wait_for(|found| is_so(found))).await;
    let seen = waited.map(|seen| seen.expect("the source is followed").clone());
    seen.unwrap_or_else(|_| panic!("it never became so: {:?}", found.borrow()))
}

/// Waits until these and no others are known.
pub(crate) async fn until_urls(found: &mut watch::Receiver<Found>, expected: &[&str]) -> Found {
    until(found, |found| urls(found) == expected).await
}

/// Lets so much time go by, of a clock that is paused.
async fn pass(time: Duration) {
    let ended = timeout(time, std::future::pending::<()>()).await;
    assert!(ended.is_err(), "nothing ends it");
}

/// A source that does what it is told.
#[derive(Debug)]
struct Told(Mutex<mpsc::Receiver<Result<Vec<Instance>, DiscoveryError>>>);

type Tell = mpsc::Sender<Result<Vec<Instance>, DiscoveryError>>;

fn told() -> (Tell, Target) {
    let (tell, told) = mpsc::channel(1);
    (tell, Target::of(Told(Mutex::new(told))))
}

impl Discovery for Told {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            loop {
                match self.0.lock().await.recv().await {
                    Some(Ok(list)) => updates.set(list),
                    Some(Err(error)) => return error,
                    None => return DiscoveryError::unreachable("nobody tells it anything"),
                }
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_after_a_full_one_is_believed_only_when_it_stays() -> Tested {
    let (tell, target) = told();
    let mut found = target.follow(None)?;
    let two = ["tcp://a:1", "tcp://b:1"];
    tell.send(Ok(two.map(instance).to_vec())).await?;
    until_urls(&mut found, &two).await;
    tell.send(Ok(Vec::new())).await?;
    pass(Duration::from_secs(59)).await;
    let kept = found.borrow_and_update().clone();
    assert_eq!(urls(&kept), two, "the registry may have lost its data");
    let said = kept.to_string();
    assert!(said.contains("says that there are no instances"), "{said}");
    pass(Duration::from_secs(2)).await;
    let gone = found.borrow_and_update().clone();
    let said = gone.to_string();
    assert!(said.contains("no instances for"), "{said}");
    assert!(said.contains("last known: tcp://a:1, tcp://b:1"), "{said}");
    tell.send(Ok(vec![instance("tcp://c:1")])).await?;
    let back = until_urls(&mut found, &["tcp://c:1"]).await;
    assert!(back.gone.is_none() && back.trouble.is_none());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_takes_nothing_away_and_confirms_no_empty_list() -> Tested {
    let (tell, target) = told();
    let mut found = target.follow(None)?;
    tell.send(Ok(vec![instance("tcp://a:1")])).await?;
    until_urls(&mut found, &["tcp://a:1"]).await;
    tell.send(Ok(Vec::new())).await?;
    tell.send(Err(DiscoveryError::unreachable("connection refused")))
        .await?;
    pass(Duration::from_secs(3600)).await;
    let kept = found.borrow_and_update().clone();
    assert_eq!(urls(&kept), ["tcp://a:1"]);
    let said = kept.to_string();
    assert!(said.contains("connection refused"), "{said}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_believed_at_once_where_the_target_says_so() -> Tested {
    let (tell, target) = told();
    let mut found = target.with_keep(Duration::ZERO).follow(None)?;
    tell.send(Ok(vec![instance("tcp://a:1")])).await?;
    until_urls(&mut found, &["tcp://a:1"]).await;
    tell.send(Ok(Vec::new())).await?;
    let gone = until(&mut found, |found| found.gone.is_some()).await;
    assert!(gone.instances.is_empty());
    Ok(())
}

/// A source that changes its mind each millisecond, or fails at once.
#[derive(Debug)]
struct Restless {
    fails: bool,
    asked: watch::Sender<u32>,
}

impl Discovery for Restless {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            self.asked.send_modify(|asked| *asked += 1);
            if self.fails {
                return DiscoveryError::refused("never");
            }
            let mut ticks = interval(Duration::from_millis(1));
            for port in [1, 2].into_iter().cycle() {
                updates.set(vec![instance(&format!("tcp://h:{port}"))]);
                ticks.tick().await;
            }
            DiscoveryError::refused("a cycle ends never")
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_flaps_a_thousand_times_a_second_is_seen_ten_times() -> Tested {
    let asked = watch::Sender::new(0);
    let mut found = Target::of(Restless {
        fails: false,
        asked,
    })
    .follow(None)?;
    let mut seen = 0;
    let count = async {
        while found.changed().await.is_ok() {
            seen += 1;
        }
    };
    let ended = timeout(Duration::from_secs(10), count).await;
    assert!(ended.is_err(), "it goes on");
    assert!((30..=101).contains(&seen), "{seen} in ten seconds");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_at_once_is_asked_with_growing_pauses_until_nobody_listens() -> Tested {
    let sender = watch::Sender::new(0);
    let asked = sender.subscribe();
    let restless = Restless {
        fails: true,
        asked: sender,
    };
    let found = Target::of(restless).follow(None)?;
    pass(Duration::from_secs(300)).await;
    let many = *asked.borrow();
    assert!((20..=100).contains(&many), "asked {many} times in 300 s");
    assert!(!found.borrow().has_answered);
    drop(found);
    pass(Duration::from_secs(300)).await;
    assert!(asked.has_changed().is_err(), "the source is dropped");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn lists_are_bounded_sorted_and_name_each_url_once() -> Tested {
    let (tell, target) = told();
    let mut found = target.follow(None)?;
    let numbered = |many: u32| (0..many).map(|n| instance(&format!("mem://{n}"))).collect();
    tell.send(Ok(numbered(10_000))).await?;
    until(&mut found, |found| found.instances.len() == 10_000).await;
    tell.send(Ok(numbered(65_537))).await?;
    let refused = until(&mut found, |found| found.trouble.is_some()).await;
    assert_eq!(refused.instances.len(), 10_000, "the last good list stays");
    let said = refused.to_string();
    assert!(said.contains("65537 instances; at most 65536"), "{said}");

    let mut list: Vec<_> = ["tcp://b:1", "tcp://a:1", "tcp://b:1", "tcp://c:1"]
        .map(instance)
        .to_vec();
    (list[1].priority, list[2].weight, list[3].weight) = (1, 0, 70_000);
    tell.send(Ok(list)).await?;
    let merged = until_urls(&mut found, &["tcp://b:1", "tcp://a:1"]).await;
    assert_eq!(merged.instances[0].weight, 0, "the last of a URL counts");
    Ok(())
}

#[tokio::test]
async fn the_copy_on_disk_serves_while_the_source_is_down() -> Tested {
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("orders.json");
    let (tell, target) = told();
    let mut found = target.follow(Some(&copy))?;
    tell.send(Ok(vec![instance("tcp://a:1")])).await?;
    until_urls(&mut found, &["tcp://a:1"]).await;
    timeout(PATIENCE, async {
        while !copy.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    drop(found);

    // The same target again, as after a restart. Nothing is said to it for a second.
    let mut found = target.follow(Some(&copy))?;
    let copied = until_urls(&mut found, &["tcp://a:1"]).await;
    assert!(copied.is_copy && !copied.has_answered);
    tell.send(Ok(vec![instance("tcp://b:1")])).await?;
    let fresh = until_urls(&mut found, &["tcp://b:1"]).await;
    assert!(!fresh.is_copy && fresh.has_answered);
    Ok(())
}

fn entries(urls: &[&str]) -> String {
    let entry = |url: &&str| format!("[[instance]]\nurl = \"{url}\"\n");
    urls.iter().map(entry).collect()
}

fn rename_over(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

#[tokio::test]
async fn a_file_is_followed_when_it_is_written_replaced_and_broken() -> Tested {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("orders.toml");
    let target: Target = format!("file://{}", path.display()).parse()?;
    let mut found = target.follow(None)?;
    let missing = until(&mut found, |found| found.trouble.is_some()).await;
    assert!(missing.to_string().contains("No such file"), "{missing}");

    std::fs::write(&path, entries(&["tcp://a:1"]))?;
    until_urls(&mut found, &["tcp://a:1"]).await;
    rename_over(&path, &entries(&["tcp://a:1", "tcp://b:1"]))?;
    until_urls(&mut found, &["tcp://a:1", "tcp://b:1"]).await;
    rename_over(&path, "[[instance]]\nurl = \"tcp://")?;
    let broken = until(&mut found, |found| found.trouble.is_some()).await;
    assert_eq!(urls(&broken), ["tcp://a:1", "tcp://b:1"]);
    assert!(broken.to_string().contains("line 2"), "{broken}");
    std::fs::write(&path, entries(&["tcp://c:1"]))?;
    let mended = until_urls(&mut found, &["tcp://c:1"]).await;
    assert!(mended.trouble.is_none());
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_behind_links_is_followed_when_the_links_are_exchanged() -> Tested {
    use std::os::unix::fs::symlink;

    // As Kubernetes mounts a ConfigMap: the name links into `..data`, which links to a folder.
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    for (version, url) in [("v1", "tcp://a:1"), ("v2", "tcp://b:1")] {
        std::fs::create_dir(at(version))?;
        std::fs::write(at(version).join("orders.toml"), entries(&[url]))?;
    }
    symlink("v1", at("..data"))?;
    symlink("..data/orders.toml", at("orders.toml"))?;
    let target: Target = format!("file://{}", at("orders.toml").display()).parse()?;
    let mut found = target.follow(None)?;
    until_urls(&mut found, &["tcp://a:1"]).await;
    symlink("v2", at("..new"))?;
    std::fs::rename(at("..new"), at("..data"))?;
    until_urls(&mut found, &["tcp://b:1"]).await;
    Ok(())
}
