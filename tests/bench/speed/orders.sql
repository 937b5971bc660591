-- What is written to: :rows orders of 1,000 tenants, the first of which owns a fifth of them, and the stock of each.
SELECT setseed(0.5);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id bigint NOT NULL, customer text NOT NULL, amount bigint NOT NULL,
    note text) WITH (fillfactor = 80);
INSERT INTO orders (tenant_id, customer, amount, note)
    SELECT CASE WHEN random() < 0.2 THEN 1 ELSE 2 + floor(999 * power(random(), 3)) END, 'customer ' || n % 5000, n % 100,
           'note of order ' || n
    FROM generate_series(1, :rows) AS n;
CREATE INDEX ON orders (tenant_id, id);
CREATE TABLE stock (tenant_id bigint, sku integer, amount bigint NOT NULL, PRIMARY KEY (tenant_id, sku)) WITH (fillfactor = 80);
INSERT INTO stock SELECT tenant_id, id, 10 FROM orders WHERE id % 2 = 0;
