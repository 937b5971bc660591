//! `tenancy` as a Rust client sees it: contexts, prepared statements, portals, COPY, and errors that arrive whole.

use std::io::Read;

use postgres::error::{DbError, ErrorPosition, SqlState};
use postgres::{Client, Row, Transaction};
use serde_json::Value;
use tenancy_client_tests::Database;

const ACME: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const BETA: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380b22";

/// Two tenants, with 100 and 10 orders; the same under policies of one's own: by the setting, and by a function that says it never changes.
fn shop(label: &str) -> Database {
    let database = Database::create(label);
    database
        .admin()
        .batch_execute(&format!(
            "SELECT tenancy.create_tenant('{ACME}'), tenancy.create_tenant('{BETA}');
             CREATE TABLE orders (id bigserial PRIMARY KEY, tenant_id uuid, number integer, what text,
                                  CONSTRAINT orders_number UNIQUE (tenant_id, number));
             INSERT INTO orders (tenant_id, number, what) SELECT '{ACME}', n, 'acme ' || n FROM generate_series(1, 100) n;
             INSERT INTO orders (tenant_id, number, what) SELECT '{BETA}', n, 'beta ' || n FROM generate_series(1, 10) n;
             CREATE FUNCTION hand_tenant() RETURNS uuid IMMUTABLE LANGUAGE plpgsql AS
                 'BEGIN RETURN current_setting(''app.tenant'')::uuid; END';
             CREATE TABLE hand AS TABLE orders;
             CREATE TABLE folded AS TABLE orders;
             CREATE POLICY isolation ON hand USING (tenant_id = current_setting('app.tenant')::uuid);
             CREATE POLICY isolation ON folded USING (tenant_id = hand_tenant());
             ALTER TABLE hand ENABLE ROW LEVEL SECURITY;
             ALTER TABLE folded ENABLE ROW LEVEL SECURITY;
             SELECT tenancy.protect('orders');"
        ))
        .expect("the shop");
    database
}

fn begin<'a>(client: &'a mut Client, tenant: &str) -> Transaction<'a> {
    let mut transaction = client.transaction().expect("BEGIN");
    go_to(&mut transaction, tenant);
    transaction
}

/// For our tables and for those under policies of one's own.
fn go_to(transaction: &mut Transaction, tenant: &str) {
    let both = format!("SET LOCAL tenancy.tenant_id = '{tenant}'; SET LOCAL app.tenant = '{tenant}'");
    transaction.batch_execute(&both).expect("SET LOCAL");
}

/// How many rows there are, where all are of one tenant.
fn of(rows: &[Row], name: &str) -> usize {
    assert!(rows.iter().all(|row| row.get::<_, String>(0).starts_with(name)), "not of {name}");
    rows.len()
}

fn failure<T>(result: Result<T, postgres::Error>) -> DbError {
    let error = result.err().expect("an error");
    error.as_db_error().unwrap_or_else(|| panic!("not an error of the server: {error}")).clone()
}

fn detail(error: &DbError) -> Value {
    let detail = error.detail().unwrap_or_else(|| panic!("no DETAIL: {error:?}"));
    serde_json::from_str(detail).unwrap_or_else(|wrong| panic!("{wrong}: {detail}"))
}

#[test]
fn each_transaction_has_its_tenant() {
    let database = shop("transactions");
    let mut client = database.app();
    for (tenant, orders) in [(ACME, 100), (BETA, 10), (ACME, 100)] {
        let mut transaction = begin(&mut client, tenant);
        let count: i64 = transaction.query_one("SELECT count(*) FROM orders", &[]).expect("count").get(0);
        assert_eq!(count, orders, "{tenant}");
        transaction.commit().expect("COMMIT");
    }
    let error = failure(client.query("SELECT count(*) FROM orders", &[]));
    assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(detail(&error)["code"], "TENANT_CONTEXT_MISSING");
    assert!(error.hint().is_some_and(|hint| hint.contains("SET LOCAL tenancy.tenant_id")), "{error:?}");
}

#[test]
fn a_prepared_statement_serves_every_tenant() {
    let database = shop("prepared");
    let mut client = database.app();
    // By hand, beta gets what the plan was made for.
    let read = client.prepare("SELECT what FROM folded").expect("prepare");
    for tenant in [ACME, BETA] {
        let rows = begin(&mut client, tenant).query(&read, &[]).expect("rows");
        assert_eq!(of(&rows, "acme "), 100, "{tenant}");
    }
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}")).expect("SET");
        let read = client.prepare("SELECT what FROM orders WHERE number = $1").expect("prepare");
        let write = client.prepare("UPDATE orders SET what = what WHERE number = $1").expect("prepare");
        // More often than the five times after which a plan may become generic.
        for round in 0..8 {
            for (tenant, name, last) in [(ACME, "acme", 100), (BETA, "beta", 10)] {
                let mut transaction = begin(&mut client, tenant);
                let row = transaction.query_one(&read, &[&7]).expect("a row");
                assert_eq!(row.get::<_, String>(0), format!("{name} 7"), "{mode}, round {round}");
                let rows = transaction.query(&read, &[&50]).expect("rows");
                assert_eq!(rows.len(), usize::from(last == 100), "{mode}, round {round}");
                assert_eq!(transaction.execute(&write, &[&50]).expect("update") as usize, rows.len());
                transaction.rollback().expect("ROLLBACK");
            }
        }
        let error = failure(client.query(&read, &[&7]));
        assert_eq!(detail(&error)["code"], "TENANT_CONTEXT_MISSING", "{mode}");
    }
}

#[test]
fn a_portal_is_read_in_parts() {
    let database = shop("portals");
    let mut client = database.app();
    let mut transaction = begin(&mut client, ACME);
    let portal = transaction.bind("SELECT what FROM orders", &[]).expect("a portal");
    let mut sizes = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 30).expect("rows");
        sizes.push(of(&rows, "acme "));
        // Statements between two parts of a suspended portal.
        let count: i64 = transaction.query_one("SELECT count(*) FROM orders", &[]).expect("count").get(0);
        assert_eq!(count, 100);
        if rows.len() < 30 {
            break;
        }
    }
    assert_eq!(sizes, [30, 30, 30, 10]);
}

/// What writes runs to its end at the first part, and its rows are kept: nothing of ours is called when they are read.
#[test]
fn kept_rows_are_closed_with_the_tenant() {
    let database = shop("kept");
    let mut client = database.app();
    // By hand beta gets the rest of acme's; and where rows are not kept, one statement gives those of both.
    for (command, name, rest) in
        [("UPDATE hand SET what = what RETURNING what", "acme ", 70), ("SELECT what FROM hand", "beta ", 10)]
    {
        let mut transaction = begin(&mut client, ACME);
        let portal = transaction.bind(command, &[]).expect("a portal");
        assert_eq!(of(&transaction.query_portal(&portal, 30).expect("rows"), "acme "), 30);
        go_to(&mut transaction, BETA);
        assert_eq!(of(&transaction.query_portal(&portal, 0).expect("the rest"), name), rest, "{command}");
    }
    for command in ["UPDATE orders SET what = what RETURNING what", "SELECT what FROM orders"] {
        let mut transaction = begin(&mut client, ACME);
        let portal = transaction.bind(command, &[]).expect("a portal");
        let rows = transaction.query_portal(&portal, 30).expect("rows");
        assert_eq!(rows.len(), 30);
        go_to(&mut transaction, BETA);
        // The portal of what writes is closed; the other asks for the tenant again.
        let error = transaction.query_portal(&portal, 30).expect_err(command);
        let expected = if command.starts_with("UPDATE") { "55000" } else { "42501" };
        assert_eq!(error.code().map(|code| code.code()), Some(expected), "{command}: {error}");
    }
    let mut transaction = begin(&mut client, ACME);
    let portal = transaction.bind("UPDATE orders SET what = what RETURNING what", &[]).expect("a portal");
    let mut rows = transaction.query_portal(&portal, 30).expect("rows");
    go_to(&mut transaction, ACME);
    rows.extend(transaction.query_portal(&portal, 0).expect("the rest"));
    assert_eq!(of(&rows, "acme "), 100);
}

/// With values, what is bound has a plan for this once, which compares with the tenant itself; without, one that is kept.
#[test]
fn a_portal_is_of_the_tenant_it_was_bound_for() {
    let database = shop("bound");
    let mut client = database.app();
    // By hand, begun for acme and not run, it gives beta acme's rows.
    let folded = client.prepare("SELECT what FROM folded WHERE id > $1").expect("a statement");
    let mut transaction = begin(&mut client, ACME);
    let portal = transaction.bind(&folded, &[&0i64]).expect("a portal");
    go_to(&mut transaction, BETA);
    assert_eq!(of(&transaction.query_portal(&portal, 0).expect("rows"), "acme "), 100);
    transaction.rollback().expect("ROLLBACK");

    let statement = client.prepare("SELECT what FROM orders WHERE id > $1").expect("a statement");
    let kept = client.prepare("SELECT what FROM orders").expect("a statement");
    for _ in 0..8 {
        let mut transaction = begin(&mut client, ACME);
        let portals = [
            transaction.bind(&statement, &[&0i64]).expect("a portal"),
            transaction.bind(&kept, &[]).expect("a portal"),
        ];
        // Begun for one tenant, and not run: another's context never gets its rows.
        go_to(&mut transaction, BETA);
        let rows = transaction.query_portal(&portals[1], 0).expect("rows");
        assert_eq!(of(&rows, "beta "), 10);
        transaction.batch_execute("SAVEPOINT s").expect("a savepoint");
        match transaction.query_portal(&portals[0], 0) {
            Ok(rows) => assert_eq!(of(&rows, "beta "), 10),
            Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{error}"),
        }
        transaction.rollback().expect("ROLLBACK");
        // For its own it goes on.
        let mut transaction = begin(&mut client, ACME);
        let portal = transaction.bind(&statement, &[&0i64]).expect("a portal");
        let mut rows = transaction.query_portal(&portal, 30).expect("rows");
        go_to(&mut transaction, BETA);
        go_to(&mut transaction, ACME);
        rows.extend(transaction.query_portal(&portal, 0).expect("the rest"));
        assert_eq!(of(&rows, "acme "), 100);
        transaction.rollback().expect("ROLLBACK");
    }
}

/// A portal is a cursor of SQL as well: what a function, or another portal, reads of it are rows that the statement has touched.
#[test]
fn a_portal_that_another_statement_reads() {
    let database = shop("read");
    database
        .admin()
        .batch_execute(
            "CREATE FUNCTION take(portal text, other text) RETURNS text LANGUAGE plpgsql AS $$
             DECLARE found text;
             BEGIN
                 EXECUTE format('FETCH ALL FROM %I', portal) INTO found;
                 PERFORM set_config('app.tenant', other, true), set_config('tenancy.tenant_id', other, true);
                 RETURN found;
             END $$",
        )
        .expect("a function");
    let mut client = database.app();
    // By hand, the statement goes on for beta with a row of acme's, and so does the portal.
    for (table, by_hand) in [("hand", true), ("orders", false)] {
        let query = format!("SELECT what FROM {table} WHERE id > $1");
        let statement = client.prepare(&query).expect("a statement");
        let name = "SELECT name FROM pg_cursors WHERE statement LIKE 'SELECT what%'";
        let mut transaction = begin(&mut client, ACME);
        let _portal = transaction.bind(&statement, &[&0i64]).expect("a portal");
        let bound: String = transaction.query_one(name, &[]).expect("its name").get(0);
        let taken = transaction.query("SELECT take($1, $2), current_setting('app.tenant')", &[&bound, &BETA]);
        if by_hand {
            let taken = &taken.expect("a row")[0];
            assert_eq!((taken.get(0), taken.get(1)), ("acme 1", BETA));
        } else {
            assert_eq!(detail(&failure(taken))["code"], "TENANT_ACCESS_DENIED");
        }
        transaction.rollback().expect("ROLLBACK");

        let mut transaction = begin(&mut client, ACME);
        let _portal = transaction.bind(&statement, &[&0i64]).expect("a portal");
        let bound: String = transaction.query_one(name, &[]).expect("its name").get(0);
        let fetch = transaction.bind(&format!("FETCH ALL FROM \"{bound}\""), &[]).expect("a portal");
        assert_eq!(of(&transaction.query_portal(&fetch, 1).expect("a row"), "acme "), 1);
        go_to(&mut transaction, BETA);
        let rest = transaction.query_portal(&fetch, 0);
        if by_hand {
            assert_eq!(of(&rest.expect("the rest"), "acme "), 99);
        } else {
            assert_eq!(failure(rest).code().code(), "55000");
        }
    }
}

#[test]
fn copy_out_gives_the_tenants_rows() {
    let database = shop("copy");
    let mut client = database.app();
    for (tenant, name, orders) in [(ACME, "acme", 100), (BETA, "beta", 10)] {
        let mut transaction = begin(&mut client, tenant);
        for source in ["orders (what)", "(SELECT what FROM orders)"] {
            let mut text = String::new();
            transaction
                .copy_out(&format!("COPY {source} TO STDOUT"))
                .expect("COPY")
                .read_to_string(&mut text)
                .expect("its rows");
            assert_eq!(text.lines().count(), orders, "{source}");
            assert!(text.lines().all(|line| line.starts_with(name)), "{source}");
        }
    }
    let error = failure(client.copy_out("COPY orders TO STDOUT").and_then(|mut out| {
        let mut text = String::new();
        out.read_to_string(&mut text).map_err(|error| {
            let inner = error.into_inner().expect("an error of the server");
            *inner.downcast::<postgres::Error>().expect("an error of the server")
        })
    }));
    assert_eq!(detail(&error)["code"], "TENANT_CONTEXT_MISSING");
}

#[test]
fn our_errors_have_all_their_fields() {
    let database = shop("errors");
    let mut client = database.app();

    let mut transaction = begin(&mut client, ACME);
    let insert = "INSERT INTO orders (tenant_id, number) VALUES ($1::text::uuid, 1000)";
    let error = failure(transaction.execute(insert, &[&BETA]));
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    let fields = detail(&error);
    assert_eq!(fields["code"], "TENANT_ACCESS_DENIED");
    assert_eq!(fields["tenant_id"], ACME);
    assert!(!format!("{error:?}").contains(BETA), "another tenant's id in {error:?}");
    drop(transaction);

    let mut transaction = begin(&mut client, "nobody");
    let error = failure(transaction.query("SELECT * FROM orders", &[]));
    assert_eq!(error.code(), &SqlState::UNDEFINED_OBJECT);
    assert_eq!(detail(&error)["code"], "TENANT_NOT_FOUND");
    drop(transaction);

    let error = failure(client.batch_execute("SET tenancy.tenant_id = 'a b'"));
    assert_eq!(error.code(), &SqlState::INVALID_PARAMETER_VALUE);
    assert_eq!(detail(&error)["code"], "TENANT_ID_INVALID");

    let suspend = "SELECT tenancy.suspend_tenant($1)";
    database.admin().execute(suspend, &[&BETA]).expect("suspend");
    let mut transaction = begin(&mut client, BETA);
    let error = failure(transaction.query("SELECT * FROM orders", &[]));
    assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(detail(&error)["code"], "TENANT_SUSPENDED");
}

/// A guarded frame around a user's statement would lose what follows the message.
#[test]
fn an_applications_own_errors_arrive_whole() {
    let database = shop("own_errors");
    database
        .admin()
        .batch_execute(
            "CREATE FUNCTION fail() RETURNS integer LANGUAGE plpgsql AS $$
             BEGIN
                 RAISE EXCEPTION 'out of stock' USING ERRCODE = 'SH001', DETAIL = 'none left', HINT = 'order more',
                     COLUMN = 'what', CONSTRAINT = 'stock', DATATYPE = 'text', TABLE = 'orders', SCHEMA = 'public';
             END $$;
             CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM fail(); RETURN new; END $$;
             CREATE TRIGGER guard BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guard();",
        )
        .expect("functions");
    let mut client = database.app();

    let mut transaction = begin(&mut client, ACME);
    let error = failure(transaction.execute("INSERT INTO orders (number) VALUES (1)", &[]));
    assert_eq!(error.code(), &SqlState::UNIQUE_VIOLATION);
    assert_eq!(error.constraint(), Some("orders_number"));
    assert_eq!((error.schema(), error.table()), (Some("public"), Some("orders")));
    assert!(error.message().contains("orders_number"), "{error:?}");
    drop(transaction);

    let mut transaction = begin(&mut client, ACME);
    let error = failure(transaction.query("SELECT what FROM orders WHERE nothing = 1", &[]));
    assert_eq!(error.code(), &SqlState::UNDEFINED_COLUMN);
    assert_eq!(error.position(), Some(&ErrorPosition::Original(31)));
    drop(transaction);

    // Through a query, and through a trigger of a statement on the protected table.
    for (statement, calls) in [("SELECT fail() FROM orders", 1), ("UPDATE orders SET what = ''", 3)] {
        let mut transaction = begin(&mut client, ACME);
        let error = failure(transaction.execute(statement, &[]));
        assert_eq!(error.code().code(), "SH001", "{statement}");
        assert_eq!(error.message(), "out of stock");
        assert_eq!((error.detail(), error.hint()), (Some("none left"), Some("order more")));
        assert_eq!((error.column(), error.constraint()), (Some("what"), Some("stock")));
        assert_eq!((error.schema(), error.table()), (Some("public"), Some("orders")));
        assert_eq!(error.datatype(), Some("text"));
        let context = error.where_().expect("CONTEXT");
        assert!(context.starts_with("PL/pgSQL function fail() line 3 at RAISE"), "{context}");
        assert_eq!(context.lines().count(), calls, "{context}");
        assert_eq!(error.routine(), Some("exec_stmt_raise"));
    }

    // An error in a dynamic statement has an internal position and query.
    let mut transaction = begin(&mut client, ACME);
    let error = failure(transaction.batch_execute("DO $$ BEGIN EXECUTE 'SELECT oops FROM orders'; END $$"));
    let internal = ErrorPosition::Internal { position: 8, query: "SELECT oops FROM orders".to_owned() };
    assert_eq!(error.position(), Some(&internal));
}

#[test]
fn an_error_leaves_the_connection_usable() {
    let database = shop("usable");
    let mut client = database.app();
    for _ in 0..3 {
        let mut transaction = begin(&mut client, ACME);
        let mut savepoint = transaction.savepoint("s").expect("SAVEPOINT");
        savepoint.batch_execute(&format!("SET LOCAL tenancy.tenant_id = '{BETA}'")).expect("SET LOCAL");
        failure(savepoint.execute("INSERT INTO orders (number) VALUES (1)", &[]));
        savepoint.rollback().expect("ROLLBACK TO");
        let row = transaction.query_one("SELECT count(*), tenancy.current_tenant() FROM orders", &[]);
        let row = row.expect("the first tenant again");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (100, ACME));
    }
}

#[test]
fn a_role_without_the_privilege_cannot_choose() {
    let database = shop("privilege");
    let mut admin = database.admin();
    let role = database.role();
    database.change_privileges(&format!("REVOKE SET ON PARAMETER tenancy.tenant_id FROM {role}"));
    // By hand, whoever is bound to beta becomes acme.
    admin.batch_execute(&format!("ALTER ROLE {role} SET app.tenant = '{BETA}'")).expect("ALTER ROLE");
    let mut client = database.app();
    for (command, name, orders) in
        [("SELECT".to_owned(), "beta ", 10), (format!("SET app.tenant = '{ACME}'"), "acme ", 100)]
    {
        client.batch_execute(&command).expect("a setting");
        assert_eq!(of(&client.query("SELECT what FROM hand", &[]).expect("rows"), name), orders);
    }
    for attempt in [
        format!("SET tenancy.tenant_id = '{ACME}'"),
        format!("SET LOCAL tenancy.tenant_id = '{ACME}'"),
        format!("SELECT set_config('tenancy.tenant_id', '{ACME}', false)"),
        format!("SELECT tenancy.set_tenant('{ACME}')"),
        "SELECT tenancy.clear_tenant()".to_owned(),
    ] {
        let error = failure(client.batch_execute(&attempt));
        assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE, "{attempt}");
    }
    // A role that is bound to one tenant needs no privilege.
    admin.batch_execute(&format!("ALTER ROLE {role} SET tenancy.tenant_id = '{BETA}'")).expect("ALTER ROLE");
    let mut client = database.app();
    let error = failure(client.batch_execute("RESET tenancy.tenant_id"));
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    for after in ["SELECT", "RESET ALL", "DISCARD ALL"] {
        client.batch_execute(after).expect(after);
        let row =
            client.query_one("SELECT count(*), tenancy.current_tenant() FROM orders", &[]).expect("rows");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (10, BETA), "after {after}");
    }
}
