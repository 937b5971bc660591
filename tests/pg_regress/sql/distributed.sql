-- Tables that Citus has distributed: on its servers, no policy narrows. Citus is in no registry, so this is a stand-in for the catalog in which it tells of them.
\set SHOW_CONTEXT never
CREATE TABLE bills (tenant_id text NOT NULL, id integer NOT NULL, item text, PRIMARY KEY (tenant_id, id));
CREATE TABLE "Weird Notes" (tenant_id text, note text);
CREATE TABLE here (tenant_id text NOT NULL, id integer NOT NULL);
SET client_min_messages = warning;
SELECT tenancy.protect('bills'), tenancy.protect('"Weird Notes"', 'shared'), tenancy.protect('here');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON bills, "Weird Notes", here TO regress_app;
SELECT rule, object FROM tenancy.lint() WHERE rule = 'distributed_open';
BEGIN;
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC;
INSERT INTO pg_dist_partition VALUES ('bills'), ('"Weird Notes"'), ('pg_class');
SELECT rule, severity, object, problem, remedy FROM tenancy.lint() WHERE rule = 'distributed_open' ORDER BY object;
SELECT relation, check_name, result, detail FROM tenancy.prove('regress_app', 'bills') WHERE result = 'leaked';
SELECT DISTINCT result FROM tenancy.prove('regress_app', 'here') WHERE result = 'leaked';
ROLLBACK;
SELECT rule, object FROM tenancy.lint() WHERE rule = 'distributed_open';
DROP TABLE bills, "Weird Notes", here;
