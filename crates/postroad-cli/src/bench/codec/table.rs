//! The codecs for people.

use super::super::args;
use super::Row;
use crate::terminal::say;

pub(super) fn print(rows: &[Row], bench: &args::Codec) {
    say(format_args!(
        "medians of {} runs of {:?}; ± is the middle half of the runs; MB is 10^6 encoded bytes",
        bench.runs, bench.time
    ));
    let mut last = "";
    for row in rows {
        if row.value != last {
            last = row.value;
            say(format_args!("\n{last}"));
            say(format_args!(
                "  {:<12} {:>7} {:>12} {:>6} {:>9} {:>12} {:>6} {:>9}",
                "codec", "bytes", "encode ns", "±", "MB/s", "decode ns", "±", "MB/s"
            ));
        }
        let (encode, decode) = (&row.encode, &row.decode);
        say(format_args!(
            "  {:<12} {:>7} {:>12.1} {:>6} {:>9.0} {:>12.1} {:>6} {:>9.0}",
            row.codec,
            row.bytes,
            encode.ns,
            format!("{:.1}%", encode.spread * 100.0),
            encode.mb_per_second,
            decode.ns,
            format!("{:.1}%", decode.spread * 100.0),
            decode.mb_per_second,
        ));
    }
    say("\n`packet` has no fields of its own: each value lays them out by hand, as devices do.");
}
