//! Who drives a lone thread's connection. In a process of its own: threads are told by their names.
#![cfg(target_os = "linux")]

#[path = "it/support.rs"]
mod support;

use std::time::Instant;

use postroad::{BlockingClient, Router};
use support::{Tested, echo, serve, tcp};

/// How often the client's thread has gone to sleep, once it runs.
fn sleeps_of_the_clients_thread() -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this is Linux");
    for task in tasks.flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim() == "postroad-client" {
            let status = read("status");
            let line = status.lines().find_map(|line| {
                let count = line.strip_prefix("voluntary_ctxt_switches:")?;
                count.trim().parse().ok()
            });
            return line;
        }
    }
    None
}

#[test]
fn a_thread_that_calls_alone_wakes_no_other() -> Tested {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let server = runtime.block_on(serve("tcp://127.0.0.1:0", Router::new()))?;
    let client = BlockingClient::connect(&tcp(&server))?;
    let before = loop {
        echo(
            &client,
            "the first calls still find the thread at work, but it leaves",
        );
        if let Some(sleeps) = sleeps_of_the_clients_thread() {
            break sleeps;
        }
    };
    let begin = Instant::now();
    for _ in 0..2_000 {
        assert_eq!(echo(&client, "x"), "x");
    }
    let after = sleeps_of_the_clients_thread().ok_or("the thread has ended")?;
    let slept = after - before;
    // It looks every 10 ms whether it is needed again; a caller that is kept from running for so
    // long brings it back.
    let looks = begin.elapsed().as_millis() as u64 / 10;
    assert!(slept <= 50 + 4 * looks, "{slept} times, {looks} looks");
    runtime.block_on(server.shutdown());
    Ok(())
}
