//! Random statements: what writes, and what stands round a query.

use crate::canary::{self, TENANTS};
use crate::query::{Generator, Name, columns};
use crate::world::values;

/// What can be written by name.
const WRITTEN: [&str; 14] = [
    "acct",
    "acct",
    "line",
    "price",
    "journal",
    "event",
    "event",
    "asset",
    "car",
    "event_low",
    "event_high",
    "v_own",
    "v_barrier",
    "currency",
];

/// How a statement is run.
pub enum Run {
    /// As it is.
    Plain(String),
    /// COPY, which no other statement may go along with.
    Copy(String),
    /// PREPARE under a name that later transactions use.
    Prepare(String, String),
    Execute(usize, bool),
    /// By the protocol's own messages, with a value.
    Bound(String),
    /// Several, one after the other.
    Cursor(String, Vec<String>),
}

impl Generator {
    /// A new row's values: this tenant's own, but for the tenant, which may be another.
    fn new_row(&mut self) -> String {
        let row = 100 + self.random.below(9_000);
        let own = values(self.ids, Some(self.tenant), row);
        let id = format!("'{}'", self.ids.id(self.tenant));
        match self.random.weighted(&[6, 3, 1, 2]) {
            0 => own.replacen(&id, "DEFAULT", 1),
            1 => own,
            2 => own.replacen(&id, "NULL", 1),
            _ => {
                let other = format!("'{}'", self.ids.id(self.random.below(TENANTS)));
                own.replacen(&id, &other, 1)
            }
        }
    }

    fn row_number(&mut self) -> usize {
        if self.random.chance(80) { self.random.below(14) } else { 100 + self.random.below(9_000) }
    }

    /// A change of a row: own values, expressions over its own columns or another query, another tenant.
    fn change(&mut self, scope: &[Name]) -> String {
        match self.random.weighted(&[4, 3, 2, 2, 2, 1, 1]) {
            0 => format!("s = '{}'", canary::text(self.tenant, self.random.below(90))),
            1 => format!("q = {}", self.random.below(10)),
            2 => format!("s = {}", self.text(scope, 1)),
            3 => format!("d = {0}.d || jsonb_build_object('z', {0}.s)", scope[0].alias),
            4 => format!("tenant_id = '{}'", self.ids.id(self.random.below(TENANTS))),
            5 => {
                let inner = self.source(0, &[]);
                format!("a = (SELECT array_agg({}.s) FROM {})", inner.1[0].alias, inner.0)
            }
            _ => format!("id = {}", canary::key(self.tenant, self.random.below(12))),
        }
    }

    /// INSERT, UPDATE or DELETE; `seven`: returns the seven columns.
    pub fn write(&mut self, depth: usize, seven: bool) -> String {
        let table = self.random.pick(&WRITTEN);
        let alias = self.alias();
        let scope = [Name { alias: alias.clone(), is_table: !table.starts_with('v') }];
        let returning = match (seven, table) {
            (true, "currency") => return self.seven(depth, &[]),
            (true, _) => format!(" RETURNING {}", columns(&alias)),
            (false, _) if self.random.chance(40) => {
                format!(
                    " RETURNING {alias}.*, {}",
                    if table == "currency" { "1".into() } else { self.text(&scope, 1) }
                )
            }
            _ => String::new(),
        };
        if table == "currency" {
            return format!(
                "{} {}",
                self.random.pick(&["DELETE FROM currency", "UPDATE currency SET q = 1"]),
                ""
            );
        }
        match self.random.weighted(&[4, 3, 2]) {
            0 => {
                let what = if self.random.chance(75) {
                    let count = 1 + self.random.below(3);
                    let rows: Vec<_> = (0..count).map(|_| format!("({})", self.new_row())).collect();
                    format!("VALUES {}", rows.join(", "))
                } else {
                    let query = self.seven(depth, &[]);
                    let id = canary::key(self.tenant, 9_000) as usize + self.random.below(900);
                    let tenant = self.ids.id(self.tenant);
                    format!(
                        "SELECT y.id % 90 + {id}, '{tenant}', y.q, y.n, y.s, y.d, y.a FROM ({query}) y LIMIT 3"
                    )
                };
                let change = self.change(&scope).replace("q = ", "q = excluded.q + ");
                let conflict = match (self.random.below(4), table) {
                    (0, _) => " ON CONFLICT DO NOTHING".to_owned(),
                    (1, "acct" | "v_own" | "price") => {
                        format!(
                            " ON CONFLICT (id) DO UPDATE SET {change} WHERE {}",
                            self.condition(&scope, depth.min(1))
                        )
                    }
                    (1, "line" | "asset" | "car") => format!(
                        " ON CONFLICT (tenant_id, id) DO UPDATE SET {change} WHERE {}",
                        self.condition(&scope, depth.min(1))
                    ),
                    _ => String::new(),
                };
                format!(
                    "INSERT INTO {table} AS {alias} (id, tenant_id, q, n, s, d, a) {what}{conflict}{returning}"
                )
            }
            1 => {
                let change = self.change(&scope);
                let (from, names) = if self.random.chance(35) {
                    let (source, mut names) = self.source(depth.min(1), &[]);
                    let join = format!("{alias}.q = {}.q AND ", names[0].alias);
                    names.extend_from_slice(&scope);
                    (format!(" FROM {source} WHERE {join}"), names)
                } else {
                    (" WHERE ".to_owned(), scope.to_vec())
                };
                let narrow = format!("{alias}.id % 7 = {} AND ", self.random.below(7));
                let narrow = if self.random.chance(70) { narrow } else { String::new() };
                let condition = self.condition(&names, depth);
                format!("UPDATE {table} AS {alias} SET {change}{from}{narrow}{condition}{returning}")
            }
            _ => {
                let row = self.row_number();
                let condition = self.condition(&scope, depth);
                format!(
                    "DELETE FROM {table} AS {alias} WHERE {alias}.n % 100 = {} AND {condition}{returning}",
                    row % 100
                )
            }
        }
    }

    fn merge(&mut self) -> String {
        // A source whose key matches once.
        let table = self.random.pick(&["acct", "line", "price", "asset", "event", "car"]);
        let source = self.random.pick(&["{acct}", "{price}", "{journal}", "v_own", "{line}"]);
        let scope = [Name { alias: "t".into(), is_table: true }];
        let condition = self.condition(&[Name { alias: "y".into(), is_table: false }], 1);
        let and = self.condition(&scope, 0);
        let matched = match self.random.below(3) {
            0 => "DELETE".to_owned(),
            1 => format!("UPDATE SET {}", self.change(&scope)),
            _ => "DO NOTHING".to_owned(),
        };
        let tenant = match self.random.weighted(&[3, 1]) {
            0 => self.ids.id(self.tenant),
            _ => self.ids.id(self.random.below(TENANTS)),
        };
        format!(
            "MERGE INTO {table} AS t USING (SELECT * FROM {source} AS y WHERE {condition}) AS y ON t.id = y.id
             WHEN MATCHED AND {and} THEN {matched}
             WHEN NOT MATCHED THEN INSERT (id, tenant_id, q, n, s, d, a) VALUES (y.id, '{tenant}', y.q, y.n, y.s, y.d, y.a)"
        )
    }

    fn explain(&mut self) -> String {
        let options = self.random.pick(&[
            "ANALYZE, VERBOSE",
            "ANALYZE, FORMAT JSON",
            "VERBOSE, FORMAT YAML",
            "ANALYZE, BUFFERS, SETTINGS",
            "COSTS OFF",
        ]);
        let of = match self.random.below(4) {
            0 => self.write(1, false),
            1 => self.merge(),
            _ => self.select(2),
        };
        format!("EXPLAIN ({options}) {of}")
    }

    /// The next statement; `kept`: how many are prepared.
    pub fn statement(&mut self, kept: usize) -> Run {
        self.fresh();
        let depth = 1 + self.random.below(2);
        match self.random.weighted(&[38, 16, 5, 8, 4, 5, if kept > 0 { 9 } else { 0 }, 4, 2, 1, 8]) {
            0 => Run::Plain(self.select(depth)),
            1 => Run::Plain(self.write(depth, false)),
            2 => Run::Plain(self.merge()),
            3 => Run::Plain(self.explain()),
            4 => {
                let of = if self.random.chance(70) { self.select(depth) } else { self.write(1, true) };
                let format = self.random.pick(&["", " WITH (FORMAT csv)"]);
                Run::Copy(format!("COPY ({of}) TO STDOUT{format}"))
            }
            5 => {
                self.reads = true;
                let mut text = self.select(depth);
                // A parameter, so that there are generic and custom plans.
                if let Some(at) = text.rfind(" WHERE ") {
                    text.insert_str(at + 7, "$1::integer IS NOT NULL AND ");
                }
                Run::Prepare(format!("p{kept}"), text)
            }
            6 => Run::Execute(self.random.below(kept), self.random.chance(15)),
            7 => {
                self.reads = true;
                let query = self.select(depth);
                let scroll = self.random.pick(&["", "SCROLL ", "NO SCROLL ", "INSENSITIVE "]);
                let fetches = (0..1 + self.random.below(4))
                    .map(|_| {
                        format!(
                            "{} FROM cursor_",
                            self.random.pick(&["FETCH 3", "FETCH ALL", "MOVE 1", "FETCH NEXT"])
                        )
                    })
                    .collect();
                Run::Cursor(format!("DECLARE cursor_ {scroll}CURSOR FOR {query}"), fetches)
            }
            8 => {
                let query = self.seven(depth, &[]);
                let again = self.seven(0, &[]);
                Run::Cursor(
                    format!("CREATE TEMP TABLE taken ON COMMIT DROP AS {query}"),
                    vec![
                        "TABLE taken".into(),
                        format!("{again} AND EXISTS (SELECT FROM taken)"),
                        "DROP TABLE taken".into(),
                    ],
                )
            }
            // With a value, so that there is a plan for this once.
            10 if self.random.chance(60) => Run::Bound(format!(
                "SELECT q::text FROM ({}) AS q WHERE $1::integer IS NOT NULL",
                self.select(depth)
            )),
            10 => {
                let mut text = self.write(1, false);
                if let Some(at) = text.rfind(" WHERE ") {
                    text.insert_str(at + 7, "$1::integer IS NOT NULL AND ");
                }
                Run::Bound(text)
            }
            _ => Run::Plain(
                self.random
                    .pick(&[
                        "SELECT * FROM pg_stats WHERE schemaname = 'public'",
                        "SELECT * FROM pg_stats_ext",
                        "SELECT query_to_xml('SELECT * FROM acct', true, true, '')",
                        "SELECT * FROM tenancy.tenants",
                        "SELECT tenancy.context()",
                        "TABLE v_invoker",
                        "SELECT * FROM pg_cursors",
                        "COPY acct TO '/dev/null'",
                        "TRUNCATE acct",
                        "LOCK TABLE acct IN ACCESS SHARE MODE",
                    ])
                    .to_owned(),
            ),
        }
    }
}
