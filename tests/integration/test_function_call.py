"""The function call of the protocol (PQfn): no query, no portal, and yet one statement for one tenant."""

import os
import re
import socket
import struct

import pytest
from support import APP, value


class Wire:
    """A connection that speaks the protocol by hand: what libpq offers for function calls, psycopg does not."""

    def __init__(self, db, role):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.path.join(os.environ["PGHOST"], f".s.PGSQL.{os.environ['PGPORT']}"))
        parameters = b"".join(part.encode() + b"\0" for part in ("user", role, "database", db)) + b"\0"
        self.send(b"", struct.pack("!i", 196608) + parameters)
        self.wait()

    def send(self, kind, body):
        self.socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def receive(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the server closed the connection"
            data += more
        return data

    def wait(self):
        """Messages until the server is ready for the next."""
        messages = []
        while not messages or messages[-1][0] != b"Z":
            kind = self.receive(1)
            (size,) = struct.unpack("!i", self.receive(4))
            messages.append((kind, self.receive(size - 4)))
        return messages

    def call(self, function):
        """Its result as text; or the fields of the error."""
        self.send(b"F", struct.pack("!ihhh", function, 0, 0, 0))
        for kind, body in self.wait():
            if kind == b"V":
                return body[4:].decode()
            if kind == b"E":
                return {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
        raise AssertionError("no answer")

    def query(self, text):
        self.send(b"Q", text.encode() + b"\0")
        return [message for message in self.wait() if message[0] == b"E"]


def make(dba, text):
    """Makes functions; returns their numbers, by name."""
    dba.execute(text)
    return {name: value(dba, f"SELECT 'public.{name}()'::regprocedure::oid::int4") for name in re.findall(r"FUNCTION public\.(\w+)", text)}


@pytest.fixture(scope="module")
def by_hand(db):
    """The same rows, under policies of one's own: by the setting, and by a function that says it never changes."""
    db.run(
        f"""CREATE FUNCTION hand_tenant() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN current_setting('app.tenant'); END $$;
            CREATE TABLE hand AS TABLE orders;
            CREATE TABLE folded AS TABLE orders;
            CREATE POLICY isolation ON hand USING (tenant_id = current_setting('app.tenant'));
            CREATE POLICY isolation ON folded USING (tenant_id = hand_tenant());
            ALTER TABLE hand ENABLE ROW LEVEL SECURITY;
            ALTER TABLE folded ENABLE ROW LEVEL SECURITY;
            GRANT SELECT ON hand, folded TO {APP}"""
    )


# Each becomes a tenant and reads a table, by itself and one after the other.
READERS = """
    CREATE OR REPLACE FUNCTION public.read_acme() RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('{setting}', 'acme', true);
        RETURN string_agg(item, ',' ORDER BY item) FROM {table};
    END$$;
    CREATE OR REPLACE FUNCTION public.read_globex() RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('{setting}', 'globex', true);
        RETURN string_agg(item, ',' ORDER BY item) FROM {table};
    END$$;
    CREATE OR REPLACE FUNCTION public.read_both() RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        RETURN read_acme() || '/' || read_globex();
    END$$;
"""


def test_by_hand_one_call_reads_both(db, dba, by_hand):
    functions = make(dba, READERS.format(setting="app.tenant", table="hand"))
    wire = Wire(db.name, APP)
    assert wire.call(functions["read_acme"]) == "a1,a2,a3"
    assert wire.call(functions["read_both"]) == "a1,a2,a3/g1,g2"


def test_one_call_one_tenant(db, dba):
    functions = make(dba, READERS.format(setting="tenancy.tenant_id", table="orders"))
    wire = Wire(db.name, APP)
    assert wire.call(functions["read_acme"]) == "a1,a2,a3"
    assert wire.call(functions["read_both"])[b"M"] == "tenant cannot change while a statement reads or writes its rows"
    # Calls of one transaction are statements of their own.
    assert not wire.query("BEGIN")
    assert wire.call(functions["read_acme"]) == "a1,a2,a3"
    assert wire.call(functions["read_globex"]) == "g1,g2"
    assert not wire.query("COMMIT")


# What a function reads, by a plan that is kept with the connection: in PL/pgSQL in every version, in SQL since 18.
ITEMS = {
    "plpgsql": "CREATE OR REPLACE FUNCTION public.items() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN string_agg(item, ',' ORDER BY item) FROM {table}; END$$",
    "sql": "CREATE OR REPLACE FUNCTION public.items() RETURNS text LANGUAGE sql AS $$SELECT string_agg(item, ',' ORDER BY item) FROM {table}$$",
}


def test_by_hand_a_plan_serves_another(db, dba, by_hand):
    items = make(dba, ITEMS["plpgsql"].format(table="folded"))["items"]
    wire = Wire(db.name, APP)
    for tenant in ("acme", "globex"):
        assert not wire.query(f"SET app.tenant = '{tenant}'")
        assert wire.call(items) == "a1,a2,a3", tenant


@pytest.mark.parametrize("language", ITEMS)
def test_a_plan_serves_whoever_calls_it(db, dba, language):
    """Where a pooler gives the connection to one tenant after the other."""
    items = make(dba, ITEMS[language].format(table="orders"))["items"]
    wire = Wire(db.name, APP)
    for tenant, expected in [("acme", "a1,a2,a3"), ("globex", "g1,g2"), ("acme", "a1,a2,a3")]:
        assert not wire.query(f"SET tenancy.tenant_id = '{tenant}'")
        assert wire.call(items) == expected
        assert not wire.query("SELECT items()")


def test_a_function_in_sql_becomes_a_tenant(db, dba):
    text = """CREATE OR REPLACE FUNCTION public.items_of_acme() RETURNS text LANGUAGE sql AS $$
        SELECT set_config('tenancy.tenant_id', 'acme', true); SELECT string_agg(item, ',' ORDER BY item) FROM orders $$"""
    items_of_acme = make(dba, text)["items_of_acme"]
    wire = Wire(db.name, APP)
    assert not wire.query("SET tenancy.tenant_id = 'globex'")
    assert wire.call(items_of_acme) == "a1,a2,a3"
