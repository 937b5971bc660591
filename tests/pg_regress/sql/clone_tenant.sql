-- clone_tenant(): keys are made anew where they must be, and what refers to them follows.
SET client_min_messages = warning;
CREATE SCHEMA twin;
CREATE TABLE twin.customer (id bigserial PRIMARY KEY, tenant_id text, name text NOT NULL, "Boss" bigint REFERENCES twin.customer, UNIQUE (tenant_id, name));
CREATE TABLE twin."Weird Order" (tenant_id text, "No." integer GENERATED ALWAYS AS IDENTITY, token uuid UNIQUE DEFAULT gen_random_uuid(), customer bigint REFERENCES twin.customer,
    twice numeric GENERATED ALWAYS AS (amount * 2) STORED, amount numeric, note text, PRIMARY KEY (tenant_id, "No."));
CREATE TABLE twin.line (tenant_id text, number integer, token uuid REFERENCES twin."Weird Order" (token), part integer, PRIMARY KEY (token, part));
CREATE TABLE twin.profile (customer bigint PRIMARY KEY REFERENCES twin.customer, tenant_id text, data jsonb);
CREATE TABLE twin.badge (tenant_id text, profile bigint REFERENCES twin.profile, label text);
SELECT tenancy.protect(t) FROM unnest('{twin.customer,"twin.\"Weird Order\"",twin.line,twin.profile,twin.badge}'::regclass[]) t;
SELECT tenancy.create_tenant('source', 'Source', 'source-twin', 'gold', '{"a": 1}'), tenancy.create_tenant('other-one');
SELECT tenancy.set_quota('source', 'twin-calls', 7, 'day'), tenancy.add_user('twin-ann'), tenancy.add_member('source', 'twin-ann', 'admin');
INSERT INTO twin.customer (tenant_id, name, "Boss") VALUES ('other-one', 'X', NULL), ('source', 'A', 2), ('source', 'B', 2), ('source', 'C "quoted" \ ,', 3);
INSERT INTO twin."Weird Order" (tenant_id, customer, amount, note) SELECT 'source', id, id * 1.5, CASE WHEN id = 3 THEN E'line\nbreak' END FROM twin.customer WHERE tenant_id = 'source';
INSERT INTO twin.line (tenant_id, token, part) SELECT 'source', token, n FROM twin."Weird Order", generate_series(1, 2) n;
INSERT INTO twin.profile SELECT id, 'source', '{"k": [1, null]}' FROM twin.customer WHERE tenant_id = 'source';
INSERT INTO twin.badge SELECT 'source', customer, 'gold' FROM twin.profile;
RESET client_min_messages;

SELECT tenancy.clone_tenant('source', 'twin-1', members => true);
SELECT id, name, subdomain, plan, settings, status FROM tenancy.tenants WHERE id IN ('source', 'twin-1') ORDER BY id;
SELECT tenant_id, user_id, role FROM tenancy.members WHERE user_id = 'twin-ann' ORDER BY tenant_id;
SELECT scope, name, resource, period, max_amount FROM tenancy.quotas WHERE resource = 'twin-calls' ORDER BY name;

-- The same graph: everything but keys, which none shares.
CREATE VIEW twin.graph AS
    SELECT c.tenant_id, c.name, b.name AS boss, b.tenant_id AS boss_of, o.amount, o.twice, o.note, l.part, p.data, g.label
    FROM twin.customer c LEFT JOIN twin.customer b ON b.id = c."Boss" LEFT JOIN twin."Weird Order" o ON o.customer = c.id LEFT JOIN twin.line l ON l.token = o.token
    LEFT JOIN twin.profile p ON p.customer = c.id LEFT JOIN twin.badge g ON g.profile = p.customer;
SELECT name, boss, boss_of, amount, twice, note, part, data, label FROM twin.graph WHERE tenant_id = 'twin-1' ORDER BY name, part;
(SELECT name, boss, amount, twice, note, part, data, label FROM twin.graph WHERE tenant_id = 'source' EXCEPT ALL SELECT name, boss, amount, twice, note, part, data, label FROM twin.graph WHERE tenant_id = 'twin-1')
UNION ALL
(SELECT name, boss, amount, twice, note, part, data, label FROM twin.graph WHERE tenant_id = 'twin-1' EXCEPT ALL SELECT name, boss, amount, twice, note, part, data, label FROM twin.graph WHERE tenant_id = 'source');
SELECT count(*), count(DISTINCT id), count(DISTINCT tenant_id) FROM twin.customer;
-- A key that has the tenant column stays as it is.
SELECT tenant_id, array_agg("No." ORDER BY "No.") FROM twin."Weird Order" GROUP BY tenant_id ORDER BY tenant_id;
-- And goes on: keys that are made later are free.
INSERT INTO twin.customer (tenant_id, name) VALUES ('source', 'later') RETURNING id > (SELECT max(id) FROM twin.customer) AS is_free;

-- A clone of a clone, under another name and without members; and one of a tenant without rows.
SELECT tenancy.clone_tenant('twin-1', 'twin-2', 'Third'), tenancy.clone_tenant('other-one', 'twin-3');
SELECT id, name FROM tenancy.tenants WHERE id LIKE 'twin-_' ORDER BY id;
SELECT count(*) FROM tenancy.members WHERE tenant_id = 'twin-2';

-- What cannot be: nothing of it stays.
SELECT tenancy.clone_tenant('source', 'twin-1');
SELECT tenancy.clone_tenant('nobody', 'twin-4');
SELECT tenancy.clone_tenant('source', NULL);
SELECT tenancy.clone_tenant('source', 'bad id');
SET tenancy.tenant_id = 'source';
SELECT tenancy.clone_tenant('source', 'twin-4');
RESET tenancy.tenant_id;
CREATE UNIQUE INDEX customer_lower ON twin.customer (lower(name)) WHERE tenant_id = 'source';
SELECT tenancy.clone_tenant('source', 'twin-4');
DROP INDEX twin.customer_lower;
ALTER TABLE twin.badge ADD COLUMN code integer UNIQUE;
SELECT tenancy.clone_tenant('source', 'twin-4');
ALTER TABLE twin.badge DROP COLUMN code;
SELECT count(*) FROM tenancy.tenants WHERE id = 'twin-4';
SET ROLE regress_outsider;
SELECT tenancy.clone_tenant('source', 'twin-4');
RESET ROLE;
SELECT operation, detail FROM tenancy.audit_log WHERE operation = 'CLONE_TENANT' ORDER BY recorded_at, number;

SET client_min_messages = warning;
DROP SCHEMA twin CASCADE;
DELETE FROM _tenancy.quotas WHERE resource = 'twin-calls';
SELECT count(tenancy.archive_tenant(id)), count(tenancy.delete_tenant(id)) FROM tenancy.tenants WHERE id IN ('source', 'other-one', 'twin-1', 'twin-2', 'twin-3');
SELECT tenancy.remove_user('twin-ann');
