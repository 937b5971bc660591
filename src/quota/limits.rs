//! Which limits apply to a tenant, and over which periods is a resource counted?
//!
//! Guarantees: an answer is never older than the last invalidation that this backend has received; a change to
//! `_tenancy.quotas` or `_tenancy.quota_periods` sends one to every backend.
//! Reads both directly (`pg::scan`), so their columns have fixed places; a test checks it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::thread::LocalKey;

use crate::error::Error;
use crate::period::{PERIODS, Period, Span};
use crate::pg::{
    self,
    scan::{Cached, Relations},
};
use crate::registry;
use crate::resource::Resource;
use crate::tenant::TenantId;
use crate::usage::{Interval, Maximums};

/// A limit over a period.
#[derive(Clone, Copy, Default)]
struct Limit {
    maximum: Option<i64>,
    soft: Option<i64>,
}

/// The limits that apply to a tenant.
pub struct Limits {
    pub maximums: Maximums,
    /// The soft ones, in the order of the maximums.
    soft: Vec<Option<i64>>,
    /// The periods other than `PERIODS`, in that order.
    others: Rc<[Other]>,
}

impl Limits {
    /// The name of the period at a place among the maximums; none for good.
    pub fn period(&self, place: usize) -> Option<&str> {
        match place.checked_sub(PERIODS.len()) {
            Some(n) => self.others.get(n).map(|other| other.period.as_str()),
            None => (place != Period::Standing as usize).then(|| PERIODS[place].as_str()),
        }
    }

    /// The soft limit there.
    pub fn soft(&self, place: usize) -> Option<i64> {
        self.soft.get(place).copied().flatten()
    }
}

/// A period other than `PERIODS` over which a resource is counted.
#[derive(Clone)]
pub struct Other {
    pub interval: Interval,
    pub period: String,
}

// The columns of _tenancy.quotas.
const PERIOD: i32 = 4;
const MAX_AMOUNT: i32 = 5;
const SOFT_LIMIT: i32 = 6;
const INTERVAL_ID: i32 = 7;

/// Limits kept per backend; past this it starts afresh.
const CACHED: usize = 16_384;

/// Whose limits, and of what.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Name(TenantId, Resource);

/// Something as it was at a generation of the quotas and one of the registry.
#[derive(Clone)]
struct Known<T> {
    generations: (u64, u64),
    value: T,
}

thread_local! {
    static LIMITS: RefCell<HashMap<Name, Known<Rc<Limits>>>> = RefCell::new(HashMap::new());
    /// The one that was asked for last.
    static LAST: RefCell<Option<(Name, Known<Rc<Limits>>)>> = const { RefCell::new(None) };
    static OTHERS: RefCell<HashMap<Resource, Known<Rc<[Other]>>>> = RefCell::new(HashMap::new());
    static QUOTAS: Cached = const { Cached::new(c"quotas", c"quotas_pkey") };
    static SPANS: Cached = const { Cached::new(c"quota_periods", c"quota_periods_pkey") };
}

pub fn init() {
    pg::inval::listen(|changed| {
        QUOTAS.with(|table| table.note(changed));
        SPANS.with(|table| table.note(changed));
    });
}

/// Changes whenever any limit or period may have.
pub fn generation() -> u64 {
    // Neither ever falls.
    QUOTAS.with(Cached::generation) + SPANS.with(Cached::generation)
}

fn relations(of: &'static LocalKey<Cached>) -> Relations {
    of.with(Cached::relations).unwrap_or_else(|| Error::NotInstalled.raise())
}

/// The limits that apply to a tenant.
pub fn of(tenant: &TenantId, resource: &Resource) -> Rc<Limits> {
    let name = Name(*tenant, *resource);
    let generations = (generation(), registry::generation());
    let is_current = |known: &Known<Rc<Limits>>| known.generations == generations;
    let last = LAST.with_borrow(|last| match last {
        Some((last, known)) if is_current(known) && *last == name => Some(known.value.clone()),
        _ => None,
    });
    if let Some(limits) = last {
        return limits;
    }
    let known = LIMITS.with_borrow(|limits| limits.get(&name).filter(|known| is_current(known)).cloned());
    let known = known.unwrap_or_else(|| {
        // As of the generations before the read: what arrives during it makes this answer outdated at once.
        let known = Known { generations, value: Rc::new(read(tenant, resource, generations.0)) };
        LIMITS.with_borrow_mut(|limits| {
            if limits.len() >= CACHED {
                limits.clear();
            }
            limits.insert(name, known.clone());
        });
        known
    });
    LAST.set(Some((name, known.clone())));
    known.value
}

fn read(tenant: &TenantId, resource: &Resource, generation: u64) -> Limits {
    let quotas = relations(&QUOTAS);
    // Quotas before periods: each quota comes and goes with its period, so a period that is not there is of a quota that has
    // been removed meanwhile, which is news that makes this answer outdated.
    let mut standard: [Option<Limit>; 4] = [None; 4];
    let mut over: Vec<(i64, Limit)> = Vec::new();
    let mut add = |scope: &[u8], name: &[u8]| {
        pg::scan::rows(quotas, &[scope, name, resource.as_bytes()], |row| {
            let limit = Limit { maximum: row.bigint(MAX_AMOUNT), soft: row.bigint(SOFT_LIMIT) };
            let period = row.text(PERIOD).and_then(|period| Period::parse(&period.to_utf8()));
            match (period, row.bigint(INTERVAL_ID)) {
                (Some(period), None) => {
                    standard[period as usize].get_or_insert(limit);
                }
                (None, Some(id)) if over.iter().all(|(known, _)| *known != id) => over.push((id, limit)),
                (None, Some(_)) => {}
                // A period that this library does not know must not pass for no limit.
                _ => Error::Internal("quota with an unknown period").raise(),
            }
        });
    };
    add(b"tenant", tenant.as_bytes());
    if let Some(plan) = registry::plan(tenant) {
        add(b"plan", plan.as_bytes());
    }
    add(b"default", b"");
    let standard = standard.map(Option::unwrap_or_default);
    let others = others(resource);
    let limit_over = |other: &Other| {
        over.iter().find(|(id, _)| *id == other.interval.id).map_or_else(Limit::default, |(_, limit)| *limit)
    };
    Limits {
        maximums: Maximums {
            standard: standard.map(|limit| limit.maximum),
            others: others.iter().map(|other| (other.interval, limit_over(other).maximum)).collect(),
            generation,
        },
        soft: standard
            .iter()
            .map(|limit| limit.soft)
            .chain(others.iter().map(|other| limit_over(other).soft))
            .collect(),
        others,
    }
}

/// The periods other than `PERIODS` over which a resource is counted, for every tenant.
pub fn others(resource: &Resource) -> Rc<[Other]> {
    let generations = (generation(), 0);
    let known = OTHERS.with_borrow(|others| {
        others.get(resource).filter(|known| known.generations == generations).map(|known| known.value.clone())
    });
    known.unwrap_or_else(|| {
        let read = pg::scan::rows(relations(&SPANS), &[resource.as_bytes()], |row| {
            let span = row.bigint(3).and_then(Span::new);
            let (Some(period), Some(span), Some(id)) = (row.text(2), span, row.bigint(4)) else {
                Error::Internal("period without a length").raise()
            };
            Other { interval: Interval { id, span }, period: period.to_utf8().into_owned() }
        });
        let value: Rc<[Other]> = read.into();
        OTHERS.with_borrow_mut(|others| {
            if others.len() >= CACHED {
                others.clear();
            }
            others.insert(*resource, Known { generations, value: value.clone() });
        });
        value
    })
}
