-- How long the database takes for a balance as of a time, with what was pending: of an account with 10,000,000 entries,
-- one in twenty of them back-dated, and 100,000 holds. For a database of its own, which is of no use afterwards:
--   STEELYARD_DATA_DIR=/tmp/as-of steelyard serve
--   STEELYARD_DATA_DIR=/tmp/as-of steelyard psql -- -X -f docs/bench/as_of.sql
-- The second statement is that of `reserved_at` in src/store/as_of.rs. Prints count, and p50, p99 and the longest in ms,
-- twice: the first time PostgreSQL has just written all of it. Takes two minutes and 4 GB.

SET session_replication_role = replica;
SET synchronous_commit = off;
SET enable_bitmapscan = off;
INSERT INTO entries
SELECT 0, 1, 1, n, n, 0, '00000000-0000-0000-0000-000000000000', 'credit', 1, n, NULL,
    t - CASE WHEN n % 20 = 0 OR (n <= 1024 AND n % 2 = 0)
        THEN interval '1 second' * (n::bigint * 7919 % 7776000 + 1) ELSE interval '0' END, t
FROM (SELECT n, '2016-01-01Z'::timestamptz + interval '30 second' * n AS t FROM generate_series(1, 10000000) n) h;
INSERT INTO backdated
SELECT shard, ledger_id, account_id, version, side, amount, effective_at, recorded_at, 0, version / 20 - 51
FROM entries WHERE effective_at <> recorded_at AND version > 1024;
INSERT INTO backdated_days
SELECT 0, 1, 1, (effective_at AT TIME ZONE 'UTC')::date, 0, count(*) FROM backdated GROUP BY 4;
INSERT INTO events (ledger_id, position, type, schema_version, payload, recorded_at, effective_at, epoch)
SELECT 1, n, 'transaction_posted', 1, '{}', t, t, 1
FROM (SELECT n, '2016-01-01Z'::timestamptz + interval '30 second' * n AS t FROM generate_series(1, 10000000) n) h;
INSERT INTO holds
SELECT 0, 1, 1, n, '00000000-0000-0000-0000-000000000000', 'a', 'b', 2, 'EUR', 1, 0, 1,
    CASE n % 200 WHEN 0 THEN 'voided' ELSE 'captured' END, NULL, NULL, now(), n + 50, now()
FROM generate_series(100, 10000000, 100) n;
VACUUM ANALYZE entries;
VACUUM ANALYZE backdated;
VACUUM ANALYZE backdated_days;
VACUUM ANALYZE events;
VACUUM ANALYZE holds;

CREATE TEMP TABLE took (ms double precision);
CREATE FUNCTION pg_temp.reserved_at(
    of_shard smallint, of_ledger integer, of_account bigint, known bigint, at_time timestamptz
) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT greatest(
            (SELECT max(position) FROM holds
             WHERE shard = of_shard AND ledger_id = of_ledger AND account_id = of_account AND position <= upto),
            (SELECT max(position) FROM holds WHERE ledger_id = of_ledger AND to_account_id = of_account AND position <= upto),
            (SELECT max(changed_position) FROM holds
             WHERE ledger_id = of_ledger AND account_id = of_account AND changed_position <= upto
                AND state IN ('voided', 'expired')),
            (SELECT max(changed_position) FROM holds
             WHERE ledger_id = of_ledger AND to_account_id = of_account AND changed_position <= upto
                AND state IN ('voided', 'expired')))
        FROM (
            SELECT least(known, log_position_before(of_ledger, at_time + interval '1 microsecond')) AS upto
            WHERE (SELECT min(position) FROM holds
                   WHERE shard = of_shard AND ledger_id = of_ledger AND account_id = of_account) IS NOT NULL
                OR (SELECT min(position) FROM holds WHERE ledger_id = of_ledger AND to_account_id = of_account) IS NOT NULL
            OFFSET 0
        ) AS moment);
END $$;
CREATE PROCEDURE pg_temp.measure() LANGUAGE plpgsql AS $$
DECLARE
    begun timestamptz;
    at_time timestamptz;
BEGIN
    DELETE FROM took;
    FOR i IN 1..3000 LOOP
        at_time := '2016-01-01Z'::timestamptz + interval '1 second' * (random() * 300000000)::bigint;
        begun := clock_timestamp();
        PERFORM balance_as_of(0::smallint, 1, 1, 'credit', 10000000, at_time);
        PERFORM pg_temp.reserved_at(0::smallint, 1, 1, 10000000, at_time);
        INSERT INTO took VALUES (1000 * extract(epoch FROM clock_timestamp() - begun));
    END LOOP;
END $$;
CALL pg_temp.measure();
SELECT count(*), percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY ms) FROM took;
CALL pg_temp.measure();
SELECT count(*), percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY ms) FROM took;
