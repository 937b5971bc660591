//! The database of a run: its tables, its tenants, and two connections.

use std::collections::HashMap;

use postgres::{Client, SimpleQueryMessage, types::ToSql};
use tenancy_client_tests::Database;

use crate::model::{PARTITION_BOUND, State, Table, Target, Violation};
use crate::statements::{Given, Layout, New, Sql, Statement, Value, returned};

pub struct World {
    pub layout: Layout,
    pub app: Client,
    pub admin: Client,
    /// What breaks the protection, for a negative control.
    broken: &'static str,
    prepared: HashMap<String, postgres::Statement>,
    // Dropped last: the database goes when its connections have gone.
    _database: Database,
}

/// What a statement gave: rows as text, or the number of changed rows, or a SQLSTATE.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Rows(Vec<Vec<Option<String>>>),
    Count(usize),
    Error(String),
}

fn schema(layout: &Layout) -> String {
    let of = |table| layout.type_of(table);
    format!(
        "CREATE TABLE account (id integer PRIMARY KEY, tenant_id {account}, amount integer NOT NULL,
                               UNIQUE (tenant_id, id));
         CREATE TABLE line (tenant_id {account}, id integer, amount integer NOT NULL, account_id integer NOT NULL,
                            PRIMARY KEY (tenant_id, id),
                            FOREIGN KEY (tenant_id, account_id) REFERENCES account (tenant_id, id) ON DELETE CASCADE);
         CREATE TABLE price (id integer PRIMARY KEY, tenant_id {price}, amount integer NOT NULL);
         CREATE TABLE journal (tenant_id {journal}, id integer, amount integer NOT NULL, PRIMARY KEY (tenant_id, id));
         CREATE TABLE event (id integer, amount integer NOT NULL, tenant_id {event}, PRIMARY KEY (tenant_id, id))
             PARTITION BY RANGE (id);
         CREATE TABLE event_low PARTITION OF event FOR VALUES FROM (MINVALUE) TO ({PARTITION_BOUND});
         -- Attached with its columns in another order, as history makes them.
         CREATE TABLE event_high (tenant_id {event} NOT NULL, amount integer NOT NULL, id integer NOT NULL);
         ALTER TABLE event ATTACH PARTITION event_high FOR VALUES FROM ({PARTITION_BOUND}) TO (MAXVALUE);
         CREATE TABLE asset (id integer, tenant_id {asset}, amount integer NOT NULL, PRIMARY KEY (tenant_id, id));
         CREATE TABLE car (wheels integer DEFAULT 4, PRIMARY KEY (tenant_id, id)) INHERITS (asset);
         CREATE TABLE currency (id integer PRIMARY KEY, amount integer NOT NULL);
         CREATE VIEW account_view WITH (security_invoker) AS SELECT tenant_id, id, amount FROM account;
         CREATE VIEW overview WITH (security_invoker) AS
             SELECT a.id, count(l.id) AS lines FROM account a LEFT JOIN line l ON l.account_id = a.id GROUP BY a.id;
         SELECT tenancy.protect('account'), tenancy.protect('line'), tenancy.protect('price', 'shared'),
                tenancy.protect('journal', 'audit'), tenancy.protect('event'), tenancy.protect('asset'),
                tenancy.protect('currency', 'system');",
        account = of(Table::Account),
        price = of(Table::Price),
        journal = of(Table::Journal),
        event = of(Table::Event),
        asset = of(Table::Asset),
    )
}

/// The relations that together hold every row once.
pub const EVERYTHING: [Target; 8] = [
    Target::Account,
    Target::Line,
    Target::Price,
    Target::Journal,
    Target::Event,
    Target::OnlyAsset,
    Target::Car,
    Target::Currency,
];

fn everything() -> String {
    let parts = EVERYTHING
        .map(|target| format!("SELECT '{:?}', {} FROM {}", target.table(), returned(target), target.sql()));
    parts.join(" UNION ALL ")
}

fn failure(error: &postgres::Error) -> Result<Outcome, Violation> {
    match error.code() {
        Some(code) => Ok(Outcome::Error(code.code().to_owned())),
        None => Err(Violation(format!("connection failed: {error}"))),
    }
}

impl World {
    pub fn create(layout: &Layout, broken: &'static str) -> World {
        let database = Database::create(layout.name);
        let mut admin = database.admin();
        admin.batch_execute(&schema(layout)).expect("create the tables");
        for id in layout.ids {
            admin.execute("SELECT tenancy.create_tenant($1)", &[id]).expect("create a tenant");
        }
        let app = database.app();
        World { layout: layout.clone(), app, admin, broken, prepared: HashMap::new(), _database: database }
    }

    /// Back to the seeded state, every tenant active.
    pub fn reset(&mut self) -> Result<(), Violation> {
        // An audit table takes no TRUNCATE, not even from a superuser.
        let mut script = "SET tenancy.restoring = on;
                          ALTER TABLE journal DISABLE TRIGGER tenancy_guard;
                          TRUNCATE account, line, price, journal, event, asset, car, currency;
                          ALTER TABLE journal ENABLE ALWAYS TRIGGER tenancy_guard;
                          UPDATE _tenancy.tenants SET status = 'active' WHERE status <> 'active';"
            .to_owned();
        let state = State::seeded(self.layout.ids.len());
        for target in EVERYTHING {
            for row in state.rows(target.table()) {
                let given = row.tenant.map_or(Given::Null, Given::Tenant);
                let new = New { tenant: given, id: row.id, amount: row.amount, parent: row.parent };
                let statement = Statement::Insert { target, new, returning: false };
                script += &statement.sql(&self.layout).literal();
                script += ";\n";
            }
        }
        script += self.broken;
        self.app.batch_execute("ROLLBACK; RESET ALL").map_err(|e| Violation(format!("reset: {e:?}")))?;
        self.admin.batch_execute(&script).map_err(|e| Violation(format!("seed: {e:?}")))
    }

    /// Every row that the session sees, under its table's name. The plan is kept across tenants.
    pub fn all_visible(&mut self) -> Result<Outcome, Violation> {
        self.run(&Sql { text: everything(), values: vec![] }, true, true)
    }

    /// Every row there is.
    pub fn all_rows(&mut self) -> Result<Outcome, Violation> {
        simple(&mut self.admin, &everything(), true)
    }

    pub fn forget_prepared(&mut self) {
        self.prepared.clear();
    }

    /// Runs a statement of the application; an error of the server is an outcome.
    pub fn run(&mut self, sql: &Sql, prepared: bool, rows: bool) -> Result<Outcome, Violation> {
        if !prepared {
            return simple(&mut self.app, &sql.literal(), rows);
        }
        let text = sql.with_parameters();
        if !self.prepared.contains_key(&text) {
            match self.app.prepare(&text) {
                Ok(statement) => self.prepared.insert(text.clone(), statement),
                Err(error) => return failure(&error),
            };
        }
        let statement = &self.prepared[&text];
        let values: Vec<&(dyn ToSql + Sync)> = sql
            .values
            .iter()
            .map(|value| match value {
                Value::Number(number) => number as &(dyn ToSql + Sync),
                Value::Tenant(id, _) => id,
            })
            .collect();
        if rows {
            match self.app.query(statement, &values) {
                Err(error) => failure(&error),
                Ok(rows) => Ok(Outcome::Rows(
                    rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect(),
                )),
            }
        } else {
            match self.app.execute(statement, &values) {
                Err(error) => failure(&error),
                Ok(count) => Ok(Outcome::Count(count as usize)),
            }
        }
    }

    /// Runs a command whose answer does not matter.
    pub fn command(&mut self, command: &str) -> Result<Outcome, Violation> {
        simple(&mut self.app, command, false)
    }
}

fn simple(client: &mut Client, text: &str, wanted: bool) -> Result<Outcome, Violation> {
    let messages = match client.simple_query(text) {
        Ok(messages) => messages,
        Err(error) => return failure(&error),
    };
    let mut rows = Vec::new();
    let mut count = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
            }
            SimpleQueryMessage::CommandComplete(changed) => count = changed as usize,
            _ => {}
        }
    }
    Ok(if wanted { Outcome::Rows(rows) } else { Outcome::Count(count) })
}
