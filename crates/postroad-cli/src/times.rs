//! Times as they are typed.

use std::time::Duration;

/// The longest time that a flag takes: a longer one is a slip of the keyboard.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Reads a time as people write it, such as `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text);
    let time = time.map_err(|error| format!("{error}; write 250ms, 5s, 2m"))?;
    if time > LONGEST {
        Err("at most a day".to_owned())
    } else {
        Ok(time)
    }
}
