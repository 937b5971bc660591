"""What PostgreSQL has had only since 17 or 18: the privilege MAINTAIN, and NOT NULL as a constraint with a name, which can be dropped as such."""

import pytest
from support import APP, DATA, MAJOR, OWNER, items, refused, set_local, sqlstate, value

since_17 = pytest.mark.skipif(MAJOR < 17, reason="PostgreSQL before 17 has no privilege MAINTAIN")
since_18 = pytest.mark.skipif(MAJOR < 18, reason="before PostgreSQL 18, NOT NULL is no constraint that can be dropped")


def findings(db, *arguments):
    """What lint says of `orders` and what is granted on it."""
    shown = ", ".join(f"'{argument}'" for argument in arguments)
    return db.run(f"SELECT severity, problem, remedy FROM tenancy.lint({shown}) WHERE rule = 'unsafe_grant' AND object = 'public.orders'")


@since_17
class TestMaintain:
    @pytest.fixture
    def granted(self, db):
        """`orders`, with the privilege; the application has nothing else that lets it lock the table."""
        db.run(f"REVOKE INSERT, UPDATE, DELETE ON orders FROM {DATA}", f"GRANT MAINTAIN ON orders TO {DATA}", role=OWNER)
        yield
        db.run(f"REVOKE MAINTAIN ON orders FROM {DATA}", f"GRANT INSERT, UPDATE, DELETE ON orders TO {DATA}", role=OWNER)

    def test_lint_names_it(self, db, granted):
        ((severity, problem, remedy),) = findings(db, "info")
        assert (severity, problem) == ("info", f"MAINTAIN is granted to {DATA}: it locks the table for all tenants")
        db.run(remedy)
        assert findings(db, "info") == []

    def test_it_is_a_recommendation_only(self, db, granted):
        assert findings(db) == []
        db.run(f"GRANT TRUNCATE ON orders TO {DATA}")  # the control
        assert [severity for severity, _, _ in findings(db)] == ["error"]
        db.run(f"REVOKE TRUNCATE ON orders FROM {DATA}")

    def test_protect_leaves_it(self, db):
        """GRANT ALL hands it out since 17; protect takes what goes round policies, and that does not."""
        db.run("CREATE TABLE granted (tenant_id text)", f"GRANT ALL ON granted TO {DATA}", "SELECT tenancy.protect('granted')", role=OWNER)
        found = db.run("SELECT severity, problem FROM tenancy.lint('info') WHERE rule = 'unsafe_grant' AND object = 'public.granted'")
        assert found == [("info", f"MAINTAIN is granted to {DATA}: it locks the table for all tenants")]

    def test_what_it_is_good_for(self, db, app, granted):
        """It shows no row of others; it holds them up, and tells how many rows there are."""
        told = []
        app.add_notice_handler(lambda notice: told.append(notice.message_primary))
        for command in ("VACUUM orders", "CLUSTER orders USING orders_pkey", "REINDEX TABLE orders", "ANALYZE VERBOSE orders"):
            app.execute(command)
        assert any("containing 6 live rows" in line for line in told), told
        with app.transaction():
            set_local(app, "acme")
            app.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            assert items(app) == ["a1", "a2", "a3"]
            assert value(app, "SELECT count(*) FROM pg_stats WHERE tablename = 'orders'") == 0
            with db.connect("postgres") as dba, sqlstate("55P03"):
                dba.execute("SET lock_timeout = '100ms'")
                dba.execute("SELECT count(*) FROM orders")

    def test_without_it(self, db, app, granted):
        """PostgreSQL refuses, or warns and leaves the table out."""
        db.run(f"REVOKE MAINTAIN ON orders FROM {DATA}", role=OWNER)
        told = []
        app.add_notice_handler(lambda notice: told.append(notice.message_primary))
        app.execute("VACUUM orders")
        app.execute("ANALYZE VERBOSE orders")
        assert told == ['permission denied to vacuum "orders", skipping it', 'permission denied to analyze "orders", skipping it']
        for command in ("REINDEX TABLE orders", "CLUSTER orders USING orders_pkey", "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"):
            with app.transaction(), sqlstate("42501"):
                app.execute(command)


# Each ends with a tenant column that may be null, where nothing is protected. The constraint is called `must`.
WEAKENING = {
    "by its name": "ALTER TABLE {} DROP CONSTRAINT must",
    "with CASCADE": "ALTER TABLE {} DROP CONSTRAINT must CASCADE",
    "if it exists": "ALTER TABLE IF EXISTS {} DROP CONSTRAINT IF EXISTS must",
    "among other changes": "ALTER TABLE {} ADD COLUMN note text, DROP CONSTRAINT must, ADD CHECK (n > 0)",
    "without the children": "ALTER TABLE ONLY {} DROP CONSTRAINT must",
    "renamed before": "ALTER TABLE {0} RENAME CONSTRAINT must TO may; ALTER TABLE {0} DROP CONSTRAINT may",
    "not inherited any more": "ALTER TABLE {0} ALTER CONSTRAINT must NO INHERIT; ALTER TABLE {0} DROP CONSTRAINT must",
    "in place of one that holds for it": "ALTER TABLE {} DROP CONSTRAINT must, ADD CONSTRAINT must CHECK (tenant_id IS NOT NULL) NOT VALID",
}
IS_NOT_NULL = "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'tenant_id'"
DRIFT = "SELECT drift FROM tenancy.protected_tables WHERE relation = %s::regclass"


@since_18
class TestNotNull:
    @pytest.fixture
    def owner(self, db, connect):
        """The owner, and his tables: `plain` is not protected, `doc` is; both have a child."""
        owner = connect(OWNER)
        owner.execute("SET client_min_messages = warning")
        for table in ("plain", "doc"):
            owner.execute(f"CREATE TABLE {table} (n integer, tenant_id text CONSTRAINT must NOT NULL)")
            owner.execute(f"CREATE TABLE {table}_child () INHERITS ({table})")
        owner.execute("SELECT tenancy.protect('doc')")
        yield owner
        db.run("DROP TABLE IF EXISTS plain, doc, doc_leaves, parted, other CASCADE")

    @pytest.mark.parametrize("statements", WEAKENING.values(), ids=WEAKENING)
    def test_dropped(self, owner, statements):
        for statement in statements.format("plain").split("; "):
            owner.execute(statement)
        assert not value(owner, IS_NOT_NULL, ["plain"])
        *before, last = statements.format("doc").split("; ")
        for statement in before:
            owner.execute(statement)
        with refused("PROTECTION_WEAKENED") as caught:
            owner.execute(last)
        assert caught.detail["problem"] == "column tenant_id may be null"
        assert value(owner, IS_NOT_NULL, ["doc"]) and value(owner, DRIFT, ["doc"]) == []

    def test_by_a_superuser(self, owner, dba):
        dba.execute("ALTER TABLE plain DROP CONSTRAINT must")
        with refused("PROTECTION_WEAKENED"):
            dba.execute("ALTER TABLE doc DROP CONSTRAINT must")

    def test_of_a_child(self, owner):
        """PostgreSQL keeps what is inherited; what is not inherited any more is each table's own, and so is that of a child that leaves."""
        owner.execute("CREATE TABLE doc_leaves () INHERITS (doc)")
        for table in ("plain", "doc"):
            with sqlstate("42P16"):
                owner.execute(f"ALTER TABLE {table}_child DROP CONSTRAINT must")
        owner.execute("ALTER TABLE doc_leaves NO INHERIT doc")
        for table in ("plain", "doc"):
            owner.execute(f"ALTER TABLE {table} ALTER CONSTRAINT must NO INHERIT")
        owner.execute("ALTER TABLE plain_child DROP CONSTRAINT must")
        with refused("PROTECTION_WEAKENED"):
            owner.execute("ALTER TABLE doc_child DROP CONSTRAINT must")
        with refused("PROTECTION_WEAKENED"):
            owner.execute("ALTER TABLE doc_leaves DROP CONSTRAINT must")
        for child in ("doc_child", "doc_leaves"):
            assert value(owner, IS_NOT_NULL, [child]) and value(owner, DRIFT, [child]) == []

    def test_of_a_partition(self, owner):
        owner.execute("CREATE TABLE parted (n integer, tenant_id text CONSTRAINT must NOT NULL) PARTITION BY LIST (n)")
        owner.execute("CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1)")
        owner.execute("SELECT tenancy.protect('parted')")
        with refused("PROTECTION_WEAKENED"):
            owner.execute("ALTER TABLE parted DROP CONSTRAINT must")
        owner.execute("ALTER TABLE parted DETACH PARTITION parted_1")
        with refused("PROTECTION_WEAKENED"):
            owner.execute("ALTER TABLE parted_1 DROP CONSTRAINT must")
        owner.execute("DROP TABLE parted_1")

    def test_a_child_that_comes_later(self, owner):
        """It inherits nothing where the parent's NOT NULL is NO INHERIT: by hand it takes rows of nobody, and is closed to them here."""
        for table in ("plain", "doc"):
            owner.execute(f"ALTER TABLE {table} ALTER CONSTRAINT must NO INHERIT")
            owner.execute(f"CREATE TABLE {table}_later () INHERITS ({table})")
        assert not value(owner, IS_NOT_NULL, ["plain_later"])
        assert value(owner, IS_NOT_NULL, ["doc_later"]) and value(owner, DRIFT, ["doc_later"]) == []

    def test_what_weakens_nothing(self, owner):
        owner.execute("ALTER TABLE doc ADD CONSTRAINT small CHECK (n < 100), ALTER COLUMN n SET NOT NULL")
        owner.execute("ALTER TABLE doc DROP CONSTRAINT small, DROP CONSTRAINT doc_n_not_null")
        owner.execute("ALTER TABLE doc RENAME CONSTRAINT must TO has_to")
        # The key goes, and leaves the NOT NULL that came with it.
        owner.execute("CREATE TABLE other (n integer, tenant_id text, PRIMARY KEY (tenant_id, n))")
        owner.execute("SELECT tenancy.protect('other')")
        owner.execute("ALTER TABLE other DROP CONSTRAINT other_pkey")
        assert value(owner, IS_NOT_NULL, ["other"])

    def test_one_that_is_not_valid_yet(self, owner, dba):
        """PostgreSQL says of the column that it is NOT NULL, though there are nulls in it: protect looks at the rows, not at that."""
        owner.execute("CREATE TABLE other (n integer, tenant_id text)")
        owner.execute("INSERT INTO other VALUES (1, 'acme'), (2, NULL)")
        owner.execute("ALTER TABLE other ADD CONSTRAINT must NOT NULL tenant_id NOT VALID")
        assert value(owner, IS_NOT_NULL, ["other"])
        with refused("ROWS_WITHOUT_TENANT") as caught:
            owner.execute("SELECT tenancy.protect('other')")
        assert caught.detail["null_rows"] == 1
        owner.execute("UPDATE other SET tenant_id = 'acme' WHERE tenant_id IS NULL")
        owner.execute("SELECT tenancy.protect('other')")
        assert value(owner, DRIFT, ["other"]) == []
        # For what is written it holds.
        with sqlstate("23502"):
            dba.execute("INSERT INTO other VALUES (3, NULL)")
        owner.execute("ALTER TABLE other VALIDATE CONSTRAINT must")

    def test_one_that_is_not_valid_in_its_place(self, owner, dba):
        owner.execute("ALTER TABLE ONLY doc ALTER CONSTRAINT must NO INHERIT")
        owner.execute("ALTER TABLE doc DROP CONSTRAINT must, ADD CONSTRAINT again NOT NULL tenant_id NO INHERIT NOT VALID")
        with sqlstate("23502"):
            dba.execute("INSERT INTO doc VALUES (1, NULL)")
        assert value(owner, DRIFT, ["doc"]) == []

    def test_a_child_with_nulls_under_one_that_is_not_valid(self, owner):
        owner.execute("CREATE TABLE other (n integer, tenant_id text)")
        owner.execute("INSERT INTO other VALUES (1, NULL)")
        owner.execute("ALTER TABLE other ADD CONSTRAINT must NOT NULL tenant_id NOT VALID")
        owner.execute("ALTER TABLE plain ALTER CONSTRAINT must NO INHERIT")
        owner.execute("ALTER TABLE other INHERIT plain")
        owner.execute("ALTER TABLE other NO INHERIT plain")
        owner.execute("ALTER TABLE doc ALTER CONSTRAINT must NO INHERIT")
        with refused("ROWS_WITHOUT_TENANT"):
            owner.execute("ALTER TABLE other INHERIT doc")
