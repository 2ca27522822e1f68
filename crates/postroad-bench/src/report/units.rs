//! Numbers as people read them: three digits and a unit.

/// Three significant digits.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.995 || size == 0.0 => 2,
        size => (2.0 - size.log10().floor()).min(6.0) as usize,
    };
    format!("{value:.places$}")
}

/// The largest unit that the value fills, with what is left of it.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // What is rounded up to a thousand belongs to the next unit.
    let fits = |(size, _): &&(f64, &str)| value.abs() >= size * 0.9995;
    let unit = units.iter().find(fits).or(units.last());
    unit.map_or_else(String::new, |(size, name)| {
        format!("{} {name}", digits(value / size))
    })
}

/// Nanoseconds.
pub(crate) fn time(ns: f64) -> String {
    if ns == 0.0 {
        return "0".to_owned();
    }
    scaled(ns, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")])
}

/// The same for the ends of a scale: a round number has no zeros after the point.
pub(crate) fn round_time(ns: f64) -> String {
    time(ns).replace(".00 ", " ").replace(".0 ", " ")
}

/// What calls carry: sizes in bytes, or the name of a file.
pub(crate) fn payload(size: &str) -> String {
    let is_size = size
        .chars()
        .all(|each| each.is_ascii_digit() || ",:%.".contains(each));
    if is_size {
        format!("{size} B")
    } else {
        size.to_owned()
    }
}

pub(crate) fn bytes(bytes: f64) -> String {
    let units = [
        (1_073_741_824.0, "GiB"),
        (1_048_576.0, "MiB"),
        (1_024.0, "KiB"),
        (1.0, "B"),
    ];
    scaled(bytes, &units)
}

/// A whole number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// One thing, or several.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// A number that may be large: whole from a hundred on.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 99.95 {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}{}", count(value.abs().round() as u64))
    } else {
        let text = digits(value);
        let short = text.trim_end_matches('0').trim_end_matches('.');
        short.to_owned()
    }
}

/// A share of one, signed on request.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

/// A percentile from its share: 99.9 %.
pub(crate) fn percentile(share: f64) -> String {
    let text = format!("{:.5}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_the_unit_that_fits() {
        assert_eq!(time(0.0), "0");
        assert_eq!(time(850.0), "850 ns");
        assert_eq!(time(12_345.0), "12.3 µs");
        assert_eq!(time(999_960.0), "1.00 ms");
        assert_eq!(time(2.5e9), "2.50 s");
        assert_eq!(
            (round_time(1e7), round_time(2.5e9)),
            ("10 ms".into(), "2.50 s".into())
        );
        assert_eq!(bytes(3.0 * 1_048_576.0), "3.00 MiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(counted(1, "connection"), "1 connection");
        assert_eq!(counted(1200, "caller"), "1,200 callers");
        assert_eq!(number(12_345.6), "12,346");
        assert_eq!((number(0.5).as_str(), number(0.0).as_str()), ("0.5", "0"));
        assert_eq!(
            (number(0.0004), number(0.000_45)),
            ("0.0004".into(), "0.00045".into())
        );
        assert_eq!(percent(0.051), "5.1 %");
        assert_eq!(percentile(0.999), "99.9 %");
        assert_eq!(percentile(0.5), "50 %");
    }
}
