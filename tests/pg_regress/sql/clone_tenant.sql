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
-- Foreign keys that would go on pointing at the first tenant, or ask for two values of a column.
CREATE TABLE twin.part (id bigint, tenant_id text, customer bigint) PARTITION BY RANGE (id);
CREATE TABLE twin.part_1 PARTITION OF twin.part FOR VALUES FROM (0) TO (10);
ALTER TABLE twin.part_1 ADD FOREIGN KEY (customer) REFERENCES twin.customer;
CREATE TABLE twin.account (tenant_id text PRIMARY KEY);
CREATE TABLE twin.bill (tenant_id text, billed_to text REFERENCES twin.account);
SET client_min_messages = warning;
SELECT tenancy.protect(t) FROM unnest('{twin.part,twin.account,twin.bill}'::regclass[]) t;
INSERT INTO twin.part SELECT 1, 'source', min(id) FROM twin.customer WHERE tenant_id = 'source';
INSERT INTO twin.account VALUES ('source');
INSERT INTO twin.bill VALUES ('source', 'source');
SELECT tenancy.clone_tenant('source', 'twin-4');
SELECT b.tenant_id, b.billed_to, c.tenant_id AS customer_of FROM twin.bill b JOIN twin.part p USING (tenant_id) JOIN twin.customer c ON c.id = p.customer ORDER BY 1;
SELECT tenancy.archive_tenant('twin-4'), tenancy.delete_tenant('twin-4') > 0 AS deleted;
CREATE TABLE twin.loose (tenant_id text, customer bigint REFERENCES twin.customer);
SELECT tenancy.protect('twin.loose', foreign_keys => 'keep');
INSERT INTO twin.loose SELECT 'source', id FROM twin.customer WHERE tenant_id = 'twin-1' LIMIT 1;
SELECT tenancy.clone_tenant('source', 'twin-4');
DELETE FROM twin.loose;
CREATE TABLE twin.kept (tenant_id text, no bigint, PRIMARY KEY (tenant_id, no));
CREATE TABLE twin.both (tenant_id text, x bigint REFERENCES twin.customer, FOREIGN KEY (tenant_id, x) REFERENCES twin.kept);
SELECT tenancy.protect(t) FROM unnest('{twin.kept,twin.both}'::regclass[]) t;
SELECT tenancy.clone_tenant('source', 'twin-4');
DROP TABLE twin.both;
-- What stays: a uuid that is another's, what all share. What follows itself.
CREATE TABLE twin.product (id uuid PRIMARY KEY);
CREATE TABLE twin.currency (code text PRIMARY KEY, tenant_id text);
CREATE TABLE twin.item (tenant_id text, token uuid REFERENCES twin."Weird Order" (token), product uuid REFERENCES twin.product, elsewhere uuid, currency text REFERENCES twin.currency, PRIMARY KEY (token, product));
CREATE TABLE twin.chain (id uuid PRIMARY KEY, tenant_id text, next uuid UNIQUE REFERENCES twin.chain);
SELECT tenancy.protect('twin.item'), tenancy.protect('twin.chain'), tenancy.protect('twin.currency', 'shared');
INSERT INTO twin.product VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
INSERT INTO twin.currency VALUES ('EUR', NULL);
INSERT INTO twin.item SELECT 'source', token, p.id, p.id, 'EUR' FROM twin."Weird Order", twin.product p WHERE tenant_id = 'source';
INSERT INTO twin.chain VALUES ('00000000-0000-0000-0000-000000000001', 'source', '00000000-0000-0000-0000-000000000001');
SELECT tenancy.clone_tenant('source', 'twin-4');
SELECT i.tenant_id, o.tenant_id AS order_of, i.product, i.elsewhere, i.currency, count(*) FROM twin.item i JOIN twin."Weird Order" o USING (token) GROUP BY 1, 2, 3, 4, 5 ORDER BY 1;
SELECT tenant_id, next = id AS itself FROM twin.chain ORDER BY 1;
SELECT tenancy.archive_tenant('twin-4'), tenancy.delete_tenant('twin-4') > 0 AS deleted;
CREATE TABLE twin.invoice (no text PRIMARY KEY DEFAULT 'x', tenant_id text);
CREATE SEQUENCE twin.s OWNED BY twin.invoice.no;
SELECT tenancy.protect('twin.invoice');
INSERT INTO twin.invoice VALUES ('INV-1', 'source');
SELECT tenancy.clone_tenant('source', 'twin-4');
DROP TABLE twin.invoice;
-- Keys that the application makes, and what is no key although it is a uuid with a default.
CREATE TABLE twin.ticket (id bigserial PRIMARY KEY, public_id uuid NOT NULL UNIQUE, tenant_id text);
CREATE TABLE twin.event (id uuid, at date, tenant_id text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE twin.event_1 PARTITION OF twin.event DEFAULT;
CREATE TABLE twin.ware (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE twin.prod (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE twin.shipment (tenant_id text, owner text, wh int, prod int, FOREIGN KEY (owner, wh) REFERENCES twin.ware, FOREIGN KEY (owner, prod) REFERENCES twin.prod);
SELECT tenancy.protect(t) FROM unnest('{twin.ticket,twin.event,twin.ware,twin.prod,twin.shipment}'::regclass[]) t;
INSERT INTO twin.ticket (public_id, tenant_id) VALUES ('00000000-0000-0000-0000-000000000007', 'source');
INSERT INTO twin.event VALUES ('00000000-0000-0000-0000-000000000008', '2026-01-01', 'source');
INSERT INTO twin.ware VALUES ('source', 1);
INSERT INTO twin.prod VALUES ('source', 2);
INSERT INTO twin.shipment VALUES ('source', 'source', 1, 2);
SELECT tenancy.clone_tenant('source', 'twin-4');
SELECT count(*), count(DISTINCT public_id) FROM twin.ticket;
SELECT count(*), count(DISTINCT id) FROM twin.event;
SELECT * FROM twin.shipment ORDER BY tenant_id;
SELECT tenancy.archive_tenant('twin-4'), tenancy.delete_tenant('twin-4') > 0 AS deleted;
CREATE FUNCTION twin.somebody() RETURNS uuid LANGUAGE sql AS $$ SELECT '00000000-0000-0000-0000-000000000009'::uuid $$;
CREATE TABLE twin.favourite (somebody uuid DEFAULT twin.somebody(), item int, tenant_id text, PRIMARY KEY (somebody, item));
SELECT tenancy.protect('twin.favourite');
INSERT INTO twin.favourite VALUES (DEFAULT, 1, 'source');
SELECT tenancy.clone_tenant('source', 'twin-4');
DROP TABLE twin.favourite;
-- A row of a table that all share, which is another tenant's.
INSERT INTO twin.currency VALUES ('SECRET', 'other-one');
UPDATE twin.item SET currency = 'SECRET' WHERE tenant_id = 'source';
SELECT tenancy.clone_tenant('source', 'twin-4');
UPDATE twin.item SET currency = 'EUR' WHERE tenant_id = 'source';
-- Whoever has privileges on whatever the extension's owner makes, has none on what is made meanwhile, the first time and later.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
CREATE TABLE twin.seen (call text, relation text, open boolean);
CREATE FUNCTION twin.look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO twin.seen SELECT NEW.tenant_id, c.relname, EXISTS (SELECT FROM aclexplode(c.relacl) x WHERE x.grantee = 0) FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema() AND c.relname ~ '^(tenancy_|other)' AND c.relkind = 'r';
    RETURN NEW;
END $$;
CREATE TRIGGER look AFTER INSERT ON twin.ware FOR EACH ROW EXECUTE FUNCTION twin.look();
CREATE TEMPORARY TABLE other ();
SELECT tenancy.clone_tenant('source', 'twin-4'), tenancy.clone_tenant('source', 'twin-5');
SELECT relation, open, count(*) FROM twin.seen GROUP BY relation, open ORDER BY 1, 2;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
DROP TABLE other;
SELECT count(tenancy.archive_tenant(id)), count(tenancy.delete_tenant(id)) FROM tenancy.tenants WHERE id IN ('twin-4', 'twin-5');
RESET client_min_messages;
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
