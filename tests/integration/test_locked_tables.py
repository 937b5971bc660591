"""Tables and catalogs that are looked into while a statement is parsed and planned, and that somebody has locked: an error of that statement, and no more."""

import psycopg
import pytest
from support import APP, OWNER, set_session, value

LOCKED = ["_tenancy.leakproof_operators", "pg_proc", "pg_operator", "pg_type"]
STATEMENTS = [
    "INSERT INTO orders (item) VALUES ('{item}')",
    "EXPLAIN SELECT * FROM orders WHERE item LIKE 'a%'",
    "SELECT * FROM orders WHERE lower(item) = 'a1' AND amount BETWEEN 1 AND 7",
    "UPDATE orders SET amount = amount + 1 WHERE lower(item) = 'a1'",
]


@pytest.fixture(scope="module")
def db(db):
    db.run("CREATE INDEX orders_lower ON orders (lower(item))", "CREATE INDEX orders_words ON orders (item text_pattern_ops)", role=OWNER)
    return db


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("locked", LOCKED)
def test_an_error_and_no_crash(connect, dba, locked, statement):
    """Of a session that has looked at nothing yet; a panic in a callback of PostgreSQL's would end the whole server."""
    app = connect(APP)
    set_session(app, "acme")
    app.execute("SET lock_timeout = '200ms'")
    process = app.info.backend_pid
    statement = statement.format(item=f"{locked} {STATEMENTS.index(statement)}")
    dba.execute("BEGIN")
    dba.execute(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
    try:
        app.execute(statement)
    except psycopg.errors.LockNotAvailable:
        pass
    finally:
        dba.execute("ROLLBACK")
    app.execute(statement if "INSERT" not in statement else statement.replace("')", " again')"))
    assert value(app, "SELECT pg_backend_pid()") == process
    assert value(app, "SELECT count(DISTINCT tenant_id) FROM orders") == 1


@pytest.mark.parametrize("statement", STATEMENTS)
def test_after_another_operator_is_trusted(connect, dba, db, statement):
    """What is trusted is asked once more, while it may not be read."""
    app = connect(APP)
    set_session(app, "acme")
    app.execute("SET lock_timeout = '200ms'")
    statement = statement.format(item=f"trusted {STATEMENTS.index(statement)}")
    app.execute(statement)
    db.run("SELECT tenancy.trust_operator('&&(circle,circle)')")
    dba.execute("BEGIN")
    dba.execute("LOCK TABLE _tenancy.leakproof_operators IN ACCESS EXCLUSIVE MODE")
    try:
        app.execute(statement.replace("')", " once more')"))
    except psycopg.errors.LockNotAvailable:
        pass
    finally:
        dba.execute("ROLLBACK")
        db.run("SELECT tenancy.distrust_operator('&&(circle,circle)')")
    assert value(app, "SELECT count(DISTINCT tenant_id) FROM orders") == 1
