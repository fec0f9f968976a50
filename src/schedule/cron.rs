//! Schedules as Kubernetes reads them: the five fields and the names of `cron.ParseStandard` (robfig/cron v3). Pure.

use croner::Cron;
use croner::parser::CronParser;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// The names that stand for five fields.
const NAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One of the five fields.
struct Field {
    name: &'static str,
    lowest: u8,
    highest: u8,
    /// Words for numbers, from `lowest` on.
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", lowest: 0, highest: 59, words: &[] },
    Field { name: "hour", lowest: 0, highest: 23, words: &[] },
    Field { name: "day of the month", lowest: 1, highest: 31, words: &[] },
    Field { name: "month", lowest: 1, highest: 12, words: &MONTHS },
    Field { name: "day of the week", lowest: 0, highest: 6, words: &DAYS },
];

/// Why Kubernetes would not take a schedule, or never run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("it has {0} fields, and five are needed: minute, hour, day of the month, month, day of the week")]
    Fields(usize),
    /// A name after `@` that is none.
    #[error("there is no such name: {0}")]
    Name(String),
    /// `TZ=` or `CRON_TZ=`.
    #[error("the time zone does not belong into it")]
    Zone,
    /// A field that cannot be read.
    #[error("{field}: {why}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No day is like that.
    #[error("it never comes: there is no such day")]
    Never,
}

/// When a `CronJob` runs.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

impl Schedule {
    /// Reads a schedule; nothing is taken that the API server refuses.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if text.contains("TZ=") {
            return Err(ScheduleError::Zone);
        }
        let fields = match NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, fields)) => fields,
            None if text.starts_with('@') => return Err(ScheduleError::Name(text.to_owned())),
            None => text,
        };
        let words: Vec<&str> = fields.split_whitespace().collect();
        if words.len() != FIELDS.len() {
            return Err(ScheduleError::Fields(words.len()));
        }
        let mut plain = Vec::new();
        for (field, word) in FIELDS.iter().zip(words) {
            let values = field.read(word).map_err(|why| ScheduleError::Field { field: field.name, why })?;
            plain.push(values);
        }
        // Written out: what is a range with a step, and which days count together, is read differently elsewhere.
        let cron = CronParser::new().parse(&plain.join(" ")).map_err(|_| ScheduleError::Never)?;
        let schedule = Self { text: text.to_owned(), cron };
        // The 29th of February comes within eight years of any time.
        if schedule.next(&Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC), 1).is_empty() {
            return Err(ScheduleError::Never);
        }
        Ok(schedule)
    }

    /// The schedule as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The next times after this one, in its time zone.
    #[must_use]
    pub fn next(&self, now: &Zoned, count: usize) -> Vec<Zoned> {
        let next = |from: &Zoned| self.cron.find_next_occurrence(from, false).ok();
        std::iter::successors(next(now), next).take(count).collect()
    }
}

impl Field {
    /// The values of a field, written out; `*` for all of them.
    fn read(&self, word: &str) -> Result<String, String> {
        let mut values = Vec::new();
        for part in word.split(',') {
            match self.range(part)? {
                // As soon as one part is a star the whole field counts as one.
                None => return Ok("*".to_owned()),
                Some(range) => values.extend(range),
            }
        }
        values.sort_unstable();
        values.dedup();
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        Ok(values.join(","))
    }

    /// A number, a range or a star, with or without a step; none for a star without one.
    fn range(&self, part: &str) -> Result<Option<Vec<u8>>, String> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let is_star = range == "*" || range == "?";
        let (from, to) = match range.split_once('-') {
            _ if is_star => (self.lowest, self.highest),
            Some((from, to)) => (self.number(from)?, self.number(to)?),
            // A step goes on from a single number to the end.
            None if step.is_some() => (self.number(range)?, self.highest),
            None => (self.number(range)?, self.number(range)?),
        };
        let step = match step {
            None => 1,
            Some(step) => {
                let step = step.parse::<u8>().map_err(|_| format!("{step} is no step"))?;
                if step == 0 {
                    return Err("a step of 0".to_owned());
                }
                step
            }
        };
        if from > to {
            return Err(format!("{part} begins after its end"));
        }
        if is_star && step == 1 {
            return Ok(None);
        }
        Ok(Some((from..=to).step_by(step.into()).collect()))
    }

    fn number(&self, word: &str) -> Result<u8, String> {
        let Self { lowest, highest, words, .. } = *self;
        let named = words.iter().position(|known| known.eq_ignore_ascii_case(word));
        if let Some(number) = named.and_then(|index| u8::try_from(index).ok()) {
            return Ok(number + lowest);
        }
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| word.parse::<u8>().ok()).flatten();
        number
            .filter(|number| (lowest..=highest).contains(number))
            .ok_or_else(|| format!("{word} is not between {lowest} and {highest}"))
    }
}

/// A time zone of the IANA database, which comes with the program.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    // Kubernetes refuses "Local", and takes every name as it is spelled in the database.
    let zone = TimeZone::get(name).ok()?;
    (zone.iana_name() == Some(name)).then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, now: &str) -> Vec<String> {
        let now: Zoned = now.parse().unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(&now, 3).iter().map(|time| time.strftime("%F %H:%M %a").to_string()).collect()
    }

    #[test]
    fn what_kubernetes_takes_is_taken() {
        for schedule in [
            "0 3 * * *",
            "*/15 * * * *",
            "0 0 * * SUN",
            "0 0 * * mon-fri",
            "5,10,20-30/5 1 ? jan-MAR *",
            "10/20 * * * *",
            "@daily",
            "@midnight",
            "@yearly",
            "0 0 29 2 *",
            "  0   3 * * 0  ",
        ] {
            assert!(Schedule::parse(schedule).is_ok(), "{schedule}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for (schedule, message) in [
            (
                "0 0 3 * * *",
                "it has 6 fields, and five are needed: minute, hour, day of the month, month, day of the week",
            ),
            (
                "",
                "it has 0 fields, and five are needed: minute, hour, day of the month, month, day of the week",
            ),
            ("@dayly", "there is no such name: @dayly"),
            ("@every 1h", "there is no such name: @every 1h"),
            ("TZ=Europe/Vienna 0 3 * * *", "the time zone does not belong into it"),
            ("CRON_TZ=UTC 0 3 * * *", "the time zone does not belong into it"),
            ("0 0 L * *", "day of the month: L is not between 1 and 31"),
            ("0 0 15W * *", "day of the month: 15W is not between 1 and 31"),
            ("0 0 * * 5#2", "day of the week: 5#2 is not between 0 and 6"),
            ("0 0 * * 7", "day of the week: 7 is not between 0 and 6"),
            ("60 0 * * *", "minute: 60 is not between 0 and 59"),
            ("0 24 * * *", "hour: 24 is not between 0 and 23"),
            ("0 0 0 * *", "day of the month: 0 is not between 1 and 31"),
            ("*/0 * * * *", "minute: a step of 0"),
            ("30-10 * * * *", "minute: 30-10 begins after its end"),
            ("0 0 * * fri-mon", "day of the week: fri-mon begins after its end"),
            ("-5 * * * *", "minute:  is not between 0 and 59"),
            ("0 0 30 2 *", "it never comes: there is no such day"),
        ] {
            let error = Schedule::parse(schedule).unwrap_err();
            assert_eq!(error.to_string(), message, "{schedule}");
        }
    }

    #[test]
    fn the_next_times_are_those_of_the_controller() {
        let now = "2026-11-24T12:40:00[UTC]";
        assert_eq!(
            next("0 3 * * *", now),
            ["2026-11-25 03:00 Wed", "2026-11-26 03:00 Thu", "2026-11-27 03:00 Fri"]
        );
        assert_eq!(
            next("10/20 * * * *", now),
            ["2026-11-24 12:50 Tue", "2026-11-24 13:10 Tue", "2026-11-24 13:30 Tue"]
        );
        // Two days that are given count each; one that is a star leaves it to the other one.
        assert_eq!(
            next("0 0 1 * mon", now),
            ["2026-11-30 00:00 Mon", "2026-12-01 00:00 Tue", "2026-12-07 00:00 Mon"]
        );
        assert_eq!(
            next("0 0 */10 * mon", now),
            ["2026-11-30 00:00 Mon", "2026-12-01 00:00 Tue", "2026-12-07 00:00 Mon"]
        );
        assert_eq!(
            next("0 0 29 2 *", now),
            ["2028-02-29 00:00 Tue", "2032-02-29 00:00 Sun", "2036-02-29 00:00 Fri"]
        );
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let schedule = Schedule::parse("0 3 * * *").unwrap();
        let now = "2026-11-24T12:40:00Z".parse::<Timestamp>().unwrap();
        let next =
            |name| schedule.next(&now.to_zoned(zone(name).unwrap()), 1).remove(0).timestamp().to_string();
        assert_eq!(next("Europe/Vienna"), "2026-11-25T02:00:00Z");
        assert_eq!(next("America/New_York"), "2026-11-25T08:00:00Z");
        assert_eq!(next("Etc/UTC"), "2026-11-25T03:00:00Z");
        for name in ["", "Local", "Europe/Wien", "europe/vienna", "+01:00", "../etc/passwd"] {
            assert!(zone(name).is_none(), "{name}");
        }
    }
}
