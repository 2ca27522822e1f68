//! The codecs for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::Row;

/// What [`contest_all`](super::contest_all) found, as a table for a terminal.
pub fn text(rows: &[Row], runs: u32, time: Duration) -> String {
    let mut out = format!(
        "medians of {runs} runs of {time:?}; ± is the middle half of the runs; MB is 10^6 encoded \
         bytes\n"
    );
    let mut last = "";
    for row in rows {
        if row.value != last {
            last = row.value;
            let _ = writeln!(out, "\n{last}");
            let _ = writeln!(
                out,
                "  {:<12} {:>7} {:>12} {:>6} {:>9} {:>12} {:>6} {:>9}",
                "codec", "bytes", "encode ns", "±", "MB/s", "decode ns", "±", "MB/s"
            );
        }
        let (encode, decode) = (&row.encode, &row.decode);
        let _ = writeln!(
            out,
            "  {:<12} {:>7} {:>12.1} {:>6} {:>9.0} {:>12.1} {:>6} {:>9.0}",
            row.codec,
            row.bytes,
            encode.ns,
            format!("{:.1}%", encode.spread * 100.0),
            encode.mb_per_second,
            decode.ns,
            format!("{:.1}%", decode.spread * 100.0),
            decode.mb_per_second,
        );
    }
    out + "\n`packet` has no fields of its own: each value lays them out by hand, as devices do."
}
