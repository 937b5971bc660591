//! What the client's own statements take, what becomes of their transactions, and which errors they end with.
//!
//! Measured at the steps that `running` tells of: a statement inside another is part of it; those of DO and CALL are the client's. What is
//! measured is kept for the tenant that the statement ran for until the transaction ends, and then given away, once.

use std::ffi::c_int;
use std::ptr::addr_of_mut;
use std::time::Instant;

use pgrx::{pg_sys, prelude::*};

use super::xact::{self, Event};
use crate::tenant::TenantId;

/// Classes of SQLSTATE that are told apart.
const CLASSES: usize = 8;

/// How many errors there were of each class of SQLSTATE, of the first of them that there were; and of all others.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Errors {
    classes: [([u8; 2], i64); CLASSES],
    pub others: i64,
}

impl Errors {
    fn add(&mut self, class: [u8; 2], count: i64) {
        let found = self.classes.iter_mut().find(|(its, known)| *its == class || *known == 0);
        match found {
            Some(place) => *place = (class, place.1 + count),
            None => self.others += count,
        }
    }

    /// Each class with its errors.
    pub fn classes(&self) -> impl Iterator<Item = (&str, i64)> {
        let known = self.classes.iter().filter(|(_, count)| *count > 0);
        known.map(|(class, count)| (std::str::from_utf8(class).unwrap_or(""), *count))
    }

    pub fn total(&self) -> i64 {
        self.classes().map(|(_, count)| count).sum::<i64>() + self.others
    }
}

/// What was measured.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Measures {
    pub statements: i64,
    pub rows: i64,
    /// Microseconds.
    pub time: i64,
    pub blocks_hit: i64,
    pub blocks_read: i64,
    pub wal_bytes: i64,
    pub committed: i64,
    pub rolled_back: i64,
    pub errors: Errors,
    /// Refusals of ours: of a quota, and of a context.
    pub quota_refusals: i64,
    pub refused_contexts: i64,
}

impl Measures {
    pub const EMPTY: Measures = Measures {
        statements: 0,
        rows: 0,
        time: 0,
        blocks_hit: 0,
        blocks_read: 0,
        wal_bytes: 0,
        committed: 0,
        rolled_back: 0,
        errors: Errors { classes: [([0; 2], 0); CLASSES], others: 0 },
        quota_refusals: 0,
        refused_contexts: 0,
    };

    pub fn add(&mut self, other: &Measures) {
        self.statements += other.statements;
        self.rows += other.rows;
        self.time += other.time;
        self.blocks_hit += other.blocks_hit;
        self.blocks_read += other.blocks_read;
        self.wal_bytes += other.wal_bytes;
        self.committed += other.committed;
        self.rolled_back += other.rolled_back;
        for (class, count) in other.errors.classes.into_iter().filter(|(_, count)| *count > 0) {
            self.errors.add(class, count);
        }
        self.errors.others += other.errors.others;
        self.quota_refusals += other.quota_refusals;
        self.refused_contexts += other.refused_contexts;
    }
}

#[derive(Clone, Copy)]
pub struct Judges {
    /// Whether there is a place for what is measured.
    pub is_on: fn() -> bool,
    /// For whom a statement runs that has just ended, or failed; the tenant that it was the last time is passed.
    pub whose: fn(Option<&TenantId>) -> Option<TenantId>,
    /// Is given what was measured. Must neither raise nor read from the database: the transaction is over.
    pub take: fn(Option<&TenantId>, &Measures),
}

/// What PostgreSQL counts for this process.
#[derive(Clone, Copy)]
struct Counters {
    blocks_hit: i64,
    blocks_read: i64,
    wal_bytes: i64,
}

impl Counters {
    fn now() -> Counters {
        // SAFETY: plain reads of backend-local integers.
        unsafe {
            Counters {
                blocks_hit: pg_sys::pgBufferUsage.shared_blks_hit,
                blocks_read: pg_sys::pgBufferUsage.shared_blks_read,
                wal_bytes: pg_sys::pgWalUsage.wal_bytes as i64,
            }
        }
    }
}

/// What is being measured: for whom, and since when.
struct Collector {
    tenant: Option<TenantId>,
    measures: Measures,
    before: Option<Counters>,
    /// The query that was run last; only compared.
    running: *const pg_sys::QueryDesc,
}

static mut JUDGES: Option<Judges> = None;
static mut PREVIOUS: pg_sys::emit_log_hook_type = None;
static mut COLLECTOR: Collector =
    Collector { tenant: None, measures: Measures::EMPTY, before: None, running: std::ptr::null() };

/// Begins to measure. Called once, when the library is loaded.
pub fn init(judges: Judges) {
    // SAFETY: a backend is single-threaded.
    unsafe {
        JUDGES = Some(judges);
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit_log);
    }
    xact::listen(|event| match event {
        Event::Committed | Event::Prepared => end(|measures| measures.committed = 1),
        Event::Aborted => end(|measures| measures.rolled_back = 1),
        _ => {}
    });
}

/// Whether anything is measured here: in a process that serves a client, of a server that has a place for it.
#[inline]
fn judges() -> Option<Judges> {
    // SAFETY: written at load; a plain read besides.
    unsafe { JUDGES.filter(|judges| super::has_client() && (judges.is_on)()) }
}

/// The state, which is backend-local; nothing that holds on to it calls PostgreSQL.
fn collector() -> &'static mut Collector {
    // SAFETY: a backend is single-threaded, and each caller in this file is done with it before another gets it.
    unsafe { &mut *addr_of_mut!(COLLECTOR) }
}

/// A step of the client's own statement, from its begin to its end; an error on the way leaves it out.
pub struct Step(Option<Instant>);

impl Step {
    /// Notes that a step begins at a depth; only the outermost are measured.
    #[inline]
    pub fn begin(depth: usize) -> Step {
        if depth > 0 || judges().is_none() {
            return Step(None);
        }
        let collector = collector();
        if collector.before.is_none() {
            collector.before = Some(Counters::now());
        }
        Step(Some(Instant::now()))
    }

    /// Notes that a run of a query has ended, with so many rows. What runs while no portal does is not the client's: checks that were
    /// deferred until the transaction commits.
    #[inline]
    pub fn end_run(self, query: *const pg_sys::QueryDesc, rows: u64) {
        if self.0.is_some() && super::portal::active().is_some() {
            collector().running = query;
            self.end(0, rows);
        }
    }

    /// Notes that a query has been finished. It is a statement if it was run as one: what a cursor reads was counted with FETCH.
    #[inline]
    pub fn end_query(self, query: *const pg_sys::QueryDesc) {
        if self.0.is_some() {
            let was_run = std::mem::replace(&mut collector().running, std::ptr::null()) == query;
            self.end(i64::from(was_run), 0);
        }
    }

    /// Notes that a command has ended, with so many rows.
    #[inline]
    pub fn end_command(self, rows: u64) {
        self.end(1, rows);
    }

    #[inline]
    fn end(self, statements: i64, rows: u64) {
        let Some(began) = self.0 else { return };
        let elapsed = began.elapsed().as_nanos() as i64;
        measure(|measures| {
            measures.statements += statements;
            measures.rows += rows as i64;
            // In nanoseconds until the transaction ends: most steps take less than a microsecond more or less.
            measures.time += elapsed;
        });
    }
}

/// Measures for whom a statement runs now.
fn measure(change: impl FnOnce(&mut Measures)) {
    let Some(judges) = judges() else { return };
    let tenant = (judges.whose)(collector().tenant.as_ref());
    if tenant != collector().tenant {
        give(judges);
        collector().tenant = tenant;
    }
    let collector = collector();
    if collector.before.is_none() {
        collector.before = Some(Counters::now());
    }
    change(&mut collector.measures);
}

/// Notes that something was refused.
pub fn note_refusal(is_of_quota: bool) {
    measure(|measures| {
        let place = if is_of_quota { &mut measures.quota_refusals } else { &mut measures.refused_contexts };
        *place += 1;
    });
}

/// Gives away what was measured for a tenant.
fn give(judges: Judges) {
    let collector = collector();
    let Some(before) = collector.before.take() else { return };
    let now = Counters::now();
    let mut measures = std::mem::replace(&mut collector.measures, Measures::EMPTY);
    measures.time /= 1000;
    measures.blocks_hit = now.blocks_hit - before.blocks_hit;
    measures.blocks_read = now.blocks_read - before.blocks_read;
    measures.wal_bytes = now.wal_bytes - before.wal_bytes;
    (judges.take)(collector.tenant.as_ref(), &measures);
}

/// The transaction is over.
fn end(note: impl FnOnce(&mut Measures)) {
    let Some(judges) = judges() else { return };
    if collector().before.is_some() && collector().measures.is_used() {
        note(&mut collector().measures);
        give(judges);
    }
    let collector = collector();
    (collector.before, collector.measures, collector.running) = (None, Measures::EMPTY, std::ptr::null());
}

impl Measures {
    /// Whether a statement was measured, or an error.
    fn is_used(&self) -> bool {
        self.statements > 0 || self.errors.total() > 0 || self.quota_refusals > 0 || self.refused_contexts > 0
    }
}

unsafe extern "C-unwind" fn emit_log(error: *mut pg_sys::ErrorData) {
    // SAFETY: PostgreSQL's own report; a frame of plain data.
    unsafe {
        if (*error).elevel >= PgLogLevel::ERROR as c_int && !super::in_parallel_worker() {
            let character = |place: u32| (((*error).sqlerrcode >> (6 * place) & 0x3F) as u8) + b'0';
            let class = [character(0), character(1)];
            measure(|measures| measures.errors.add(class, 1));
        }
        if let Some(previous) = PREVIOUS {
            previous(error);
        }
    }
}

/// Whether a utility command counts as a statement: what begins and ends transactions and sets parameters does not.
pub unsafe fn counts(command: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the tag of a node.
    let tag = unsafe { (*command).type_ };
    !matches!(
        tag,
        T_TransactionStmt | T_VariableSetStmt | T_VariableShowStmt | T_DeallocateStmt | T_ClosePortalStmt
    )
}

/// So many rows, where a command says.
pub unsafe fn rows_of(completion: *const pg_sys::QueryCompletion) -> u64 {
    // SAFETY: null, or what the command has filled in.
    unsafe { completion.as_ref().map_or(0, |completion| completion.nprocessed) }
}
