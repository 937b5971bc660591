"""What auditing costs, as ratios measured in one run: against the same table unaudited, and against a trigger that one would write by hand."""

import statistics

from slices import CLIENTS, alternate, per_second, timed
from support import QUICK, heading, print_results, psql, ratio, result, say

ROWS = 10_000 if QUICK else 100_000

SCHEMA = """
CREATE EXTENSION tenancy;
SELECT tenancy.create_tenant('acme');
CREATE TABLE unaudited (id bigint PRIMARY KEY, tenant_id text NOT NULL, name text, amount integer, note text, changed_at timestamptz)
    WITH (fillfactor = 50);
CREATE TABLE audited (LIKE unaudited INCLUDING ALL) WITH (fillfactor = 50);
CREATE TABLE by_hand (LIKE unaudited INCLUDING ALL) WITH (fillfactor = 50);
SELECT tenancy.protect(t) FROM unnest('{unaudited,audited,by_hand}'::regclass[]) AS t;

-- What one writes by hand: the whole row before and after, as the PostgreSQL wiki has it, with the index that reading it asks for.
CREATE TABLE trail (tenant_id text, recorded_at timestamptz, operation text, relation text, old jsonb, new jsonb, actor text, role text,
                    transaction bigint);
CREATE INDEX ON trail (tenant_id, recorded_at);
CREATE FUNCTION by_hand() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO trail VALUES (coalesce(NEW.tenant_id, OLD.tenant_id), statement_timestamp(), TG_OP, TG_RELID::regclass::text,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
        nullif(current_setting('tenancy.user_id'), ''), session_user, txid_current());
    RETURN NULL;
END
$$;
GRANT ALL ON unaudited, audited, by_hand TO bench_app;
GRANT SET ON PARAMETER tenancy.tenant_id, tenancy.user_id TO bench_app;
"""
TABLES = ["unaudited", "audited", "by_hand"]


def fill():
    rows = f"SELECT n, 'acme', 'name of ' || n, n, repeat('note ', 20), now() FROM generate_series(1, {ROWS}) AS n"
    psql("audit", text=f"""
        DROP TRIGGER IF EXISTS by_hand ON by_hand;
        SELECT tenancy.unaudit(relation) FROM tenancy.audited_tables;
        TRUNCATE unaudited, audited, by_hand;
        INSERT INTO unaudited {rows};
        INSERT INTO audited {rows};
        INSERT INTO by_hand {rows};
        SELECT tenancy.audit('audited');
        CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE ON by_hand FOR EACH ROW EXECUTE FUNCTION by_hand();
        VACUUM ANALYZE;""")


def single_rows():
    update = ("\\set id random(1, %d)\nBEGIN;\nSET LOCAL tenancy.tenant_id = 'acme';\n"
              "UPDATE {} SET amount = amount + 1, changed_at = now() WHERE id = :id;\nCOMMIT;\n" % ROWS)
    scripts = {table: update.format(table) for table in TABLES}
    for commit in ("on", "off"):
        say(f"single rows, synchronous_commit {commit} …")
        taken = alternate("audit", scripts, commit)
        result(f"audited : unaudited, synchronous_commit {commit}", ratio(taken["audited"], taken["unaudited"]), 0.80,
               figures=per_second(taken, "audited", "unaudited"))
        result(f"by hand : unaudited, synchronous_commit {commit}", ratio(taken["by_hand"], taken["unaudited"]),
               figures=per_second(taken, "by_hand", "unaudited"))


def bulk():
    say(f"{ROWS:,} rows …")
    taken = {table: [] for table in TABLES}
    for n in range(3 if QUICK else 7):
        fill()
        for table in TABLES if n % 2 == 0 else reversed(TABLES):
            taken[table].append(timed("audit", f"UPDATE {table} SET amount = amount + 1, changed_at = now();",
                                      "SET tenancy.tenant_id = 'acme'; CHECKPOINT;"))
    figures = " : ".join(f"{statistics.median(taken[table]):.0f} ms" for table in TABLES)
    result(f"audited : unaudited, UPDATE of {ROWS:,} rows, time", ratio(taken["audited"], taken["unaudited"]), figures=figures)
    # What auditing adds, per row.
    added = {table: [with_it - without for with_it, without in zip(taken[table], taken["unaudited"])] for table in TABLES[1:]}
    result("added by hand : added by audit, per row in bulk", ratio(added["by_hand"], added["audited"]), 2.0,
           figures=" : ".join(f"{statistics.median(added[t]) / ROWS * 1000:.1f} us" for t in ("by_hand", "audited")))


def verify():
    say("verifying …")
    entries = int(psql("audit", text="SELECT count(*) FROM _tenancy.audit_entries WHERE tenant_id = 'acme';").split()[-1])
    took = min(timed("audit", "SELECT count(*) FROM tenancy.verify_audit('acme');") for _ in range(3))
    result("entries verified per second", entries / took * 1000, figures=f"{entries:,} in {took:.0f} ms")


def main():
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE audit;")
    psql("audit", text=SCHEMA)
    fill()
    heading(f"Auditing, {CLIENTS} clients of one tenant, one row a transaction: transactions per second")
    single_rows()
    heading("In bulk")
    bulk()
    verify()
    print_results()


if __name__ == "__main__":
    main()
