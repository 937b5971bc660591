-- tenancy.require_membership: where it is on, a user who is known must be an active member of the tenant.
\set VERBOSITY default
CREATE TABLE paper (id integer PRIMARY KEY, tenant_id text, owner text, body text);
SET client_min_messages = warning;
SELECT tenancy.protect('paper');
RESET client_min_messages;
INSERT INTO paper VALUES (1, 'acme', 'ann', 'of ann'), (2, 'acme', 'bob', 'of bob'), (3, 'beta', 'ann', 'of ann in beta');
GRANT SELECT, INSERT, UPDATE, DELETE ON paper TO regress_app, regress_bound, regress_outsider;
GRANT SET ON PARAMETER tenancy.user_id TO regress_app;
SELECT tenancy.add_user('ann'), tenancy.add_user('bob'), tenancy.add_user('eve');
SELECT tenancy.add_member('acme', 'ann', 'admin'), tenancy.add_member('acme', 'bob', 'viewer'), tenancy.add_member('beta', 'ann', 'viewer');

-- Who may turn it off: whoever may set a superuser's parameters.
SET ROLE regress_app;
SHOW tenancy.require_membership;
SET tenancy.require_membership = on;                           -- SHOULD FAIL
SELECT set_config('tenancy.require_membership', 'off', false); -- SHOULD FAIL
RESET tenancy.require_membership;                              -- SHOULD FAIL
UPDATE pg_settings SET setting = 'off' WHERE name = 'tenancy.require_membership';              -- SHOULD FAIL
ALTER ROLE regress_app SET tenancy.require_membership = on;    -- SHOULD FAIL
CREATE FUNCTION pg_temp.without() RETURNS text LANGUAGE sql SET tenancy.require_membership = off AS 'SELECT 1::text';   -- SHOULD FAIL
RESET ROLE;
SET tenancy.require_membership = on;

SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant(), count(*) FROM paper;          -- an unknown user passes
SET LOCAL tenancy.user_id = 'bob';
SELECT tenancy.current_tenant(), count(*) FROM paper;          -- a member passes
SET LOCAL tenancy.tenant_id = 'beta';
SAVEPOINT s;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL: of another tenant only
ROLLBACK TO s;
SELECT * FROM paper;                                           -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO paper (id) VALUES (7);                             -- SHOULD FAIL
ROLLBACK TO s;
UPDATE paper SET body = 'x' WHERE id = 12345;                  -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.has_role('viewer');                             -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.current_user_id();                              -- SHOULD FAIL
ROLLBACK TO s;
SELECT * FROM tenancy.members;                                 -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.is_member('ann', 'beta');                       -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.check_quota('calls');                           -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.track_usage('calls');                           -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.seal();                                         -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.set_tenant('beta');                             -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.set_tenant('acme'), tenancy.has_role('viewer');
ROLLBACK TO s;
SELECT tenancy.context();
SELECT 1 AS one;                                               -- what is of no tenant goes on
SET LOCAL tenancy.user_id = 'nobody';
SAVEPOINT s;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL: no user at all
ROLLBACK TO s;
SET LOCAL tenancy.user_id = '';
SELECT tenancy.current_tenant();
ROLLBACK;
-- Nothing to know of the other tenant either: whether it is there, and suspended, is told first.
BEGIN;
SET LOCAL tenancy.user_id = 'bob';
SET LOCAL tenancy.tenant_id = 'gone';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.user_id = 'bob';
SET LOCAL tenancy.tenant_id = 'nobody';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
ROLLBACK;
-- A plan that was kept, and an empty result.
PREPARE every AS SELECT id FROM paper WHERE id = 12345;
SET plan_cache_mode = force_generic_plan;
BEGIN; SET LOCAL tenancy.tenant_id = 'beta'; SET LOCAL tenancy.user_id = 'ann'; EXECUTE every; COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'beta'; SET LOCAL tenancy.user_id = 'bob'; EXECUTE every; COMMIT;   -- SHOULD FAIL
RESET plan_cache_mode;
-- Suspended, invited, removed: at the next statement of the same transaction, and back.
RESET ROLE;
SELECT tenancy.invite_member('beta', 'eve') IS NOT NULL AS invited;
BEGIN;
SET LOCAL tenancy.user_id = 'eve';
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL: invited
ROLLBACK;
SELECT tenancy.remove_member('beta', 'eve');
SET tenancy.user_id = 'bob';
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = '';
SELECT tenancy.suspend_member('acme', 'bob');
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.current_tenant();
SET LOCAL tenancy.tenant_id = '';
SELECT tenancy.remove_member('acme', 'bob');
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.current_tenant();
SET LOCAL tenancy.require_membership = off;
UPDATE _tenancy.members SET status = 'suspended' WHERE user_id = 'bob';
SELECT tenancy.current_tenant();
SET LOCAL tenancy.require_membership = on;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL: turned on again
ROLLBACK;
RESET tenancy.user_id;
RESET tenancy.require_membership;
-- Set for a role; whom nothing of it lets out.
ALTER ROLE regress_bound SET tenancy.require_membership = on;
\c - regress_bound
SELECT tenancy.current_tenant();
RESET tenancy.require_membership;                              -- SHOULD FAIL
\c - postgres
ALTER ROLE regress_bound SET tenancy.user_id = 'bob';
\c - regress_bound
SELECT tenancy.current_tenant(), tenancy.current_user_id(), tenancy.has_role('viewer'), count(*) FROM paper;
SET tenancy.user_id = '';                                      -- SHOULD FAIL
SET tenancy.require_membership = off;                          -- SHOULD FAIL
DISCARD ALL;
SELECT tenancy.current_tenant(), tenancy.current_user_id();
\c - postgres
SELECT tenancy.suspend_member('acme', 'bob');
\c - regress_bound
SELECT count(*) FROM paper;                                    -- SHOULD FAIL
DISCARD ALL;
RESET ALL;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
\c - postgres
\set VERBOSITY default
SELECT tenancy.resume_member('acme', 'bob');
ALTER ROLE regress_bound RESET tenancy.user_id;
ALTER ROLE regress_bound RESET tenancy.require_membership;

-- A single-tenant deployment: the same, with nothing set.
SELECT tenancy.current_user_id() IS NULL AS unknown;
SET tenancy.mode = 'single';
SET tenancy.default_tenant = 'acme';
SET tenancy.user_id = 'ann';
SELECT tenancy.has_role('admin'), tenancy.is_member('bob', 'acme'), tenancy.is_member('ann', 'beta');
SELECT tenancy.add_user('new'), tenancy.add_member('acme', 'new', 'viewer');
SET ROLE regress_outsider;
SELECT tenancy.current_tenant(), tenancy.current_user_id(), tenancy.has_role('admin'), tenancy.is_member('new', 'acme'), count(*) FROM paper;
SELECT tenant_id, user_id FROM tenancy.members WHERE user_id IN ('ann', 'new') ORDER BY 2;
SELECT tenancy.is_member('ann', 'beta');                       -- SHOULD FAIL
RESET ROLE;
SET tenancy.require_membership = on;
SET ROLE regress_outsider;
SELECT tenancy.has_role('admin');
RESET ROLE;
SET tenancy.user_id = 'eve';
SET ROLE regress_outsider;
SELECT count(*) FROM paper;                                    -- SHOULD FAIL
SELECT * FROM tenancy.members;                                 -- SHOULD FAIL
SELECT tenancy.context() ->> 'error' AS error;
RESET ROLE;
-- Whoever was invited is not in yet, and gets in by its invitation; there, and where the default is no tenant at all.
SELECT tenancy.invite_member('acme', 'eve') AS code \gset
SET tenancy.user_id = 'bob';
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SET tenancy.user_id = 'eve';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
BEGIN;
SET LOCAL tenancy.default_tenant = 'nobody';
SELECT tenancy.accept_invitation(:'code') ->> 'user_id' AS accepted;
ROLLBACK;
SELECT tenancy.accept_invitation(:'code') ->> 'user_id' AS accepted;
SELECT tenancy.current_tenant();
RESET tenancy.mode;
RESET tenancy.default_tenant;
RESET tenancy.require_membership;
RESET tenancy.user_id;

-- As it was.
SELECT count(tenancy.remove_user(id)) FROM tenancy.users;
SELECT (SELECT count(*) FROM _tenancy.users) AS users, (SELECT count(*) FROM _tenancy.members) AS members;
REVOKE SET ON PARAMETER tenancy.user_id FROM regress_app;
DROP TABLE paper;
