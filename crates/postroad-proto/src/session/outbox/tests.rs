//! The bounds that the queues keep: what waits for whom, and that the least urgent still moves.

use super::*;
use bytes::BytesMut;

use crate::frame::{Frame, FrameDecoder};

fn request(priority: u8, id: u32) -> Head {
    Head::new(Kind::Request).with_class(priority).with_id(id)
}

fn next_frames(outbox: &mut Outbox) -> Vec<Frame> {
    next_frames_of(outbox, false)
}

fn next_frames_of(outbox: &mut Outbox, checksum: bool) -> Vec<Frame> {
    let (mut out, mut frames) = (Vec::new(), Vec::new());
    outbox.transmit(&mut out);
    let mut out = BytesMut::from(&out[..]);
    let decoder = FrameDecoder {
        max_body: 1 << 20,
        checksum,
    };
    while let Some(frame) = decoder.decode(&mut out).unwrap() {
        frames.push(frame);
    }
    assert!(out.is_empty(), "a transmit ends at a frame's end");
    frames
}

#[test]
fn an_urgent_message_waits_for_at_most_one_fragment_m_026() {
    let mut outbox = Outbox::new(false);
    outbox.push(request(1, 1), &[], &Bytes::from(vec![0; 1 << 20]));
    assert_eq!(next_frames(&mut outbox).len(), 2);
    outbox.push(request(7, 2), &[], &Bytes::from_static(b"urgent"));
    assert_eq!(next_frames(&mut outbox)[0].head.id(), 2);
}

#[test]
fn what_is_less_urgent_is_not_waited_for() {
    let mut outbox = Outbox::new(true);
    let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![0; 100_000]));
    for (priority, payload) in [(2, &large), (2, &small), (5, &small), (5, &large)] {
        outbox.push(request(priority, u32::from(priority)), &[], payload);
    }
    let all = outbox.len();
    assert_eq!((outbox.len_before(6), outbox.len_before(0)), (0, all));
    let urgent = outbox.len_before(3);
    assert!(
        (100_000..all - 100_000).contains(&urgent),
        "{urgent} of {all}"
    );
    outbox.forget_answer(5);
    assert_eq!(outbox.len_before(3), urgent - 100_000);
    outbox.push_control(Head::new(Kind::Ping), b"");
    assert!(outbox.len_before(7) > 0, "control goes before everything");
    while outbox.transmit(&mut Vec::new()) {}
    assert_eq!((outbox.len_before(0), outbox.len()), (0, 0));
}

#[test]
fn the_least_urgent_moves_although_the_most_urgent_never_ends() {
    let mut outbox = Outbox::new(false);
    outbox.push(request(0, 1), &[], &Bytes::from_static(b"patient"));
    let urgent = Bytes::from(vec![0; FRAGMENT_BYTES]);
    for turn in 0..=2 * STARVATION_TURNS {
        for id in 2..5 {
            outbox.push(request(7, id), &[], &urgent);
        }
        if next_frames(&mut outbox)
            .iter()
            .any(|frame| frame.head.id() == 1)
        {
            assert!(turn <= STARVATION_TURNS + 1);
            return;
        }
    }
    panic!("class 0 starved");
}

/// How many less urgent bytes leave before each of the frames of priority 7, at most.
fn worst_wait(outbox: &mut Outbox, urgent: usize) -> usize {
    let (mut worst, mut since, mut left) = (0, 0, urgent);
    while left > 0 {
        for frame in next_frames(outbox) {
            if frame.head.priority() == 7 {
                (worst, since, left) = (worst.max(since), 0, left - 1);
            } else {
                since += frame.body.len() + 16;
            }
        }
    }
    worst
}

#[test]
fn a_frame_that_does_not_fit_is_not_overtaken_by_less_urgent_ones_m_026() {
    let mut outbox = Outbox::new(false);
    for id in 0..50 {
        outbox.push(request(7, id), &[], &Bytes::from(vec![0; 12_000]));
    }
    for id in 0..10_000 {
        outbox.push(request(0, 100 + id), &[], &Bytes::from(vec![0; 100]));
    }
    assert!(worst_wait(&mut outbox, 50) <= 116, "but for a starved one");
}

#[test]
fn an_urgent_frame_waits_for_one_fragment_though_many_classes_starve_m_026() {
    let mut outbox = Outbox::new(false);
    for class in 0..7 {
        for id in 0..40 {
            outbox.push(
                request(class, id),
                &[],
                &Bytes::from(vec![0; FRAGMENT_BYTES]),
            );
        }
    }
    for id in 0..200 {
        outbox.push(request(7, id), &[], &Bytes::from(vec![0; 12_000]));
    }
    assert!(worst_wait(&mut outbox, 200) <= FRAGMENT_BYTES + TRANSMIT_EXTRA);
}

#[test]
fn what_goes_behind_everything_does() {
    let mut outbox = Outbox::new(false);
    outbox.push_behind(Head::new(Kind::Pong), b"");
    outbox.push(request(0, 1), &[], &Bytes::from(vec![0; 100_000]));
    outbox.push(request(7, 2), &[], &Bytes::from_static(b"urgent"));
    let mut kinds = Vec::new();
    while outbox.has_output() {
        kinds.extend(
            next_frames(&mut outbox)
                .iter()
                .map(|frame| frame.head.kind()),
        );
    }
    assert_eq!(kinds.last(), Some(&(Kind::Pong as u8)));
    assert_eq!((kinds.len(), outbox.len()), (9, 0));
}

#[test]
fn one_way_messages_of_a_priority_keep_their_order_around_a_large_one_m_027() {
    let mut outbox = Outbox::new(false);
    let one_way = |id| Head::new(Kind::OneWay).with_id(id);
    outbox.push(one_way(1), &[], &Bytes::from(vec![0; 5 * FRAGMENT_BYTES]));
    outbox.push(one_way(2), &[], &Bytes::from_static(b"behind"));
    outbox.push(
        request(0, 3),
        &[],
        &Bytes::from_static(b"a call may overtake"),
    );
    let mut ends = Vec::new();
    for _ in 0..20 {
        let frames = next_frames(&mut outbox);
        ends.extend(
            frames
                .iter()
                .filter(|f| !f.head.has_more())
                .map(|f| f.head.id()),
        );
    }
    assert_eq!(ends, [3, 1, 2]);
    assert_eq!(outbox.len(), 0);
}

#[test]
fn a_queue_that_is_never_empty_does_not_keep_what_was_taken() {
    let mut outbox = Outbox::new(true);
    let held = |outbox: &Outbox| {
        let Some(class) = outbox
            .queues
            .as_ref()
            .and_then(|all| all.classes[3].as_ref())
        else {
            return 0;
        };
        let small = &class.small;
        let chunks = small.full.iter().chain([&small.last, &small.spare]);
        chunks.map(Vec::capacity).sum::<usize>()
    };
    let body = Bytes::from(vec![0; 1000]);
    let mut position = Position::default();
    for id in 0..20_000 {
        position = outbox.push(request(3, id), &[], &body);
        if outbox.len() > 100_000 {
            outbox.transmit(&mut Vec::new());
            assert!(outbox.len() > 0, "it is never empty");
        }
    }
    assert!(held(&outbox) <= 300_000, "{}", held(&outbox));
    assert!(
        outbox.withdraw(position, 19_999),
        "and still knows where its frames are"
    );
    while outbox.transmit(&mut Vec::new()) {}
    assert!(
        held(&outbox) <= 4 * (FRAGMENT_BYTES + TRANSMIT_EXTRA),
        "{}",
        held(&outbox)
    );
    outbox.release_memory();
    assert_eq!(held(&outbox), 0);
    assert!(!outbox.withdraw(position, 19_999), "it is gone");
}

#[test]
fn a_starved_class_gives_one_frame_though_it_has_no_other() {
    let mut outbox = Outbox::new(true);
    outbox.push(request(0, 1), &[], &Bytes::from_static(b"alone"));
    outbox.push(request(7, 2), &[], &Bytes::from(vec![0; 1 << 20]));
    let mut transmits = 0;
    while outbox.busy & 1 != 0 {
        assert!(outbox.transmit(&mut Vec::new()));
        transmits += 1;
    }
    assert!((STARVATION_TURNS..=STARVATION_TURNS + 1).contains(&transmits));
}

#[test]
fn frames_leave_in_their_order_whatever_the_room() {
    let mut outbox = Outbox::new(false);
    let (mut pushed, mut taken) = (0, 0);
    for turn in 0..200 {
        for size in [0, 7, 5_000, 100, FRAGMENT_BYTES - 100] {
            outbox.push(request(2, pushed), &[], &Bytes::from(vec![0; size]));
            pushed += 1;
        }
        if turn % 3 == 0 {
            // Something more urgent takes part of the room, so that chunks are cut.
            let urgent = Bytes::from(vec![0; 300 * (turn % 7 + 1)]);
            outbox.push(request(6, u32::MAX), &[], &urgent);
        }
        for _ in 0..=turn % 4 {
            for frame in next_frames(&mut outbox) {
                if frame.head.id() != u32::MAX {
                    assert_eq!(frame.head.id(), taken);
                    taken += 1;
                }
            }
        }
    }
    while outbox.has_output() {
        taken += next_frames(&mut outbox).len() as u32;
    }
    assert_eq!((taken, outbox.len()), (pushed, 0));
}

#[test]
fn queues_are_given_back_when_they_are_empty_and_only_then() {
    let mut outbox = Outbox::new(true);
    outbox.push(request(3, 1), &[], &Bytes::from_static(b"waits"));
    outbox.release_memory();
    assert_eq!(next_frames_of(&mut outbox, true).len(), 1);
    outbox.release_memory();
    assert!(outbox.queues.is_none());
}

#[test]
fn a_call_can_be_taken_back_until_its_first_byte_is_taken() {
    for checksum in [false, true] {
        let mut outbox = Outbox::new(checksum);
        let first = outbox.push(request(3, 1), &[], &Bytes::from_static(b"x"));
        let large = outbox.push(request(3, 2), &[], &Bytes::from(vec![0; 1 << 20]));
        outbox.transmit(&mut Vec::new());
        outbox.push(request(3, 3), &[], &Bytes::from_static(b"before"));
        let small = outbox.push(request(3, 4), &[], &Bytes::from_static(b"taken back"));
        outbox.push(request(3, 5), &[], &Bytes::from_static(b"behind"));
        let whole = outbox.push(request(3, 6), &[], &Bytes::from(vec![0; 1 << 20]));
        assert!(!outbox.withdraw(first, 1) && !outbox.withdraw(large, 2));
        assert!(outbox.withdraw(small, 4) && outbox.withdraw(whole, 6));
        let mut out = Vec::new();
        outbox.transmit(&mut out);
        let mut out = BytesMut::from(&out[..]);
        let decoder = FrameDecoder {
            max_body: 1 << 20,
            checksum,
        };
        let mut kinds = Vec::new();
        while let Some(frame) = decoder.decode(&mut out).unwrap() {
            kinds.push((frame.head.kind(), frame.head.id()));
        }
        assert_eq!(
            kinds,
            [(0x10, 3), (0x90, 4), (0x10, 5)],
            "the middle one is skipped"
        );
        assert_eq!(outbox.len(), 0);
    }
}
