//! What should be used and reserved, from the rules in the README alone: a statement reserves what it charges, a rollback gives
//! it back, a commit makes it used, and a reservation covers the most that a rollback to a savepoint can bring back.

use std::collections::HashMap;

pub const TENANTS: [&str; 3] = ["acme", "beta", "gamma"];
/// Rows of a table, which come and go, and calls, which are tracked.
pub const RESOURCES: [&str; 2] = ["items", "calls"];
/// For good, and over an interval in which nothing ends while a test runs.
pub const PERIODS: [&str; 2] = ["", "100 years"];
/// The place of the interval among them.
const INTERVAL: usize = 1;

/// A tenant, a resource and a period, by their places.
pub type Counter = (usize, usize, usize);

pub fn counters() -> impl Iterator<Item = Counter> {
    (0..TENANTS.len())
        .flat_map(|t| (0..RESOURCES.len()).flat_map(move |r| (0..PERIODS.len()).map(move |p| (t, r, p))))
}

#[derive(Clone, Copy, Default)]
pub struct Hold {
    charged: i64,
    held: i64,
}

/// What a transaction has charged and reserved, and the rows that it has added to each tenant.
#[derive(Clone, Default)]
pub struct Holds {
    of: HashMap<Counter, Hold>,
    rows: [i64; TENANTS.len()],
}

impl Holds {
    fn hold(&self, counter: Counter) -> Hold {
        self.of.get(&counter).copied().unwrap_or_default()
    }
}

/// A connection's transaction.
#[derive(Default)]
pub struct Transaction {
    pub savepoints: Vec<Holds>,
    current: Holds,
    pub has_failed: bool,
}

#[derive(Default)]
pub struct Model {
    pub connections: Vec<Option<Transaction>>,
    /// By the name of a prepared transaction.
    pub prepared: HashMap<String, Holds>,
    limits: HashMap<Counter, i64>,
    used: HashMap<Counter, i64>,
    rows: [i64; TENANTS.len()],
}

/// What a statement asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub tenant: usize,
    pub resource: usize,
    /// Negative where rows are removed.
    pub amount: i64,
    /// Only kept, as by `enforce_quota`.
    pub is_kept: bool,
}

impl Model {
    pub fn new(connections: usize) -> Model {
        Model { connections: (0..connections).map(|_| None).collect(), ..Model::default() }
    }

    pub fn used(&self, counter: Counter) -> i64 {
        self.used.get(&counter).copied().unwrap_or(0)
    }

    pub fn rows(&self, tenant: usize) -> i64 {
        self.rows[tenant]
    }

    pub fn reserved(&self, counter: Counter) -> i64 {
        let running = self.connections.iter().flatten().map(|transaction| &transaction.current);
        running.chain(self.prepared.values()).map(|holds| holds.hold(counter).held).sum()
    }

    pub fn limit(&mut self, counter: Counter, maximum: Option<i64>) {
        match maximum {
            Some(maximum) => self.limits.insert(counter, maximum),
            None => self.limits.remove(&counter),
        };
    }

    /// What is in the transaction of a connection, or would be if it began one.
    fn current(&self, connection: usize) -> Holds {
        self.connections[connection]
            .as_ref()
            .map(|transaction| transaction.current.clone())
            .unwrap_or_default()
    }

    fn asked(ask: &Ask, period: usize) -> i64 {
        if period == INTERVAL { ask.amount.max(0) } else { ask.amount }
    }

    /// Whether there is room for what is asked for.
    pub fn has_room(&self, connection: usize, ask: &Ask) -> bool {
        let holds = self.current(connection);
        (0..PERIODS.len()).all(|period| {
            let counter = (ask.tenant, ask.resource, period);
            let hold = holds.hold(counter);
            let extra = hold.charged + Model::asked(ask, period) - hold.held;
            let total = self.used(counter) + self.reserved(counter);
            extra <= 0 || self.limits.get(&counter).is_none_or(|maximum| total + extra <= *maximum)
        })
    }

    fn is_limited(&self, ask: &Ask) -> bool {
        (0..PERIODS.len()).any(|period| self.limits.contains_key(&(ask.tenant, ask.resource, period)))
    }

    /// A statement went through, outside a transaction or in one.
    pub fn take(&mut self, connection: usize, ask: &Ask) {
        let mut holds = self.current(connection);
        // Nothing is kept where nothing is limited.
        if !ask.is_kept || self.is_limited(ask) {
            for period in 0..PERIODS.len() {
                let asked = Model::asked(ask, period);
                let hold = holds.of.entry((ask.tenant, ask.resource, period)).or_default();
                hold.held = hold.held.max(hold.charged + asked);
                hold.charged += if ask.is_kept { 0 } else { asked };
            }
        }
        if ask.resource == 0 && !ask.is_kept {
            holds.rows[ask.tenant] += ask.amount;
        }
        match &mut self.connections[connection] {
            Some(transaction) => transaction.current = holds,
            None => self.commit(holds),
        }
    }

    fn commit(&mut self, holds: Holds) {
        for (counter, hold) in &holds.of {
            *self.used.entry(*counter).or_default() += hold.charged;
        }
        for (rows, added) in self.rows.iter_mut().zip(holds.rows) {
            *rows += added;
        }
    }

    pub fn begin(&mut self, connection: usize) {
        self.connections[connection] = Some(Transaction::default());
    }

    /// Ends the transaction; `commits` is not heeded where it has failed.
    pub fn end(&mut self, connection: usize, commits: bool) {
        if let Some(transaction) = self.connections[connection].take()
            && commits
            && !transaction.has_failed
        {
            self.commit(transaction.current);
        }
    }

    /// Prepares the transaction: from then on no more is reserved than what was charged.
    pub fn prepare(&mut self, connection: usize, name: String) {
        if let Some(mut transaction) = self.connections[connection].take() {
            transaction.current.of.values_mut().for_each(|hold| hold.held = hold.charged.max(0));
            self.prepared.insert(name, transaction.current);
        }
    }

    pub fn end_prepared(&mut self, name: &str, commits: bool) {
        if let Some(holds) = self.prepared.remove(name)
            && commits
        {
            self.commit(holds);
        }
    }

    /// A statement raised an error: what came since the last savepoint is rolled back at once.
    pub fn fail(&mut self, connection: usize) {
        if let Some(transaction) = &mut self.connections[connection] {
            transaction.has_failed = true;
            transaction.current = transaction.savepoints.last().cloned().unwrap_or_default();
        }
    }
}

impl Transaction {
    pub fn save(&mut self) {
        self.savepoints.push(self.current.clone());
    }

    pub fn roll_back_to(&mut self, savepoint: usize) {
        self.savepoints.truncate(savepoint + 1);
        self.current = self.savepoints[savepoint].clone();
        self.has_failed = false;
    }

    pub fn release(&mut self, savepoint: usize) {
        self.savepoints.truncate(savepoint);
    }
}
