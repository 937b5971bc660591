//! In which hour, day and month does a moment fall?
//!
//! Periods are those of UTC, so that they do not depend on who asks. Pure: tested without a server.

/// Microseconds since 2000-01-01 UTC, as PostgreSQL counts them.
pub type Moment = i64;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH: i64 = 10_957;

/// What a quota is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// For good: what is there now.
    Standing,
    Hour,
    Day,
    Month,
}

/// Every period, each at the place that `Period as usize` gives.
pub const PERIODS: [Period; 4] = [Period::Standing, Period::Hour, Period::Day, Period::Month];

impl Period {
    pub fn parse(name: &str) -> Option<Period> {
        PERIODS.into_iter().find(|period| period.as_str() == name)
    }

    /// The name that the table of quotas holds.
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Standing => "",
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
        }
    }

    /// When the period that holds this moment began; zero for the standing one, which has no beginning.
    pub fn start(self, at: Moment) -> Moment {
        match self {
            Period::Standing => 0,
            Period::Hour => at.div_euclid(HOUR) * HOUR,
            Period::Day => at.div_euclid(DAY) * DAY,
            Period::Month => {
                let day = at.div_euclid(DAY);
                (day - (day_of_month(day + EPOCH) - 1)) * DAY
            }
        }
    }
}

/// The starts of all periods that hold this moment.
pub fn starts(at: Moment) -> [Moment; 4] {
    PERIODS.map(|period| period.start(at))
}

/// The day of the month, from 1, of a day counted from 1970-01-01. The calendar is the proleptic Gregorian one, whose
/// years are counted from March so that the leap day is their last: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn day_of_month(day: i64) -> i64 {
    let shifted = day + 719_468;
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn months_begin_on_their_first_day() {
        // 2000-02-29 12:00, 2026-11-24 23:59:59.999999, 1999-12-31 00:00, each with the first of its month.
        for (days, first) in [(59, 31), (9_824, 9_801), (-1, -31)] {
            assert_eq!(Period::Month.start(days * DAY + HOUR), first * DAY, "{days}");
        }
        assert_eq!(day_of_month(EPOCH), 1);
    }

    #[test]
    fn names_are_read_back() {
        for (place, period) in PERIODS.into_iter().enumerate() {
            assert_eq!(Period::parse(period.as_str()), Some(period));
            assert_eq!(period as usize, place);
        }
        assert_eq!(Period::parse("week"), None);
    }

    proptest! {
        #[test]
        fn a_period_holds_its_moment(at in -4_000_000_000_000_000i64..40_000_000_000_000_000) {
            let [_, hour, day, month] = starts(at);
            prop_assert!(hour <= at && at < hour + HOUR);
            prop_assert!(day <= hour && hour < day + DAY);
            prop_assert!(month <= day && day < month + 31 * DAY);
            prop_assert_eq!(day_of_month(month.div_euclid(DAY) + EPOCH), 1);
            prop_assert_eq!(Period::Month.start(month), month);
        }
    }
}
