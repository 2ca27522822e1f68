//! The calls: an open loop at a rate that may change once, or callers that wait for answers.
//!
//! A thread of its own keeps the time, because a timer of tokio counts in milliseconds; latency is
//! from when a call was due.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::{JoinSet, LocalSet};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::generated::worker_client::WorkerClient;
use crate::record::{End, Record};
use crate::{Asked, Result};

/// Calls that are due and were not made yet, as many as `postroad bench` has in flight at most.
const DUE_MAX: usize = 50_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    #[arg(long)]
    at: String,
    #[arg(long, default_value_t = 0)]
    sleep_ms: u64,
    #[arg(long, default_value_t = 0)]
    spin_us: u64,
    /// Calls a second, and for how many seconds: `2000:3`, one after the other.
    #[arg(long, value_delimiter = ',', value_parser = step)]
    rate: Vec<(f64, f64)>,
    /// Callers of a closed loop, in place of a rate.
    #[arg(long, default_value_t = 0)]
    callers: usize,
    /// Seconds before the measurement; of an open loop at its first rate.
    #[arg(long)]
    warm_up: f64,
    /// Seconds of a closed loop.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Of each hundred calls so many have this priority, of which the server knows nothing:
    /// `7:10,4:45,1:45`.
    #[arg(long, value_delimiter = ',', value_parser = share)]
    priority: Vec<(u8, u64)>,
    /// Deadlines in milliseconds, taken in turn.
    #[arg(long, value_delimiter = ',')]
    timeout_ms: Vec<u64>,
}

fn step(text: &str) -> std::result::Result<(f64, f64), String> {
    let parsed = text.split_once(':');
    let parsed = parsed.and_then(|(rate, time)| Some((rate.parse().ok()?, time.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is not RATE:SECONDS"))
}

fn share(text: &str) -> std::result::Result<(u8, u64), String> {
    let parsed = text.split_once(':');
    let parsed = parsed.and_then(|(level, part)| Some((level.parse().ok()?, part.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is not PRIORITY:PERCENT"))
}

/// A call that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    number: u64,
    at: Instant,
}

/// The same numbers in the same order each time, well mixed (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Load {
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let record = LocalSet::new().block_on(&runtime, self.measure())?;
        println!("{}", serde_json::to_string(&record)?);
        Ok(())
    }

    async fn measure(self) -> Result<Record> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.at))?.tcp_nodelay(true);
        let client = WorkerClient::new(endpoint.connect().await?);
        let begin = Instant::now() + Duration::from_secs_f64(self.warm_up);
        let record = Rc::new(RefCell::new(Record::default()));
        let seconds = match self.callers {
            0 => self.open(&client, begin, &record).await,
            _ => self.closed(&client, begin, &record).await,
        };
        Ok(record.take().finish(seconds))
    }

    async fn open(
        &self,
        client: &WorkerClient<Channel>,
        begin: Instant,
        record: &Rc<RefCell<Record>>,
    ) -> f64 {
        let (sender, mut due) = channel(DUE_MAX);
        let load = self.clone();
        thread::spawn(move || load.keep_time(begin, &sender));
        let mut calls = JoinSet::new();
        while let Some(due) = due.recv().await {
            if due.at >= begin {
                record.borrow_mut().late(due.at.elapsed());
            }
            let (load, client) = (self.clone(), client.clone());
            let record = Rc::clone(record);
            calls.spawn_local(async move { load.call(client, due, begin, &record).await });
            // Ended calls are forgotten as others begin.
            while calls.try_join_next().is_some() {}
        }
        while calls.join_next().await.is_some() {}
        self.rate.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Says when each call is due, and ends with the last.
    fn keep_time(&self, begin: Instant, sender: &Sender<Due>) {
        let mut at = begin
            .checked_sub(Duration::from_secs_f64(self.warm_up))
            .unwrap_or(begin);
        let mut until = begin;
        let mut number = 0;
        for (rate, seconds) in &self.rate {
            until += Duration::from_secs_f64(*seconds);
            while at < until {
                let now = Instant::now();
                if at > now {
                    thread::sleep(at - now);
                }
                if sender.blocking_send(Due { number, at }).is_err() {
                    return;
                }
                number += 1;
                at += Duration::from_secs_f64(1.0 / rate);
            }
        }
    }

    async fn closed(
        &self,
        client: &WorkerClient<Channel>,
        begin: Instant,
        record: &Rc<RefCell<Record>>,
    ) -> f64 {
        let end = begin + Duration::from_secs_f64(self.seconds);
        let mut callers = JoinSet::new();
        for number in 0..self.callers as u64 {
            let (load, client) = (self.clone(), client.clone());
            let record = Rc::clone(record);
            callers.spawn_local(async move {
                while Instant::now() < end {
                    let at = Instant::now();
                    let due = Due { number, at };
                    load.call(client.clone(), due, begin, &record).await;
                }
            });
        }
        while callers.join_next().await.is_some() {}
        self.seconds
    }

    async fn call(
        &self,
        mut client: WorkerClient<Channel>,
        due: Due,
        begin: Instant,
        record: &RefCell<Record>,
    ) {
        let mut request = Request::new(Asked {
            sleep_ms: self.sleep_ms,
            spin_us: self.spin_us,
        });
        let dice = mixed(due.number);
        if !self.timeout_ms.is_empty() {
            let which = (dice >> 32) as usize % self.timeout_ms.len();
            request.set_timeout(Duration::from_millis(self.timeout_ms[which]));
        }
        let answer = client.work(request).await;
        let code = answer.err().map_or(tonic::Code::Ok, |status| status.code());
        if due.at >= begin {
            let (due, now) = (due.at - begin, begin.elapsed());
            let mut record = record.borrow_mut();
            record.ended(self.priority_of(dice % 100), due, now, End::of(code));
        }
    }

    /// Of a number below a hundred.
    fn priority_of(&self, dice: u64) -> u8 {
        let mut above = 0;
        let of = self.priority.iter().find(|(_, percent)| {
            above += percent;
            dice < above
        });
        of.map_or(0, |(priority, _)| *priority)
    }
}
