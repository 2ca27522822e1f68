//! What is recorded of each call, and in which interval.

use postroad::CallError;

use super::*;

const MILLI: u64 = 1_000_000;
/// When the measurement begins.
const START: u64 = 1000 * MILLI;
const SENT: Sent = Sent {
    bytes: 10,
    priority: 3,
};

fn recorder() -> Recorder {
    let times = [START, 1000 * MILLI, 100 * MILLI].map(Duration::from_nanos);
    let [start, duration, interval] = times;
    Recorder::new(start, duration, interval, true)
}

fn total(chunks: &[Chunk]) -> Chunk {
    let mut total = Chunk::new(0);
    chunks.iter().for_each(|chunk| total.add(chunk));
    total
}

#[test]
fn what_is_due_in_the_measured_time_counts_where_it_ends() {
    let recorder = recorder();
    let answer: Result<_, CallError> = Ok(Bytes::from_static(b"abc"));
    let warming = START - MILLI;
    recorder.ended(warming, START + MILLI, SENT, &answer);
    recorder.ended(START, START + 250 * MILLI, SENT, &answer);
    recorder.ended(START + 999 * MILLI, START + 1200 * MILLI, SENT, &answer);
    recorder.ended(START + 1000 * MILLI, START + 1300 * MILLI, SENT, &answer);
    let chunks = recorder.rest(START + 1300 * MILLI);
    let answered: Vec<_> = chunks.iter().map(Chunk::answered).collect();
    assert_eq!(answered, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let total = total(&chunks);
    assert_eq!((total.sent_bytes, total.received_bytes), (20, 6));
    assert_eq!(
        total.until,
        Duration::from_millis(1200),
        "until the last that counts"
    );
    assert_eq!(total.priorities[&3].latency.len(), 2);
}

#[test]
fn who_waits_is_known_by_the_interval_in_which_the_call_was_due() {
    let recorder = recorder();
    let at = |millis: u64| START + millis * MILLI;
    for (due, now) in [(10, 10), (20, 20), (150, 150), (160, 250)] {
        recorder.due(at(due), at(now));
    }
    recorder.answered(at(20), at(260), SENT, 0);
    recorder.answered(at(150), at(310), SENT, 0);
    let chunks = recorder.rest(at(350));
    let waiting: Vec<Vec<_>> = chunks
        .iter()
        .map(|chunk| chunk.waiting.clone().into_iter().collect())
        .collect();
    assert_eq!(
        waiting,
        [
            vec![(0, 2)],
            vec![(0, 2), (1, 1)],
            vec![(0, 1), (1, 2)],
            vec![(0, 1), (1, 1)],
        ]
    );
}

#[test]
fn a_failure_is_no_answer_and_does_not_make_the_measured_time_longer() {
    let recorder = recorder();
    let late = CallError::Deadline {
        timeout: Duration::from_secs(3),
        sent: true,
    };
    recorder.answered(START, START + 1200 * MILLI, SENT, 0);
    recorder.ended(START, START + 3000 * MILLI, SENT, &Err(late));
    let total = total(&recorder.rest(START + 3000 * MILLI));
    assert_eq!(total.until, Duration::from_millis(1200));
    assert_eq!(total.ended, Duration::from_millis(3000));
}

#[test]
fn silence_is_how_long_calls_waited_since_the_last_answer() {
    let (answer, failure) = (
        Ok(Bytes::new()),
        Err(CallError::Deadline {
            timeout: Duration::from_secs(3),
            sent: true,
        }),
    );
    let at = |millis: u64| START + millis * MILLI;
    let silence = |calls: &[(u64, u64, bool)], end: u64| {
        let recorder = recorder();
        for (due, ended, is_answered) in calls {
            recorder.due(at(*due), at(*due));
            if *ended > 0 {
                let result = if *is_answered { &answer } else { &failure };
                recorder.ended(at(*due), at(*ended), SENT, result);
            }
        }
        let silence = total(&recorder.rest(at(end))).silence;
        (silence.time.as_millis(), silence.since.as_millis())
    };
    // Nobody waits between calls.
    assert_eq!(silence(&[(10, 15, true), (500, 508, true)], 900), (8, 500));
    // Failures are no answers, and only the waiting counts.
    let failing = [(10, 11, true), (20, 70, false), (200, 240, false)];
    assert_eq!(silence(&failing, 900), (90, 20));
    // Who still waits at the end has waited until then.
    assert_eq!(silence(&[(10, 11, true), (20, 0, true)], 900), (880, 20));
    assert_eq!(silence(&[], 900), (0, 0));
}

#[test]
fn so_many_codes_are_told_apart_and_no_call_is_forgotten() {
    let mut errors = BTreeMap::new();
    for number in 0..1000 {
        add_error(&mut errors, &format!("SRV-E-{number}"), 1);
    }
    assert_eq!((errors.len(), errors["other codes"]), (65, 936));
    assert_eq!(errors.values().sum::<u64>(), 1000);
}

#[test]
fn each_code_keeps_one_reason_in_words() {
    let recorder = recorder();
    for text in ["a line\nwith a newline in it", "another reason"] {
        let failed: Result<Bytes, _> = Err(CallError::Unsendable(text.to_owned()));
        recorder.ended(START, START + MILLI, SENT, &failed);
    }
    let total = total(&recorder.rest(START + 2 * MILLI));
    assert_eq!(total.errors["CLI-E-400"], 2);
    assert_eq!(total.priorities[&3].errors["CLI-E-400"], 2);
    assert_eq!(total.examples["CLI-E-400"], "a line\\nwith a newline in it");
    assert!(one_line(&"x".repeat(1000)).len() < 200);
}

#[test]
fn what_the_client_refuses_was_not_sent() {
    let recorder = recorder();
    let refused = Err(CallError::Busy("65536 calls are in flight".to_owned()));
    recorder.ended(START, START + MILLI, SENT, &refused);
    let total = total(&recorder.rest(START + 2 * MILLI));
    assert_eq!((total.not_sent, total.refused, total.failed()), (1, 1, 1));
    assert!(total.errors.is_empty(), "the server has not failed");
    let share = &total.priorities[&3];
    assert!(share.failed == 1 && share.errors.is_empty());
}

#[test]
fn intervals_have_no_holes_and_the_last_may_be_short() {
    let recorder = recorder();
    recorder.due(START, START);
    assert!(recorder.next_finished(START + 99 * MILLI).is_none());
    let next = || recorder.next_finished(START + 310 * MILLI);
    let finished: Vec<_> = std::iter::from_fn(next).collect();
    let seen: Vec<_> = finished
        .iter()
        .map(|chunk| (chunk.number, chunk.due))
        .collect();
    assert_eq!(seen, [(0, 1), (1, 0), (2, 0)]);
    let rest = recorder.rest(START + 350 * MILLI);
    assert_eq!((rest.len(), rest[0].number), (1, 3));
    assert_eq!(rest[0].until, Duration::from_millis(350));
}

#[test]
fn a_load_of_whole_intervals_has_no_empty_one_behind_it() {
    assert_eq!(recorder().rest(START + 5000 * MILLI).len(), 10);
}

#[test]
fn chunks_add_up_exactly_and_survive_the_wire() {
    let (one, two, both) = (recorder(), recorder(), recorder());
    for number in 1..2000_u32 {
        let now = START + u64::from(number) * MILLI / 3;
        let result = if number.is_multiple_of(7) {
            Err(CallError::Deadline {
                timeout: Duration::from_millis(1),
                sent: true,
            })
        } else {
            Ok(Bytes::new())
        };
        let half = if number.is_multiple_of(2) { &one } else { &two };
        for recorder in [half, &both] {
            recorder.ended(START, now, SENT, &result);
        }
    }
    let end = START + 1000 * MILLI;
    let wire = serde_json::to_string(&one.rest(end)).unwrap();
    let mut sum = total(&serde_json::from_str::<Vec<Chunk>>(&wire).unwrap());
    sum.add(&total(&two.rest(end)));
    let both = total(&both.rest(end));
    assert_eq!(sum.latency, both.latency);
    assert_eq!(sum.errors, both.errors);
    assert_eq!(sum.failed(), 285);
    assert_eq!(sum.priorities[&3].failed, 285);
    assert_eq!(sum.priorities[&3].errors, both.errors);
}
