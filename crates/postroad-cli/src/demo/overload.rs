//! A server that is offered several times what it can do: what matters most is answered as if
//! nothing had happened, and the least important is refused early.

use std::time::{Duration, Instant};

use postroad::{CallError, Client, Retry};
use tokio::task::JoinSet;

use super::node::{SCALES, StockClient, WEIGHING};
use super::process::Node;
use super::story::Story;
use crate::exit::Failed;
use crate::terminal::say;

/// What is offered: the priority, and calls in a hundredth of a second.
const OFFERED: [(u8, usize); 3] = [(7, 1), (3, 5), (0, 10)];
/// Between two times that calls are made, whether those before were answered or not.
const TICK: Duration = Duration::from_millis(10);
const TICKS: usize = 200;
/// What a call has.
const TIMEOUT: Duration = Duration::from_millis(500);

/// How the calls of one priority have ended.
#[derive(Default)]
struct Ended {
    answered: Vec<Duration>,
    /// Refused with the promise that nothing was done, and a hint when to come again.
    refused: usize,
    hint: Option<Duration>,
    other: Vec<String>,
}

impl Ended {
    fn add(&mut self, took: Duration, result: Result<u32, CallError>) {
        match result {
            Ok(_) => self.answered.push(took),
            Err(error) if error.retry() == Retry::Elsewhere && error.retry_after().is_some() => {
                self.refused += 1;
                self.hint = self.hint.max(error.retry_after());
            }
            Err(error) => self.other.push(error.to_string()),
        }
    }

    fn calls(&self) -> usize {
        self.answered.len() + self.refused + self.other.len()
    }

    fn tell(&self, priority: u8) {
        let median = self.answered.get(self.answered.len() / 2);
        let median = median.map_or("-".to_owned(), |median| format!("{median:.0?}"));
        say(format_args!(
            "      priority {priority}: {:>4} calls, {:>4} answered, half of them within {median}; \
             {:>4} refused",
            self.calls(),
            self.answered.len(),
            self.refused
        ));
    }
}

impl Story {
    pub(super) async fn overloaded(&mut self, node: &Node) -> Result<(), Failed> {
        let able = SCALES as f64 / WEIGHING.as_secs_f64();
        let calls: usize = OFFERED.iter().map(|(_, calls)| calls).sum();
        let offered = calls as f64 / TICK.as_secs_f64();
        self.title(&format!(
            "9. An overloaded server: able to do {able:.0} calls a second, asked for {offered:.0}"
        ));
        let client = Client::connect(&node.url("native")).await?;
        let ended = offer(&client).await;
        for (ended, (priority, _)) in ended.iter().zip(OFFERED) {
            ended.tell(priority);
        }
        let [most, _, least] = ended;
        let slowest = most.answered.last().copied().unwrap_or_default();
        self.claim(
            most.answered.len() == most.calls() && slowest < TIMEOUT / 2,
            format!("the most important were all answered, the slowest after {slowest:.0?}"),
        );
        let hint = least.hint.unwrap_or_default();
        self.claim(
            least.refused > least.answered.len(),
            format!(
                "most of the least important were refused before anything was done: safe to try \
                 elsewhere, here after {hint:.0?}"
            ),
        );
        Ok(())
    }
}

/// Makes the calls of all priorities, and waits for their ends; sorted by how long they took.
async fn offer(client: &Client) -> [Ended; 3] {
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    for _ in 0..TICKS {
        ticks.tick().await;
        for (at, (priority, count)) in OFFERED.into_iter().enumerate() {
            for _ in 0..count {
                let stock = StockClient::new(client.clone());
                let stock = stock.with(|call| call.priority(priority).timeout(TIMEOUT));
                calls.spawn(async move {
                    let began = Instant::now();
                    let result = stock.weigh("nails".to_owned()).await;
                    (at, began.elapsed(), result)
                });
            }
        }
    }
    let mut ended = <[Ended; 3]>::default();
    // A call that has panicked is missing from the sums.
    while let Some(Ok((at, took, result))) = calls.join_next().await {
        ended[at].add(took, result);
    }
    for ended in &mut ended {
        ended.answered.sort_unstable();
    }
    ended
}
