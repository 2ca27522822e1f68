//! The work that is offered, and the servers that it is offered to.

/// Loads as multiples of the capacity. The most important tenth of ten times is all of it.
pub(crate) const LOADS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 10.0];
/// Share of each priority, per cent, the most important first.
pub(crate) const PRIORITIES: [(u8, u64); 3] = [(7, 10), (4, 45), (1, 45)];
/// Deadlines of half of the calls each, milliseconds.
pub(crate) const DEADLINES: [u64; 2] = [100, 500];

/// What a handler does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    SleepMs(u64),
    SpinUs(u64),
}

/// Work of a capacity that the server's settings bound.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    /// Handlers at once. Of a handler that spins there is one at a time anyway, on one thread.
    pub(crate) concurrency: usize,
    /// The largest load that the generators can offer beside the server.
    pub(crate) load_max: f64,
}

pub(crate) static CASES: [Case; 4] = [
    Case {
        name: "sleep 1 ms",
        work: Work::SleepMs(1),
        concurrency: 4,
        load_max: 10.0,
    },
    Case {
        name: "sleep 50 ms",
        work: Work::SleepMs(50),
        concurrency: 50,
        load_max: 10.0,
    },
    Case {
        name: "spin 500 us",
        work: Work::SpinUs(500),
        concurrency: 16,
        load_max: 10.0,
    },
    Case {
        name: "spin 20 us",
        work: Work::SpinUs(20),
        concurrency: 16,
        load_max: 1.0,
    },
];

impl Case {
    pub(crate) fn loads(&self) -> impl Iterator<Item = f64> {
        LOADS.into_iter().filter(|load| *load <= self.load_max)
    }

    /// Callers whose closed loop finds out the capacity: they keep all handlers busy.
    pub(crate) fn callers(&self) -> usize {
        self.concurrency * 2
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum System {
    /// As it is by default, with a limit for the route.
    Postroad,
    /// Nothing is shed, and all priorities are one.
    Off,
    Tonic,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Postroad, Self::Off, Self::Tonic];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postroad => "Postroad",
            Self::Off => "Postroad, off",
            Self::Tonic => "tonic",
        }
    }

    pub(crate) fn colour(self) -> &'static str {
        match self {
            Self::Postroad => "#d9622b",
            Self::Off => "#b8a04a",
            Self::Tonic => "#6c9bc9",
        }
    }
}
