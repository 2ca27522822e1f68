//! A process that has no descriptor left goes on with the connections that it has. In a process of
//! its own, which has none left.
#![cfg(target_os = "linux")]

#[path = "it/support.rs"]
mod support;

use std::fs::File;

use postroad::{Bytes, Client, Router};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Tested, serve};

#[tokio::test]
async fn a_full_unix_socket_is_written_to_again_though_no_descriptor_is_left() -> Tested {
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(200),
        ..limit
    };
    setrlimit(Resource::Nofile, few)?;
    let folder = tempfile::tempdir()?;
    let url = format!("unix://{}/node.sock", folder.path().display());
    let _server = serve(&url, Router::new()).await?;
    let client = Client::connect(&url).await?;
    client.request("postroad/echo").call_raw("warm").await?;
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(taken.len() < 200, "the limit holds");
    // More than the socket's buffer holds, each way.
    let body = Bytes::from(vec![7; 8 << 20]);
    for _ in 0..3 {
        let answer = client.request("postroad/echo").call_raw(body.clone());
        assert_eq!(answer.await?, body);
    }
    Ok(())
}
