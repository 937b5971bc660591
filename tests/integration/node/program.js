// What an application on node-postgres does, as a list of checks. Run by test_node.py, which gives the
// connection in PGHOST, PGPORT and PGDATABASE, and the roles in argv. Prints one JSON object: check → result.
'use strict';

const assert = require('node:assert/strict');
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');

const [APP, GUEST] = process.argv.slice(2);
const ROWS = { acme: ['a1', 'a2', 'a3'], globex: ['g1', 'g2'], initech: ['i1'], umbrella: [] };
const TENANTS = Object.keys(ROWS);
const QUERY = 'SELECT item FROM orders ORDER BY item';

/** Runs `work` in a transaction of a tenant. This is the pattern for applications. */
async function withTenant(pool, tenant, work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    await client.query("SELECT set_config('tenancy.tenant_id', $1, true)", [tenant]);
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

async function withPool(work, options = {}) {
  const pool = new Pool({ user: APP, max: 3, ...options });
  try {
    return await work(pool);
  } finally {
    await pool.end();
  }
}

const items = async (client) => (await client.query(QUERY)).rows.map((row) => row.item);

/** The error of a promise, which must fail. */
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: 'no error was raised' });
}

async function refused(promise, code, sqlstate) {
  const error = await failure(promise);
  assert.equal(error.code, sqlstate);
  assert.equal(JSON.parse(error.detail).code, code);
  assert.ok(error.hint);
  return error;
}

const checks = {
  // Many transactions at once over few connections: nobody ever sees a foreign row.
  async pool() {
    await withPool(async (pool) => {
      const turns = [];
      for (let i = 0; i < 200; i++) {
        const tenant = TENANTS[i % TENANTS.length];
        turns.push(withTenant(pool, tenant, async (client) => {
          assert.deepEqual(await items(client), ROWS[tenant]);
          const { rows } = await client.query('SELECT DISTINCT tenant_id FROM orders');
          assert.ok(rows.every((row) => row.tenant_id === tenant));
        }));
      }
      await Promise.all(turns);
      await refused(pool.query(QUERY), 'TENANT_CONTEXT_MISSING', '55000');
    });
  },

  async preparedStatements() {
    await withPool(async (pool) => {
      await pool.query('SET plan_cache_mode = force_generic_plan');
      for (let turn = 0; turn < 7; turn++) {
        for (const tenant of TENANTS) {
          const { rows } = await withTenant(pool, tenant, (client) =>
            client.query({ name: 'orders-of', text: 'SELECT item FROM orders WHERE amount >= $1 ORDER BY item', values: [1] }));
          assert.deepEqual(rows.map((row) => row.item), ROWS[tenant]);
        }
      }
      const { rows } = await pool.query("SELECT generic_plans FROM pg_prepared_statements WHERE name = 'orders-of'");
      assert.equal(Number(rows[0].generic_plans), 7 * TENANTS.length);
    }, { max: 1 });
  },

  async cursor() {
    await withPool(async (pool) => {
      for (const tenant of TENANTS) {
        await withTenant(pool, tenant, async (client) => {
          const cursor = client.query(new Cursor(QUERY));
          const seen = [];
          for (;;) {
            const rows = await cursor.read(1);
            if (rows.length === 0) break;
            seen.push(rows[0].item);
          }
          await cursor.close();
          assert.deepEqual(seen, ROWS[tenant]);
        });
      }
    });
  },

  async insertWithDefault() {
    await withPool(async (pool) => {
      const { rows } = await withTenant(pool, 'umbrella', async (client) => {
        const inserted = await client.query("INSERT INTO orders (item) VALUES ('u1') RETURNING tenant_id");
        await client.query('DELETE FROM orders');
        return inserted;
      });
      assert.equal(rows[0].tenant_id, 'umbrella');
    });
  },

  async errorFields() {
    await withPool(async (pool) => {
      const unique = await failure(withTenant(pool, 'acme', (client) =>
        client.query("INSERT INTO orders (item) VALUES ('a1')")));
      assert.equal(unique.code, '23505');
      assert.equal(unique.constraint, 'orders_item_key');
      assert.equal(unique.table, 'orders');
      assert.equal(unique.schema, 'public');

      const check = await failure(withTenant(pool, 'acme', (client) =>
        client.query('UPDATE orders SET amount = 0')));
      assert.equal(check.code, '23514');
      assert.equal(check.constraint, 'orders_amount_positive');

      const syntax = await failure(withTenant(pool, 'acme', (client) => client.query('SELECT item FORM orders')));
      assert.equal(syntax.code, '42601');
      assert.equal(syntax.position, String('SELECT item FORM '.length + 1));

      const denied = await refused(withTenant(pool, 'acme', (client) =>
        client.query("INSERT INTO orders (tenant_id, item) VALUES ($1, 'x')", ['globex'])), 'TENANT_ACCESS_DENIED', '42501');
      assert.equal(JSON.parse(denied.detail).tenant_id, 'acme');
      assert.ok(!`${denied.message} ${denied.detail} ${denied.hint}`.includes('globex'));

      await refused(withTenant(pool, 'nobody', items), 'TENANT_NOT_FOUND', '42704');
      await refused(withTenant(pool, 'not/valid', items), 'TENANT_ID_INVALID', '22023');
    });
  },

  async startupOption() {
    await withPool(async (pool) => {
      assert.deepEqual(await items(pool), ROWS.globex);
      assert.deepEqual(await items(pool), ROWS.globex);
    }, { options: '-c tenancy.tenant_id=globex' });

    const denied = await failure(new Client({ user: GUEST, options: '-c tenancy.tenant_id=globex' }).connect());
    assert.equal(denied.code, '42501');
    assert.equal(denied.severity, 'FATAL');
    const malformed = await failure(new Client({ user: APP, options: '-c tenancy.tenant_id=a/b' }).connect());
    assert.equal(malformed.code, '22023');
    assert.equal(JSON.parse(malformed.detail).code, 'TENANT_ID_INVALID');
  },

  // A connection that goes back to the pool with a plain SET keeps it: SET LOCAL is what a pool needs.
  async plainSetStaysOnTheConnection() {
    await withPool(async (pool) => {
      await pool.query("SET tenancy.tenant_id = 'acme'");
      assert.deepEqual(await items(pool), ROWS.acme);
      await pool.query('DISCARD ALL');
      await refused(pool.query(QUERY), 'TENANT_CONTEXT_MISSING', '55000');
    }, { max: 1 });
  },

  async parameterStatus() {
    const client = new Client({ user: APP });
    const reported = [];
    client.connection.on('parameterStatus', (message) => {
      if (message.parameterName === 'tenancy.tenant_id') reported.push(message.parameterValue);
    });
    await client.connect();
    assert.deepEqual(reported, ['']);
    await client.query("SET tenancy.tenant_id = 'acme'");
    assert.deepEqual(reported, ['', 'acme']);
    // A pooler that restored what ends with the transaction would carry it to the next client.
    await client.query('BEGIN');
    await client.query("SET LOCAL tenancy.tenant_id = 'globex'");
    assert.deepEqual(await items(client), ROWS.globex);
    await client.query('COMMIT');
    assert.deepEqual(reported, ['', 'acme']);
    await client.query('DISCARD ALL');
    assert.deepEqual(reported, ['', 'acme', '']);
    await client.end();
  },
};

(async () => {
  const results = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      results[name] = 'ok';
    } catch (error) {
      results[name] = error.stack;
    }
  }
  console.log(JSON.stringify(results));
})();
