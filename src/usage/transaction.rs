//! What a transaction has charged, what it has reserved for that, and what becomes of both when it or one of its savepoints
//! ends.

use std::array::from_fn;
use std::collections::HashMap;

use super::cells::{self, Amount};
use super::{Interval, Key, Level, Levels, Note, Refused, ledger};
use crate::period::{Moment, Period};
use crate::pg::{
    shmem::Place,
    xact::{self, Event},
};

/// What this transaction has charged over a period, and the reservation that covers it.
#[derive(Clone, Copy, Default)]
pub struct Hold {
    pub since: Moment,
    pub charged: i64,
    pub held: i64,
}

/// Charges in the same periods: one entry of the ledger for what was added, one for what was removed.
#[derive(Clone, Copy)]
struct Charges {
    /// When the last of these periods began.
    since: Moment,
    at: Moment,
    added: i64,
    removed: i64,
}

/// A charge that has an entry of its own.
pub struct Detail {
    pub at: Moment,
    pub amount: i64,
    pub note: Note,
}

/// How the key is counted in this transaction.
#[derive(Clone, Copy)]
pub enum Counter {
    Cell(Place),
    /// By the row of its total, and what was used when that was locked, at a nesting level.
    Row(Option<([Amount; 4], i32)>),
    /// By nothing any more: the subtransaction that chose the row, and with it all that was charged, was rolled back, and its
    /// locks are gone.
    Lost,
}

/// What a rollback to a savepoint restores.
#[derive(Clone, Default)]
pub struct State {
    pub holds: [Hold; 4],
    charges: Vec<Charges>,
    pub details: usize,
    /// Of an interval's key: what was charged before is counted.
    pub is_joined: bool,
}

pub struct Pending {
    pub key: Key,
    pub counter: Counter,
    /// The nesting level at which that was chosen.
    pub counted_at: i32,
    pub state: State,
    pub details: Vec<Detail>,
    /// The deepest level at which `state` was saved.
    pub saved_at: i32,
    pub has_warned: bool,
    /// The transaction's number, once a cell knows it as prepared.
    pub prepared_as: Option<u32>,
}

struct Saved {
    level: i32,
    pending: usize,
    saved_before: i32,
    state: State,
}

#[derive(Default)]
pub struct Transaction {
    pub pending: Vec<Pending>,
    /// Where a key is among what is pending; not kept while that is quicker looked through.
    index: HashMap<Key, usize>,
    saved: Vec<Saved>,
    /// Keys that were counted by the row of their total, whether or not they still are.
    pub by_row: usize,
    /// The ledger's entries are written: what is charged after that would be lost.
    pub is_written: bool,
    /// That of the intervals, if each charge was made under the same: then what is charged is counted over all of them.
    pub generation: Option<u64>,
}

pub const TOP: i32 = 1;
/// Up to this number of keys, looking through them is quicker than an index.
const FEW: usize = 8;

impl State {
    pub fn note(&mut self, since: Moment, at: Moment, amount: i64) {
        let same = self.charges.iter_mut().find(|charges| charges.since == since);
        let charges = match same {
            Some(charges) => charges,
            None => {
                self.charges.push(Charges { since, at, added: 0, removed: 0 });
                let last = self.charges.len() - 1;
                &mut self.charges[last]
            }
        };
        charges.added = charges.added.saturating_add(amount.max(0));
        charges.removed = charges.removed.saturating_add(amount.min(0).saturating_neg());
    }
}

/// What is to be taken, for good and in each period. What is removed makes room for good, and not in a period: it was not used
/// in this one.
pub struct Ask {
    /// For how much there must be room.
    pub keep: [i64; 2],
    /// How much of it is charged.
    pub charge: [i64; 2],
}

/// The holds after taking what is asked for, on counters that stand at `amounts`; with what has to be reserved besides.
fn advanced(key: &Key, holds: &[Hold; 4], amounts: &[Amount; 4], ask: &Ask) -> ([Hold; 4], [i64; 4]) {
    let mut extra = [0; 4];
    let mut after = *holds;
    for (place, hold) in after.iter_mut().enumerate().filter(|(place, _)| key.counts_at(*place)) {
        if hold.since != amounts[place].since {
            *hold = Hold { since: amounts[place].since, ..Hold::default() };
        }
        let (keep, charge) = (ask.keep[place.min(1)], ask.charge[place.min(1)]);
        extra[place] = hold.charged.saturating_add(keep).saturating_sub(hold.held).max(0);
        hold.held = hold.held.saturating_add(extra[place]);
        hold.charged = hold.charged.saturating_add(charge);
    }
    (after, extra)
}

/// The most that is counted, where nothing is limited: far enough from the end of the numbers that sums do not reach it.
const CEILING: i64 = i64::MAX / 4;

fn refusal(current: &[i64; 4], extra: &[i64; 4], maximums: &[Option<i64>; 4]) -> Option<Refused> {
    (0..4).find_map(|place| {
        let (current, extra) = (current[place], extra[place]);
        let maximum = maximums[place].map_or(CEILING, |maximum| maximum.min(CEILING));
        let passes = extra > 0 && current.saturating_add(extra) > maximum;
        passes.then_some(Refused { place, current, maximum })
    })
}

/// Reserves what is asked for at a cell, or refuses it; returns the holds after it, and the levels.
pub fn reserve(
    key: &Key,
    holds: &[Hold; 4],
    cell: &mut cells::Cell,
    ask: &Ask,
    maximums: &[Option<i64>; 4],
    starts: &[Moment; 4],
) -> Result<([Hold; 4], Levels), Refused> {
    cell.advance(starts);
    let before = cell.amounts.map(|amount| amount.total());
    let (after, extra) = advanced(key, holds, &cell.amounts, ask);
    if let Some(refused) = refusal(&before, &extra, maximums) {
        return Err(refused);
    }
    for (amount, extra) in cell.amounts.iter_mut().zip(extra) {
        amount.reserved = amount.reserved.saturating_add(extra);
    }
    Ok((after, levels(before, cell.amounts.map(|amount| amount.total()))))
}

fn levels(before: [i64; 4], after: [i64; 4]) -> Levels {
    from_fn(|n| Level { before: before[n], after: after[n] })
}

impl Pending {
    pub fn new(key: &Key, counter: Counter) -> Pending {
        Pending {
            key: *key,
            counter,
            counted_at: xact::level(),
            state: State::default(),
            details: Vec::new(),
            saved_at: TOP,
            has_warned: false,
            prepared_as: None,
        }
    }

    /// Reserves what is asked for, or refuses it.
    pub fn take(
        &mut self,
        ask: &Ask,
        maximums: &[Option<i64>; 4],
        base: &[Amount; 4],
        now: Moment,
    ) -> Result<Levels, Refused> {
        let (key, holds) = (&self.key, self.state.holds);
        let (after, levels) = match self.counter {
            Counter::Cell(place) => {
                let starts = key.starts(now);
                cells::with(place, |cell| reserve(key, &holds, cell, ask, maximums, &starts))?
            }
            Counter::Row(_) | Counter::Lost => {
                let (after, extra) = advanced(key, &holds, base, ask);
                let total: [i64; 4] = from_fn(|n| base[n].used.saturating_add(after[n].held));
                let before: [i64; 4] = from_fn(|n| total[n].saturating_sub(extra[n]));
                if let Some(refused) = refusal(&before, &extra, maximums) {
                    return Err(refused);
                }
                (after, levels(before, total))
            }
        };
        self.state.holds = after;
        Ok(levels)
    }

    pub fn has_entries(&self) -> bool {
        !self.state.charges.is_empty() || self.state.details > 0
    }

    /// What was used since then.
    fn used_since(&self, start: Moment) -> i64 {
        let merged = self.state.charges.iter().map(|charges| (charges.at, charges.added));
        let details = self.details.iter().take(self.state.details);
        let uses = details.filter(|detail| !matches!(detail.note, Note::Correction));
        let uses = merged.chain(uses.map(|detail| (detail.at, detail.amount.max(0))));
        uses.filter(|(at, _)| *at >= start).fold(0, |sum, (_, amount)| sum.saturating_add(amount))
    }

    pub fn entries(&self) -> Vec<ledger::Entry> {
        let entry = |amount, at, note| ledger::Entry { key: self.key, amount, at, note };
        let mut entries = Vec::new();
        for charges in &self.state.charges {
            for amount in [charges.added, charges.removed.saturating_neg()] {
                if amount != 0 {
                    entries.push(entry(amount, charges.at, Note::Merged));
                }
            }
        }
        let details = self.details.iter().take(self.state.details);
        entries.extend(details.map(|detail| entry(detail.amount, detail.at, detail.note.clone())));
        entries
    }

    /// Notes at the cell what is charged, for the time between PREPARE and the end. False where no more can be pending there.
    pub fn prepare(&mut self, cell: Place, id: u32) -> bool {
        // No more is held than what is charged: nothing can be rolled back in part any more.
        let mut state = self.state.clone();
        state.holds.iter_mut().for_each(|hold| hold.held = hold.charged.max(0));
        self.restore(state);
        let holds = &self.state.holds;
        let is_noted =
            cells::prepare(cell, id, holds[Period::Hour as usize].since, holds.map(|hold| hold.charged));
        self.prepared_as = is_noted.then_some(id);
        is_noted
    }

    /// Goes back to an earlier state, and gives back what was reserved since.
    fn restore(&mut self, mut state: State) {
        if let Counter::Cell(place) = self.counter {
            let now = self.state.holds;
            cells::with(place, |cell| {
                for (n, hold) in state.holds.iter_mut().enumerate() {
                    // A reservation of a period that has ended went with it.
                    if hold.since != now[n].since {
                        *hold = Hold { since: now[n].since, ..Hold::default() };
                    }
                    if cell.amounts[n].since == now[n].since {
                        cell.amounts[n].reserved -= now[n].held - hold.held;
                    }
                }
            });
        }
        self.state = state;
    }
}

impl Transaction {
    pub fn find(&self, key: &Key) -> Option<usize> {
        if self.pending.len() <= FEW {
            self.pending.iter().position(|pending| pending.key == *key)
        } else {
            self.index.get(key).copied()
        }
    }

    /// What is pending for `PERIODS`.
    pub fn standard(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().filter(|pending| pending.key.interval.is_none())
    }

    /// What was used since the start of an interval's period, if that is not counted over it yet.
    pub fn missing_over(&self, key: &Key, interval: Interval, start: Moment) -> i64 {
        let over = self.find(&key.over(interval));
        let is_joined = over.is_some_and(|place| self.pending[place].state.is_joined);
        let standard = self.find(key).filter(|_| !is_joined);
        standard.map_or(0, |place| self.pending[place].used_since(start))
    }

    /// Looks at nothing where there is none, as usually: subtransactions can be many, and keys as well.
    fn counted_by_row(&mut self) -> impl Iterator<Item = &mut Pending> {
        let candidates = if self.by_row > 0 { self.pending.as_mut_slice() } else { &mut [] };
        candidates.iter_mut().filter(|pending| matches!(pending.counter, Counter::Row(_)))
    }

    /// Enters a key; returns its place. Nothing here raises.
    pub fn enter(&mut self, key: &Key, counter: Counter) -> usize {
        self.pending.push(Pending::new(key, counter));
        self.note_last();
        self.pending.len() - 1
    }

    /// Enters the last key, and all before it when they have become many.
    fn note_last(&mut self) {
        let count = self.pending.len();
        if count > FEW {
            let first = if self.index.is_empty() { 0 } else { count - 1 };
            for place in first..count {
                self.index.insert(self.pending[place].key, place);
            }
        }
    }

    /// Saves the state of what is about to change, if the current subtransaction has not.
    pub fn save(&mut self, place: usize) {
        let level = xact::level();
        let pending = &mut self.pending[place];
        if pending.saved_at < level {
            self.saved.push(Saved {
                level,
                pending: place,
                saved_before: pending.saved_at,
                state: pending.state.clone(),
            });
            pending.saved_at = level;
        }
    }

    /// What the subtransaction has done is its parent's now.
    pub fn sub_committed(&mut self, level: i32) {
        let parent = level - 1;
        let first = self.saved.iter().rposition(|saved| saved.level < level).map_or(0, |last| last + 1);
        let mut kept = first;
        for place in first..self.saved.len() {
            let saved = &mut self.saved[place];
            self.pending[saved.pending].saved_at = parent.max(TOP);
            // The parent goes back further, where it has saved a state of its own; the outermost never goes back.
            if parent > TOP && saved.saved_before < parent {
                saved.level = parent;
                self.saved.swap(kept, place);
                kept += 1;
            }
        }
        self.saved.truncate(kept);
        for pending in self.counted_by_row() {
            pending.counted_at = pending.counted_at.min(parent.max(TOP));
            if let Counter::Row(Some((_, locked_at))) = &mut pending.counter {
                *locked_at = (*locked_at).min(parent.max(TOP));
            }
        }
    }

    pub fn sub_aborted(&mut self, level: i32) {
        while self.saved.last().is_some_and(|saved| saved.level >= level) {
            let Some(saved) = self.saved.pop() else { break };
            let pending = &mut self.pending[saved.pending];
            pending.restore(saved.state);
            pending.saved_at = saved.saved_before;
        }
        for pending in self.counted_by_row() {
            // The locks went with the subtransaction that took them.
            if pending.counted_at >= level {
                pending.counter = Counter::Lost;
            } else if matches!(pending.counter, Counter::Row(Some((_, locked_at))) if locked_at >= level) {
                pending.counter = Counter::Row(None);
            }
        }
    }

    pub fn note_generation(&mut self, generation: u64) {
        let is_same = self.pending.is_empty() || self.generation == Some(generation);
        self.generation = is_same.then_some(generation);
    }

    /// Ends the transaction, and makes ready for the next.
    pub fn end(&mut self, event: Event) {
        for pending in &self.pending {
            let Counter::Cell(place) = pending.counter else { continue };
            let holds = pending.state.holds;
            let since = holds.map(|hold| hold.since);
            match (event, pending.prepared_as) {
                (Event::Prepared, _) => {}
                (Event::Aborted, Some(id)) => cells::roll_back_prepared(place, id),
                _ => cells::unpin(place, |cell| {
                    let (charged, held) = (holds.map(|hold| hold.charged), holds.map(|hold| hold.held));
                    cell.end(&since, &charged, &held, event == Event::Committed);
                }),
            }
        }
        if self.pending.len() > FEW {
            *self = Transaction::default();
        } else {
            self.pending.clear();
            self.index.clear();
            self.saved.clear();
            (self.by_row, self.is_written, self.generation) = (0, false, None);
        }
    }
}
