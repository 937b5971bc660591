"""What watching a table for caches costs, as ratios measured in one run: against the same table unwatched, and against what one would write by hand."""

from slices import CLIENTS, alternate, insertion, one_call, per_second
from support import heading, print_results, psql, ratio, result, say

SCHEMA = """
CREATE EXTENSION tenancy;
SELECT tenancy.create_tenant('acme');
CREATE TABLE unwatched (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, body text);
CREATE TABLE watched (LIKE unwatched INCLUDING ALL);
CREATE TABLE notified (LIKE unwatched INCLUDING ALL);
CREATE TABLE by_hand (LIKE unwatched INCLUDING ALL);
SELECT tenancy.protect(t) FROM unnest('{unwatched,watched,notified,by_hand}'::regclass[]) AS t;
SELECT tenancy.cache_watch('watched', 'row'), tenancy.cache_watch('notified', 'other', true);

-- What one writes by hand: a version that is updated in the transaction.
CREATE TABLE versions (tenant_id text PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO versions VALUES ('acme', 0);
CREATE FUNCTION by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE versions SET version = version + 1 WHERE tenant_id = NEW.tenant_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER by_hand AFTER INSERT ON by_hand FOR EACH ROW EXECUTE FUNCTION by_hand();
GRANT ALL ON ALL TABLES IN SCHEMA public TO bench_app;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
"""


def main():
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE cache;")
    psql("cache", text=SCHEMA)
    heading(f"Watching a table for caches, {CLIENTS} clients of one tenant, one row a transaction: transactions per second")
    tables = ["watched", "notified", "by_hand"]
    for commit in ("on", "off"):
        say(f"single rows, synchronous_commit {commit} …")
        taken = alternate("cache", {table: insertion(table) for table in ["unwatched", *tables]}, commit)
        for table in tables:
            result(f"{table} : unwatched, synchronous_commit {commit}", ratio(taken[table], taken["unwatched"]),
                   0.90 if table == "watched" else None, figures=per_second(taken, table, "unwatched"))
    heading("The time of a call in microseconds")
    setup = "SET tenancy.tenant_id = 'acme';"
    psql("cache", text=f"{setup} SELECT tenancy.cache_set('k', '{{\"total\": 42}}', '1 day');")
    for call in ("cache_key('row', 'k')", "cache_version('row')", "cache_get('k')"):
        result(call.split("(")[0], one_call("cache", f"tenancy.{call}", setup))
    result("cache_set", one_call("cache", "tenancy.cache_set('k' || generate_series, '{\"total\": 42}')", setup))
    print_results()


main()
