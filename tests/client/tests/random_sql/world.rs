//! A database with protected tables of every kind, in which each value of a row says whose it is.

use std::sync::{Arc, Mutex, PoisonError};

use postgres::error::DbError;
use postgres::types::ToSql;
use postgres::{Client, SimpleQueryMessage};
use tenancy_client_tests::Database;

use crate::canary::{self, Ids, TENANTS, foreign};

/// Rows of each tenant in each table at first.
const ROWS: usize = 12;

pub struct World {
    pub ids: Ids,
    pub app: Client,
    pub admin: Client,
    notices: Arc<Mutex<Vec<String>>>,
    _database: Database,
}

/// Tables that hold each row once; all but `currency` have a tenant.
const TABLES: [&str; 8] = ["acct", "line", "price", "journal", "event", "only asset", "car", "currency"];

/// What the server said to a statement.
pub struct Answer {
    pub rows: Vec<String>,
    /// SQLSTATE and all fields of the error.
    pub error: Option<(String, String)>,
    pub notices: Vec<String>,
}

fn schema(ids: Ids, owner: &str, app: &str) -> String {
    // Types of acct and line, price, journal, event, asset.
    let [acct, price, journal, event, asset] = match ids {
        Ids::Text => ["text", "varchar", "text", "varchar(60)", "text"],
        Ids::Uuid => ["uuid", "uuid", "text", "uuid", "varchar"],
        Ids::Bigint => ["bigint", "bigint", "text", "bigint", "varchar"],
        Ids::Integer => ["integer", "bigint", "integer", "text", "integer"],
    };
    let columns =
        |tenant| format!("id integer, tenant_id {tenant}, q integer, n bigint, s text, d jsonb, a text[]");
    format!(
        "GRANT CREATE ON SCHEMA public TO {owner};
         SET ROLE {owner};
         ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
         CREATE TABLE acct ({acct_columns}, PRIMARY KEY (id), UNIQUE (tenant_id, id));
         CREATE INDEX ON acct (s); CREATE INDEX ON acct (lower(s)); CREATE INDEX ON acct USING gin (d);
         CREATE INDEX ON acct USING gin (a); CREATE INDEX ON acct USING gin (to_tsvector('simple', s));
         CREATE TABLE line ({acct_columns}, acct integer, PRIMARY KEY (tenant_id, id),
                            FOREIGN KEY (tenant_id, acct) REFERENCES acct (tenant_id, id) ON DELETE CASCADE);
         CREATE INDEX ON line (tenant_id, s); CREATE INDEX ON line (q) INCLUDE (s);
         CREATE TABLE price ({price_columns}, PRIMARY KEY (id));
         CREATE TABLE journal ({journal_columns}, PRIMARY KEY (tenant_id, id));
         CREATE TABLE event ({event_columns}, PRIMARY KEY (tenant_id, id, q)) PARTITION BY RANGE (q);
         CREATE TABLE event_low PARTITION OF event FOR VALUES FROM (MINVALUE) TO (5);
         -- Attached with its columns in another order, as history makes them.
         CREATE TABLE event_high (a text[], d jsonb, s text, n bigint, q integer NOT NULL,
                                  tenant_id {event} NOT NULL, id integer NOT NULL);
         ALTER TABLE event ATTACH PARTITION event_high FOR VALUES FROM (5) TO (MAXVALUE);
         CREATE INDEX ON event (s);
         CREATE TABLE asset ({asset_columns}, PRIMARY KEY (tenant_id, id));
         CREATE TABLE car (wheels integer DEFAULT 4, PRIMARY KEY (tenant_id, id)) INHERITS (asset);
         CREATE TABLE currency (id integer PRIMARY KEY, q integer, n bigint, s text, d jsonb, a text[]);
         CREATE VIEW v_own AS SELECT * FROM acct WHERE q < 8;
         CREATE VIEW v_invoker WITH (security_invoker) AS
             SELECT l.id, l.tenant_id, l.q, x.n, l.s, x.d, l.a FROM line l JOIN acct x ON x.id = l.acct;
         CREATE VIEW v_barrier WITH (security_barrier) AS SELECT * FROM event WHERE q > 1;
         CREATE FUNCTION rows_sql() RETURNS SETOF acct LANGUAGE sql STABLE AS 'SELECT * FROM acct';
         CREATE FUNCTION rows_definer() RETURNS SETOF price LANGUAGE plpgsql STABLE SECURITY DEFINER
             SET search_path = public AS 'BEGIN RETURN QUERY SELECT * FROM price; END';
         CREATE FUNCTION rows_plpgsql() RETURNS SETOF asset LANGUAGE plpgsql VOLATILE AS
             'DECLARE r asset; BEGIN FOR r IN SELECT * FROM asset LOOP RETURN NEXT r; END LOOP; END';
         -- What an attacker writes: cheap, so that it is called first, and it tells what it is given.
         CREATE FUNCTION tell(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0000001
             AS 'BEGIN RAISE NOTICE ''tell %'', $1; RETURN true; END';
         -- Behind policies, a cheap call that is given no column counts as LEAKPROOF, and comes before dearer conditions that do not.
         CREATE FUNCTION zero() RETURNS integer LANGUAGE plpgsql VOLATILE COST 1000000 AS 'BEGIN RETURN 0; END';
         CREATE FUNCTION tell_equal(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0000001
             AS 'BEGIN RAISE NOTICE ''equal % %'', $1, $2; RETURN $1 = $2; END';
         RESET ROLE;
         -- Its estimator asks the operator about the most common values; only a superuser can make it so.
         CREATE OPERATOR === (FUNCTION = tell_equal, LEFTARG = text, RIGHTARG = text, RESTRICT = eqsel, JOIN = eqjoinsel);
         SELECT tenancy.protect('acct'), tenancy.protect('line'), tenancy.protect('price', 'shared'),
                tenancy.protect('journal', 'audit'), tenancy.protect('event'), tenancy.protect('asset'),
                tenancy.protect('currency', 'system');",
        acct_columns = columns(acct),
        price_columns = columns(price),
        journal_columns = columns(journal),
        event_columns = columns(event),
        asset_columns = columns(asset),
    )
}

/// The values of a row, but for those of its table alone.
pub fn values(ids: Ids, tenant: Option<usize>, row: usize) -> String {
    match tenant {
        Some(tenant) => {
            let (s, n, id) =
                (canary::text(tenant, row), canary::number(tenant, row), canary::key(tenant, row));
            format!(
                "{id}, '{}', {}, {n}, '{s}', '{{\"k\": \"{s}\", \"n\": {n}, \"t\": [\"{s}\", {id}]}}', ARRAY['{s}', '{s}-x']",
                ids.id(tenant),
                row % 10
            )
        }
        None => format!(
            "{row}, NULL, {}, {row}, 'zz{row}', '{{\"k\": \"zz{row}\"}}', ARRAY['zz{row}', 'zz']",
            row % 10
        ),
    }
}

impl World {
    /// `broken`: commands that break the protection, for a negative control.
    pub fn create(ids: Ids, broken: &str) -> World {
        let mut database = Database::create("random");
        let owner = database.another_role("owner");
        let mut admin = database.admin();
        admin.batch_execute(&schema(ids, &owner, database.role())).expect("create the tables");
        for tenant in 0..TENANTS {
            admin.execute("SELECT tenancy.create_tenant($1)", &[&ids.id(tenant)]).expect("create a tenant");
        }
        // Also for `reset`, which empties a table of kind audit.
        admin.batch_execute("SET tenancy.restoring = on").expect("a superuser may weaken protection");
        admin.batch_execute(broken).expect("break the protection");
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = notices.clone();
        let app = database.app_with_notices(move |notice| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(fields(&notice));
        });
        World { ids, app, admin, notices, _database: database }
    }

    pub fn server_version(&mut self) -> i32 {
        let row = self.admin.query_one("SELECT current_setting('server_version_num')::integer", &[]);
        row.expect("a version").get(0)
    }

    /// Back to the first rows.
    pub fn reset(&mut self) {
        // An audit table takes no TRUNCATE, not even from a superuser.
        let mut script = "ALTER TABLE journal DISABLE TRIGGER tenancy_guard;
                          TRUNCATE acct, line, price, journal, event, asset, car, currency;
                          ALTER TABLE journal ENABLE ALWAYS TRIGGER tenancy_guard;"
            .to_owned();
        for row in 0..ROWS {
            for tenant in 0..TENANTS {
                let values = values(self.ids, Some(tenant), row);
                for table in ["acct", "price", "journal", "event", "asset", "car"] {
                    // The ids of asset and car are one space to whoever joins them.
                    script +=
                        &format!("INSERT INTO {table} (id, tenant_id, q, n, s, d, a) VALUES ({values});\n");
                }
                script += &format!("INSERT INTO line VALUES ({values}, {});\n", canary::key(tenant, row / 2));
            }
            script += &format!("INSERT INTO price VALUES ({});\n", values(self.ids, None, row));
            script += &format!(
                "INSERT INTO currency SELECT id, q, n, s, d, a FROM (VALUES ({})) v (id, t, q, n, s, d, a);\n",
                values(self.ids, None, row).replace("'{", "jsonb '{")
            );
        }
        script += "ANALYZE acct, line, price, journal, event, asset, car, currency;";
        self.admin.batch_execute(&script).expect("fill the tables");
    }

    /// Runs SQL of the application, perhaps several statements.
    pub fn say(&mut self, sql: &str) -> Answer {
        let result = if let Some(query) = sql.strip_prefix("COPY ") {
            self.copy(&format!("COPY {query}"))
        } else if let Some(query) = sql.strip_prefix("BOUND ") {
            self.bound(query)
        } else {
            self.app.simple_query(sql).map(|messages| {
                let line = |message: &SimpleQueryMessage| match message {
                    SimpleQueryMessage::Row(row) => {
                        let values: Vec<_> = (0..row.len()).map(|i| row.get(i).unwrap_or("~")).collect();
                        Some(values.join("|"))
                    }
                    _ => None,
                };
                messages.iter().filter_map(line).collect()
            })
        };
        let notices = std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner));
        match result {
            Ok(rows) => Answer { rows, error: None, notices },
            Err(error) => {
                let error = match error.as_db_error() {
                    Some(error) => (error.code().code().to_owned(), fields(error)),
                    // The connection is gone: a crash, or worse.
                    None => ("LOST".to_owned(), format!("{error:?}")),
                };
                Answer { rows: Vec::new(), error: Some(error), notices }
            }
        }
    }

    /// By the protocol's own messages, with a value where it has a place for one; the rows of what returns a text.
    fn bound(&mut self, sql: &str) -> Result<Vec<String>, postgres::Error> {
        let values: &[&(dyn ToSql + Sync)] = if sql.contains("$1") { &[&1i32] } else { &[] };
        let rows = self.app.query(sql, values)?;
        Ok(rows
            .iter()
            .map(|row| row.try_get::<_, Option<String>>(0).ok().flatten().unwrap_or("~".into()))
            .collect())
    }

    fn copy(&mut self, sql: &str) -> Result<Vec<String>, postgres::Error> {
        let mut text = String::new();
        let mut reader = self.app.copy_out(sql)?;
        match std::io::Read::read_to_string(&mut reader, &mut text) {
            Ok(_) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) => match error.into_inner().map(|inner| inner.downcast::<postgres::Error>()) {
                Some(Ok(error)) => Err(*error),
                _ => panic!("COPY breaks off: {sql}"),
            },
        }
    }

    /// A sum over all that is not this tenant's, and what its own rows hold of others.
    pub fn others(&mut self, tenant: usize) -> (String, Vec<String>) {
        let id = self.ids.id(tenant);
        let parts = TABLES.map(|table| {
            let whose = if table == "currency" { "NULL" } else { "tenant_id::text" };
            format!("SELECT '{table}' AS t, {whose} AS w, x::text AS r FROM {table} x")
        });
        let all = parts.join(" UNION ALL ");
        let sums = self
            .admin
            .query_one(
                &format!(
                    "SELECT md5(string_agg(t || r, '|' ORDER BY t, r) FILTER (WHERE w IS DISTINCT FROM '{id}')),
                            array_agg(t || r) FILTER (WHERE w = '{id}') FROM ({all}) everything"
                ),
                &[],
            )
            .expect("sum up");
        let own: Option<Vec<String>> = sums.get(1);
        let bad =
            own.unwrap_or_default().into_iter().filter(|row| !foreign(row, tenant).is_empty()).collect();
        (sums.get(0), bad)
    }
}

/// Everything in an error or a notice that a client is given.
fn fields(error: &DbError) -> String {
    let optional = [
        error.detail(),
        error.hint(),
        error.where_(),
        error.schema(),
        error.table(),
        error.column(),
        error.datatype(),
        error.constraint(),
    ];
    let mut all = format!("{}: {}", error.code().code(), error.message());
    for field in optional.into_iter().flatten() {
        all += " | ";
        all += field;
    }
    if let Some(postgres::error::ErrorPosition::Internal { query, .. }) = error.position() {
        all += " | ";
        all += query;
    }
    all
}
