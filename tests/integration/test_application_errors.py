"""An application's own error arrives at the client whole, with the library loaded."""

import pytest
from support import OWNER, set_session, sqlstate


@pytest.fixture(scope="module")
def db(db):
    db.run(
        """
        CREATE FUNCTION approve(amount integer) RETURNS integer LANGUAGE plpgsql AS $$
        BEGIN
            IF amount > 100 THEN
                RAISE EXCEPTION 'amount % needs an approval', amount
                    USING ERRCODE = 'TN001', DETAIL = 'limit is 100', HINT = 'ask a manager',
                          COLUMN = 'amount', CONSTRAINT = 'approval', TABLE = 'orders', SCHEMA = 'public',
                          DATATYPE = 'integer';
            END IF;
            RETURN amount;
        END $$""",
        """
        CREATE FUNCTION check_item() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF new.item = 'forbidden' THEN
                RAISE EXCEPTION USING ERRCODE = 'TN002', MESSAGE = 'item is forbidden', DETAIL = 'from a trigger';
            END IF;
            RETURN new;
        END $$""",
        "CREATE TRIGGER check_item BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION check_item()",
        "CREATE TABLE notes (id integer PRIMARY KEY, text text CHECK (text <> ''))",
        "INSERT INTO notes VALUES (1, 'first')",
        role=OWNER,
    )
    return db


@pytest.fixture
def app(app):
    set_session(app, "acme")
    return app


def test_unique_violation(app):
    with sqlstate("23505") as caught:
        app.execute("INSERT INTO orders (item) VALUES ('a1')")
    diag = caught.error.diag
    assert (diag.schema_name, diag.table_name, diag.constraint_name) == ("public", "orders", "orders_item_key")
    assert diag.message_detail is None  # core keeps the key to itself under row-level security
    assert diag.severity_nonlocalized == "ERROR"
    assert diag.source_function == "_bt_check_unique"


def test_unique_violation_from_a_function(app):
    with sqlstate("23505") as caught:
        app.execute("DO $$ BEGIN INSERT INTO orders (item) VALUES ('a1'); END $$")
    diag = caught.error.diag
    assert diag.constraint_name == "orders_item_key"
    assert "SQL statement \"INSERT INTO orders (item) VALUES ('a1')\"" in diag.context
    assert "PL/pgSQL function inline_code_block line 1 at SQL statement" in diag.context


def test_check_violation(app):
    with sqlstate("23514") as caught:
        app.execute("UPDATE orders SET amount = -1 WHERE item = 'a1'")
    diag = caught.error.diag
    assert (diag.schema_name, diag.table_name, diag.constraint_name) == ("public", "orders", "orders_amount_positive")
    assert diag.message_detail is None  # as above


def test_details_of_a_table_that_is_not_protected(app):
    with sqlstate("23505") as caught:
        app.execute("INSERT INTO notes VALUES (1, 'again')")
    diag = caught.error.diag
    assert diag.constraint_name == "notes_pkey"
    assert diag.message_detail == "Key (id)=(1) already exists."
    with sqlstate("23514") as caught:
        app.execute("INSERT INTO notes SELECT 2, '' FROM orders LIMIT 1")
    diag = caught.error.diag
    assert diag.constraint_name == "notes_text_check"
    assert diag.message_detail == "Failing row contains (2, )."


def test_not_null_violation(app):
    with sqlstate("23502") as caught:
        app.execute("INSERT INTO orders (item) VALUES (NULL)")
    diag = caught.error.diag
    assert (diag.schema_name, diag.table_name, diag.column_name) == ("public", "orders", "item")


def test_positions(app):
    for query, state in (
        ("SELECT item FORM orders", "42601"),
        ("SELECT item, nothing FROM orders", "42703"),
        ("SELECT * FROM nowhere", "42P01"),
    ):
        with sqlstate(state) as caught:
            app.execute(query)
        word = {"42601": "orders", "42703": "nothing", "42P01": "nowhere"}[state]
        assert int(caught.error.diag.statement_position) == query.index(word) + 1


def test_internal_position(app):
    with sqlstate("42703") as caught:
        app.execute("DO $$ BEGIN PERFORM nothing FROM orders; END $$")
    diag = caught.error.diag
    assert diag.internal_query == "SELECT nothing FROM orders"
    assert int(diag.internal_position) == diag.internal_query.index("nothing") + 1


def test_raise_with_a_state_of_its_own(app):
    with sqlstate("TN001") as caught:
        app.execute("UPDATE orders SET amount = approve(%s)", [500])
    diag = caught.error.diag
    assert diag.message_primary == "amount 500 needs an approval"
    assert diag.message_detail == "limit is 100"
    assert diag.message_hint == "ask a manager"
    assert diag.context.startswith("PL/pgSQL function approve(integer) line 4 at RAISE")
    assert (diag.schema_name, diag.table_name, diag.column_name) == ("public", "orders", "amount")
    assert (diag.constraint_name, diag.datatype_name) == ("approval", "integer")


def test_raise_from_a_trigger(app):
    with sqlstate("TN002") as caught:
        app.execute("INSERT INTO orders (item) VALUES ('forbidden')")
    diag = caught.error.diag
    assert (diag.message_primary, diag.message_detail) == ("item is forbidden", "from a trigger")
    assert diag.context.startswith("PL/pgSQL function check_item() line 4 at RAISE")


def test_division_by_zero_and_cancel(app):
    with sqlstate("22012"):
        app.execute("SELECT 1 / (amount - amount) FROM orders")
    app.execute("SET statement_timeout = '100ms'")
    with sqlstate("57014"):
        app.execute("SELECT pg_sleep(5) FROM orders")


def test_an_error_that_plpgsql_catches_is_whole_there_too(app):
    notices = []
    app.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    app.execute(
        """DO $$
        DECLARE c text; t text;
        BEGIN
            INSERT INTO orders (item) VALUES ('a1');
        EXCEPTION WHEN unique_violation THEN
            GET STACKED DIAGNOSTICS c = CONSTRAINT_NAME, t = TABLE_NAME;
            RAISE NOTICE '% of %', c, t;
        END $$"""
    )
    assert notices == ["orders_item_key of orders"]


def test_fields_of_our_own_errors(app):
    with sqlstate("42501") as caught:
        app.execute("INSERT INTO orders (tenant_id, item) VALUES ('globex', 'x')")
    assert caught.error.diag.severity_nonlocalized == "ERROR"
    # The connection goes on working after an error of ours.
    assert app.execute("SELECT count(*) FROM orders").fetchone() == (3,)
