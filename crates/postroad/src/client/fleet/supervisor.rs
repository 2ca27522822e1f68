//! The task of a fleet: follows the list, the connections, and the clock.

use std::sync::{Arc, Weak};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::ConnectionState;
use tokio::sync::{Notify, watch};

use super::roster::Roster;
use super::{Fleet, TICK};
use crate::clock;
use crate::discovery::Found;

/// How often the members' rates of success are compared; [`OutlierConfig`] says so too.
///
/// [`OutlierConfig`]: postroad_proto::policy::OutlierConfig
const SWEEP: Duration = Duration::from_secs(10);

/// How often it is looked for calls that are late, while calls are being made.
const LOOK: Duration = Duration::from_millis(25);

/// Starts the task. It ends when the client is closed or dropped.
pub(super) fn start(
    fleet: &Arc<Fleet>,
    found: watch::Receiver<Found>,
    standby: Option<watch::Receiver<Found>>,
) {
    let supervisor = Supervisor {
        news: Arc::clone(&fleet.news),
        closing: fleet.closing.subscribe(),
        fleet: Arc::downgrade(fleet),
        found,
        standby,
        next_sweep: clock::now(),
        next_probe: clock::now(),
        awake: Arc::clone(&fleet.awake),
        is_active: false,
    };
    tokio::spawn(supervisor.run());
}

/// What the task has to look after.
enum What {
    News,
    Tick,
    Look,
    List,
    End,
}

struct Supervisor {
    fleet: Weak<Fleet>,
    news: Arc<Notify>,
    closing: watch::Receiver<bool>,
    found: watch::Receiver<Found>,
    standby: Option<watch::Receiver<Found>>,
    next_sweep: Time,
    next_probe: Time,
    /// A call was made after a rest.
    awake: Arc<Notify>,
    /// Whether calls are being made, so that some may be late.
    is_active: bool,
}

impl Supervisor {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let awake = Arc::clone(&self.awake);
        self.list_changed();
        loop {
            let news = Arc::clone(&self.news);
            let news = news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if !self.states_changed() {
                return;
            }
            let what = tokio::select! {
                () = news => What::News,
                _ = tick.tick() => What::Tick,
                _ = look.tick(), if self.is_active => What::Look,
                () = awake.notified(), if !self.is_active => What::Look,
                changed = self.found.changed() => match changed {
                    Ok(()) => What::List,
                    // The follower has ended with its runtime.
                    Err(_) => What::End,
                },
                changed = changed(&mut self.standby) => match changed {
                    true => What::List,
                    // Its list stays as it is.
                    false => What::News,
                },
                _ = self.closing.wait_for(|closing| *closing) => What::End,
            };
            match what {
                What::News => {}
                What::Tick => self.tick(),
                What::Look => self.look(),
                What::List => self.list_changed(),
                What::End => return,
            }
        }
    }

    fn list_changed(&mut self) {
        let Some(fleet) = self.fleet.upgrade() else {
            return;
        };
        let primary = Arc::clone(&self.found.borrow_and_update().instances);
        let standby = self.standby.as_mut().map(|standby| {
            let found = standby.borrow_and_update();
            Arc::clone(&found.instances)
        });
        fleet.set_list(&primary, standby.as_deref().unwrap_or(&[]));
    }

    /// Tells those who watch the client's state; false if there is no client any more.
    fn states_changed(&self) -> bool {
        let Some(fleet) = self.fleet.upgrade() else {
            return false;
        };
        if fleet.is_closed() {
            return false;
        }
        let now = clock::now();
        let roster = fleet.roster.load();
        for member in &roster.members {
            member.notice_connection(now, &fleet);
        }
        let next = if roster.members.iter().any(|member| member.is_connected()) {
            ConnectionState::Connected
        } else if roster.members.iter().any(|member| !member.has_failed())
            || self.is_asking(&roster)
        {
            ConnectionState::Connecting
        } else {
            ConnectionState::Offline
        };
        fleet.state.send_if_modified(|state| {
            let is_other = *state != next;
            *state = next;
            is_other
        });
        true
    }

    /// Whether there are no servers because the source has not been heard yet.
    fn is_asking(&self, roster: &Roster) -> bool {
        let is_news = self.found.has_changed().unwrap_or(false);
        let found = self.found.borrow();
        roster.members.is_empty() && (is_news || !found.has_answered && found.trouble.is_none())
    }

    fn look(&mut self) {
        if let Some(fleet) = self.fleet.upgrade() {
            self.is_active = fleet.look_for_late_calls(clock::now());
        }
    }

    fn tick(&mut self) {
        let Some(fleet) = self.fleet.upgrade() else {
            return;
        };
        let now = clock::now();
        fleet.look_after_pool(now);
        if let Some(ejector) = &fleet.ejector
            && now >= self.next_sweep
        {
            self.next_sweep = now + SWEEP;
            fleet.sweep(ejector, now);
        }
        if let Some(health) = &fleet.policies.health
            && now >= self.next_probe
        {
            self.next_probe = now + health.every;
            fleet.probe_all(health);
        }
    }
}

/// Ready when a list that there may be has changed; false, once, if it never will again.
async fn changed(list: &mut Option<watch::Receiver<Found>>) -> bool {
    let Some(followed) = list else {
        return std::future::pending().await;
    };
    let has_changed = followed.changed().await.is_ok();
    if !has_changed {
        *list = None;
    }
    has_changed
}
