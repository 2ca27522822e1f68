//! What the payload codecs cost, in bytes and in time.

mod samples;
mod table;

use std::fmt::Debug;
use std::hint::black_box;
use std::time::{Duration, Instant};

use postroad::Bytes;
#[cfg(feature = "avro")]
use postroad::codec::Avro;
use postroad::codec::CodecError;
#[cfg(feature = "protobuf")]
use postroad::codec::Protobuf;
use postroad::codec::{Codec, Json, MsgPack, PacketCodec};
use serde::Serialize;

use crate::error::Error;
use crate::statistics::{median, spread};
use samples::{Call, Document, Reading, Sample, Tick};
pub use table::text;

/// What every codec of this build makes of every value: `runs` measurements of each, whose median
/// counts, each as long as `time`.
///
/// # Errors
///
/// [`Error::Broken`] if a codec reads another value than it wrote.
pub fn contest_all(runs: u32, time: Duration) -> Result<Vec<Row>, Error> {
    let mut contests = [
        contest::<Call>()?,
        contest::<Tick>()?,
        contest::<Reading>()?,
        contest::<Document>()?,
    ];
    // Every codec has its turn before any has its next, so that what disturbs the machine for a
    // while disturbs all of them.
    let mut entries: Vec<&mut Entry> = contests
        .iter_mut()
        .flat_map(|(_, entries)| entries)
        .collect();
    entries.iter_mut().for_each(|entry| entry.calibrate(time));
    for _ in 0..runs {
        entries.iter_mut().for_each(|entry| entry.turn());
    }
    let rows = contests
        .iter()
        .flat_map(|(value, entries)| entries.iter().map(|entry| entry.row(value)));
    Ok(rows.collect())
}

/// What one codec made of one value.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the value.
    pub value: &'static str,
    /// Name of the codec.
    pub codec: &'static str,
    /// Length of the encoded value.
    pub bytes: usize,
    /// What encoding it costs.
    pub encode: Speed,
    /// What decoding it costs.
    pub decode: Speed,
}

/// The cost of one operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    /// The median of all runs.
    pub ns: f64,
    /// How far the middle half of the runs reaches to either side of it, as a share.
    pub spread: f64,
    /// Encoded bytes, in millions a second.
    pub mb_per_second: f64,
}

impl Speed {
    fn of(runs: &[f64], bytes: usize) -> Self {
        let ns = median(runs);
        Self {
            ns,
            spread: spread(runs),
            mb_per_second: bytes as f64 / ns * 1e3,
        }
    }
}

/// An operation that is timed: how long so many of it take.
struct Operation {
    time: Box<dyn FnMut(u64) -> Duration>,
    /// How many make a run.
    count: u64,
    /// Nanoseconds of one, a run each.
    runs: Vec<f64>,
}

impl Operation {
    fn new(mut operation: impl FnMut() + 'static) -> Self {
        let time = move |count| {
            let start = Instant::now();
            (0..count).for_each(|_| operation());
            start.elapsed()
        };
        Self {
            time: Box::new(time),
            count: 1,
            runs: Vec::new(),
        }
    }

    /// Finds how many fill a run; this warms up too.
    fn calibrate(&mut self, run: Duration) {
        loop {
            let took = (self.time)(self.count);
            if took >= run / 2 {
                let fill = run.as_secs_f64() / took.as_secs_f64();
                self.count = ((self.count as f64 * fill) as u64).max(1);
                return;
            }
            self.count *= 2;
        }
    }

    fn turn(&mut self) {
        let took = (self.time)(self.count);
        self.runs.push(took.as_nanos() as f64 / self.count as f64);
    }
}

/// A codec and a value.
struct Entry {
    codec: &'static str,
    bytes: usize,
    encode: Operation,
    decode: Operation,
}

impl Entry {
    /// Checks first that what the codec writes it reads.
    fn new<T, C>(name: &'static str, codec: C) -> Result<Self, Error>
    where
        T: Sample,
        C: Codec<T> + Clone + 'static,
    {
        let value = T::sample();
        let fail = |why: &dyn Debug| Error::Broken(format!("{name}: {why:?}"));
        let bytes = codec.encode(&value).map_err(|error| fail(&error))?;
        if codec.decode(&bytes).map_err(|error| fail(&error))? != value {
            return Err(fail(&"it reads another value than it wrote"));
        }
        let (encoder, encoded) = (codec.clone(), bytes.clone());
        Ok(Self {
            codec: name,
            bytes: bytes.len(),
            encode: Operation::new(move || {
                let _ = black_box(encoder.encode(black_box(&value)));
            }),
            decode: Operation::new(move || {
                let _ = black_box(codec.decode(black_box(&encoded)));
            }),
        })
    }

    fn calibrate(&mut self, run: Duration) {
        self.encode.calibrate(run);
        self.decode.calibrate(run);
    }

    fn turn(&mut self) {
        self.encode.turn();
        self.decode.turn();
    }

    fn row(&self, value: &'static str) -> Row {
        Row {
            value,
            codec: self.codec,
            bytes: self.bytes,
            encode: Speed::of(&self.encode.runs, self.bytes),
            decode: Speed::of(&self.decode.runs, self.bytes),
        }
    }
}

/// All codecs of this build with one value.
fn contest<T: Sample>() -> Result<(&'static str, Vec<Entry>), Error> {
    let entries = vec![
        Entry::new::<T, _>("JSON", Json(()))?,
        Entry::new::<T, _>("MessagePack", MsgPack(()))?,
        #[cfg(feature = "protobuf")]
        Entry::new::<T, _>("Protobuf", Protobuf(()))?,
        #[cfg(feature = "avro")]
        Entry::new::<T, _>("Avro", avro(T::SCHEMA)?)?,
        Entry::new::<T, _>("packet", Fields)?,
    ];
    Ok((T::NAME, entries))
}

#[cfg(feature = "avro")]
fn avro(schema: &str) -> Result<Avro, Error> {
    Avro::new(schema).map_err(|error| Error::Broken(error.to_string()))
}

/// `packet` knows no fields: the value lays its own out, as a device's program does.
#[derive(Clone, Copy)]
struct Fields;

impl<T: Sample> Codec<T> for Fields {
    fn number(&self) -> u8 {
        Codec::number(&PacketCodec)
    }

    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        PacketCodec.encode(&value.to_packet())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        let packet = PacketCodec.decode(bytes)?;
        T::from_packet(&packet).ok_or_else(|| CodecError {
            codec: "packet",
            detail: "the fields do not fill the payload".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_reads_back_every_value_and_is_timed() {
        let contests = [
            contest::<Call>(),
            contest::<Tick>(),
            contest::<Reading>(),
            contest::<Document>(),
        ];
        for contest in contests {
            let (value, mut entries) = contest.expect("every codec has a form for it");
            let count =
                3 + usize::from(cfg!(feature = "protobuf")) + usize::from(cfg!(feature = "avro"));
            assert_eq!(entries.len(), count);
            for entry in &mut entries {
                entry.calibrate(Duration::from_micros(10));
                entry.turn();
                let row = entry.row(value);
                assert!(row.encode.ns > 0.0 && row.decode.ns > 0.0, "{row:?}");
            }
        }
    }

    #[test]
    fn sizes_are_what_the_formats_say() {
        let (_, entries) = contest::<Call>().expect("every codec has a form for it");
        let size = |codec| {
            entries
                .iter()
                .find(|entry| entry.codec == codec)
                .map(|entry| entry.bytes)
        };
        let json = r#"{"id":4711,"at":1790000000123,"item":"A-100-77","count":3}"#;
        assert_eq!(size("JSON"), Some(json.len()));
        // Head, count and the text's bytes.
        assert_eq!(size("packet"), Some(16 + 4 + 8));
        // Tags, and varints of two, six and one byte; a text of eight.
        #[cfg(feature = "protobuf")]
        assert_eq!(size("Protobuf"), Some(3 + 7 + 10 + 2));
        // Zigzag varints of two, six and one byte; a text of eight with its length.
        #[cfg(feature = "avro")]
        assert_eq!(size("Avro"), Some(2 + 6 + 9 + 1));
    }
}
