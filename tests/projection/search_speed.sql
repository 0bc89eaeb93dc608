-- Payments $first to $last, counted from 0, around a ring of $accounts accounts `w:0`, `w:1`, …, each of one cent from
-- one to the next, as the sequencer and the projectors would have written them. $base is the position before the first,
-- when the last account was opened. In round r account i is credited by the payment before its own and then debited,
-- so all totals and versions follow from the payment's number.
SET session_replication_role = replica;
CREATE TEMP TABLE ring AS
SELECT n, n / $accounts AS round, n % $accounts AS payer, (n + 1) % $accounts AS payee, $base + 1 + n AS position,
    (lpad(to_hex(1790000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS transaction_id,
    (SELECT recorded_at FROM events WHERE ledger_id = 1 AND position = $base) + n * interval '10 microseconds' AS at
FROM generate_series($first::bigint, $last::bigint) AS n;
INSERT INTO events
SELECT 1, position, 'transaction_posted', 1, transaction_id, NULL,
    format(
        '{"kind":"payment","legs":[{"side":"debit","amount":"1","debits":"%s","account":"w:%s","credits":"%s","version":%s,"account_id":%s},{"side":"credit","amount":"1","debits":"%s","account":"w:%s","credits":"%s","version":%s,"account_id":%s}],"asset":"EUR","metadata":{%s"order":"o-%s"},"reference":"r-%s"}',
        round + 1, payer, CASE payer WHEN 0 THEN round ELSE round + 1 END,
        CASE payer WHEN 0 THEN 2 * round + 1 ELSE 2 * round + 2 END, payer + 1,
        CASE payee WHEN 0 THEN round + 1 ELSE round END, payee, round + 1,
        CASE payee WHEN 0 THEN 2 * round + 2 ELSE 2 * round + 1 END, payee + 1,
        CASE WHEN n % 10 = 0 THEN '"channel":"web",' ELSE '' END, n / 3, n / 2
    )::jsonb,
    at, at, 1
FROM ring;
INSERT INTO entries
SELECT a.shard, 1, a.account_id,
    CASE WHEN (leg = 0) = (a.account_id = 1) THEN 2 * round + 1 ELSE 2 * round + 2 END, position, leg, transaction_id,
    CASE leg WHEN 0 THEN 'debit' ELSE 'credit' END, 1,
    CASE WHEN a.account_id = 1 THEN leg - 1 ELSE leg END, 'r-' || n / 2, at, at
FROM ring
CROSS JOIN (VALUES (0::smallint), (1::smallint)) AS legs (leg)
JOIN accounts a ON a.ledger_id = 1 AND a.account_id = 1 + CASE leg WHEN 0 THEN payer ELSE payee END;
INSERT INTO transaction_metadata
SELECT a.shard, 1, a.account_id, position, m.key, m.value
FROM ring
JOIN accounts a ON a.ledger_id = 1 AND a.account_id = 1 + payer
CROSS JOIN LATERAL (
    SELECT 'order' AS key, 'o-' || n / 3 AS value UNION ALL SELECT 'channel', 'web' WHERE n % 10 = 0
) AS m;
UPDATE balances b
SET debits_posted = e.debits, credits_posted = e.credits, version = e.version, previous_version = 0, position = e.position
FROM accounts a
CROSS JOIN LATERAL (
    SELECT l.version, l.position, (l.version + CASE a.account_id WHEN 1 THEN 1 ELSE 0 END) / 2 AS debits,
        (l.version + CASE a.account_id WHEN 1 THEN 0 ELSE 1 END) / 2 AS credits
    FROM entries l WHERE l.shard = a.shard AND l.ledger_id = 1 AND l.account_id = a.account_id
    ORDER BY l.version DESC LIMIT 1
) AS e
WHERE a.ledger_id = 1 AND b.shard = a.shard AND b.ledger_id = 1 AND b.account_id = a.account_id;
UPDATE checkpoints SET position = $base + 1 + $last WHERE ledger_id = 1;
DROP TABLE ring;
