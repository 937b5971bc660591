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
                (day - (civil(day + EPOCH).2 - 1)) * DAY
            }
        }
    }
}

/// The starts of all periods that hold this moment.
pub fn starts(at: Moment) -> [Moment; 4] {
    PERIODS.map(|period| period.start(at))
}

/// The length of a period other than those: microseconds, or months where it is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Span(i64);

impl Span {
    /// The length as the table of quotas holds it; none where there is no such.
    pub fn new(length: i64) -> Option<Span> {
        (length != 0 && length != i64::MIN).then_some(Span(length))
    }

    /// When the period that holds this moment began. Spans follow one another from the first Monday of 2000, so that weeks begin
    /// on Mondays and what divides a day begins with it; those of months from January 2000.
    pub fn start(self, at: Moment) -> Moment {
        const MONDAY: Moment = 2 * DAY;
        if self.0 > 0 {
            return (at - MONDAY).div_euclid(self.0) * self.0 + MONDAY;
        }
        let (year, month, _) = civil(at.div_euclid(DAY) + EPOCH);
        let months = (year - 2000) * 12 + month - 1;
        let first = months.div_euclid(-self.0) * -self.0;
        (first_day(2000 + first.div_euclid(12), first.rem_euclid(12) + 1) - EPOCH) * DAY
    }
}

/// The hour that begins at this moment or next.
pub fn next_hour(at: Moment) -> Moment {
    Period::Hour.start(at + HOUR - 1)
}

/// Year, month and day, the latter two from 1, of a day counted from 1970-01-01. The calendar is the proleptic Gregorian one, whose
/// years are counted from March so that the leap day is their last: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// The day, counted from 1970-01-01, on which a month begins; `days_from_civil` of the same source.
fn first_day(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * from_march + 2) / 5;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
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
        assert_eq!(civil(EPOCH), (2000, 1, 1));
        assert_eq!(first_day(2000, 3), EPOCH + 60);
    }

    #[test]
    fn spans_begin_where_people_expect() {
        let at = |days: i64, hours: i64| days * DAY + hours * HOUR;
        let span = |length| Span::new(length).expect("a length");
        // 2000-01-03 was a Monday, 2026-11-25 is a Wednesday.
        assert_eq!(span(7 * DAY).start(at(2, 0)), at(2, 0));
        assert_eq!(span(7 * DAY).start(at(1, 23)), at(-5, 0));
        assert_eq!(span(7 * DAY).start(at(9_825, 12)), at(9_823, 0));
        assert_eq!(span(HOUR / 4).start(at(9_825, 1) - 1), at(9_825, 1) - HOUR / 4);
        // Quarters: October 2026 began 9,770 days after 2000-01-01, October 1999 92 days before.
        assert_eq!(span(-3).start(at(9_825, 12)), at(9_770, 0));
        assert_eq!(span(-3).start(-1), at(-92, 0));
        assert_eq!(span(-12).start(at(59, 0)), 0);
        assert_eq!(Span::new(0), None);
        assert_eq!((next_hour(0), next_hour(1)), (0, HOUR));
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
            prop_assert_eq!(civil(month.div_euclid(DAY) + EPOCH).2, 1);
            prop_assert_eq!(Period::Month.start(month), month);
        }

        #[test]
        fn a_span_holds_its_moment(at in -4_000_000_000_000_000i64..40_000_000_000_000_000, length in 1i64..40_000, months in 1i64..40) {
            let length = length * 1_000_000;
            let start = Span(length).start(at);
            prop_assert!(start <= at && at < start + length);
            prop_assert_eq!(Span(length).start(start), start);
            let start = Span(-months).start(at);
            prop_assert!(start <= at && at < start + months * 31 * DAY);
            prop_assert_eq!(Span(-months).start(start), start);
            prop_assert_eq!(Span(-1).start(at), Period::Month.start(at));
        }

        #[test]
        fn days_and_dates_agree(day in -1_000_000i64..1_000_000) {
            let (year, month, of_month) = civil(day);
            prop_assert_eq!(first_day(year, month) + of_month - 1, day);
        }
    }
}
