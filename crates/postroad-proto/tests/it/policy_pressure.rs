//! Both sliding windows: when a server reads less, and when it refuses.

use postroad_proto::Time;
use postroad_proto::policy::{Pressure, PressureConfig, PressureState};

use crate::policy::{MS, SECOND};

const START: u64 = 1_000 * SECOND;

/// A server of 1,000 places that is asked 200 times a second from `from` to `to` milliseconds.
fn ask(pressure: &Pressure, from: u64, to: u64, in_hand: usize) {
    for ms in (from..to).step_by(5) {
        pressure.note(Time(START + ms * MS), in_hand, 1_000);
    }
}

fn state(pressure: &Pressure, ms: u64) -> PressureState {
    pressure.state(Time(START + ms * MS))
}

/// When it first asks for this while so many are in hand from the beginning, milliseconds.
fn first(in_hand: usize, wanted: PressureState) -> Option<u64> {
    let pressure = Pressure::new(PressureConfig::default());
    (0..20_000).step_by(10).find(|ms| {
        ask(&pressure, *ms, ms + 10, in_hand);
        state(&pressure, *ms) >= wanted
    })
}

#[test]
fn a_second_over_80_percent_slows_down_and_five_over_90_refuse() {
    assert_eq!(first(800, PressureState::SlowDown), None);
    let slowed = first(1_000, PressureState::SlowDown).expect("it slows down");
    assert!((800..=1_000).contains(&slowed), "{slowed}");
    assert_eq!(first(900, PressureState::Refuse), None);
    assert!(first(900, PressureState::SlowDown).is_some());
    let refused = first(1_000, PressureState::Refuse).expect("it refuses");
    assert!((4_000..=5_000).contains(&refused), "{refused}");
    assert!(
        first(2_000, PressureState::Refuse).is_some(),
        "more than there may be"
    );
}

#[test]
fn what_is_critical_is_never_refused() {
    let pressure = Pressure::new(PressureConfig::default());
    ask(&pressure, 0, 6_000, 1_000);
    let now = Time(START + 6_000 * MS);
    let admitted: Vec<u8> = (0..8)
        .filter(|level| pressure.admits(now, *level))
        .collect();
    assert_eq!(admitted, [6, 7]);
    let calm = Pressure::new(PressureConfig::default());
    assert!((0..8).all(|level| calm.admits(now, level)));
}

#[test]
fn it_is_calm_again_soon_after_the_load_has_fallen() {
    let pressure = Pressure::new(PressureConfig::default());
    ask(&pressure, 0, 6_000, 1_000);
    assert_eq!(state(&pressure, 5_999), PressureState::Refuse);
    ask(&pressure, 6_000, 8_000, 500);
    assert_eq!(state(&pressure, 7_999), PressureState::Calm);
    // To whom nobody comes is idle.
    let left = Pressure::new(PressureConfig::default());
    ask(&left, 0, 6_000, 1_000);
    assert_eq!(state(&left, 7_000), PressureState::Calm);
    assert_eq!(
        left.state(Time(SECOND)),
        PressureState::Calm,
        "a clock that went back"
    );
}

#[test]
fn a_burst_of_many_requests_is_no_pressure() {
    let pressure = Pressure::new(PressureConfig::default());
    ask(&pressure, 0, 10_000, 300);
    for n in 0..100_000 {
        pressure.note(Time(START + 9_500 * MS + n * 1_000), 1_000, 1_000);
    }
    ask(&pressure, 9_600, 10_000, 300);
    assert_eq!(state(&pressure, 9_999), PressureState::Calm);
}

#[test]
fn without_any_place_every_request_is_one_too_many() {
    let pressure = Pressure::new(PressureConfig::default());
    for ms in 0..6_000 {
        pressure.note(Time(START + ms * MS), 1, 0);
    }
    assert_eq!(state(&pressure, 5_999), PressureState::Refuse);
}
