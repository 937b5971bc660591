-- The trigger function of audited tables is for whoever attaches a partition, and for nothing else: no entry is made by hand.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE TABLE thing (id int PRIMARY KEY, tenant_id text);
ALTER TABLE thing OWNER TO regress_owner;
SET client_min_messages = warning;
SELECT tenancy.protect('thing'), tenancy.audit('thing');
RESET client_min_messages;
INSERT INTO thing VALUES (1, 'acme');
SET ROLE regress_owner;
SELECT _tenancy.audit_row();                                   -- SHOULD FAIL
CREATE TABLE forgery (id int PRIMARY KEY, tenant_id text);
CREATE TRIGGER mine AFTER INSERT ON forgery FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row('tenant_id');
INSERT INTO forgery VALUES (1, 'beta');                        -- SHOULD FAIL: the arguments of the extension's own tables
CREATE OR REPLACE TRIGGER mine AFTER INSERT ON forgery FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row();
INSERT INTO forgery VALUES (1, 'beta');                        -- SHOULD FAIL: not audited
ALTER TRIGGER mine ON forgery RENAME TO tenancy_audit;
INSERT INTO forgery VALUES (1, 'beta');                        -- SHOULD FAIL: likewise
CREATE TRIGGER tenancy_audit_truncate AFTER TRUNCATE ON forgery FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.audit_row();
TRUNCATE forgery;                                              -- SHOULD FAIL: likewise
DROP TABLE forgery;
CREATE TRIGGER again AFTER UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row();
RESET ROLE;
UPDATE thing SET id = 2;                                       -- SHOULD FAIL: a change has one entry
DROP TRIGGER again ON thing;
UPDATE thing SET id = 2;

-- Partitions come and go by their owner's hand.
SET client_min_messages = warning;
CREATE TABLE visit (id int, tenant_id text) PARTITION BY RANGE (id);
ALTER TABLE visit OWNER TO regress_owner;
SELECT tenancy.protect('visit'), tenancy.audit('visit');
SET ROLE regress_owner;
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (1) TO (10);
CREATE TABLE visit_2 (id int, tenant_id text NOT NULL);
ALTER TABLE visit ATTACH PARTITION visit_2 FOR VALUES FROM (10) TO (20);
RESET ROLE;
INSERT INTO visit VALUES (1, 'acme'), (11, 'beta');
INSERT INTO visit_2 VALUES (12, 'acme');
SET ROLE regress_owner;
ALTER TABLE visit DETACH PARTITION visit_2;
RESET ROLE;
UPDATE visit_2 SET id = 3;
SELECT tenant_id, operation, relation, new FROM tenancy.audit_log WHERE relation IN ('public.thing', 'public.forgery', 'public.visit', 'public.visit_1', 'public.visit_2')
    ORDER BY recorded_at, tenant_id, number;
DROP TABLE visit_2, visit, thing;
RESET client_min_messages;
