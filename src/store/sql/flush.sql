-- The flush: what a range of the log did to some shards of one ledger, and
-- their checkpoints, in one statement and one commit. Only rows of shards whose
-- checkpoints advance are written: those of a shard whose claim has another
-- epoch, whose checkpoint is not where the range begins, or that has no step at
-- all are left out. An account whose balance does not have the version that its
-- first leg builds on is left alone too, for good, and recorded as a fault, with
-- the position of its last leg in place of the balance that was not written.
--
-- NOT IN and (IN) IS TRUE, because PostgreSQL always answers them from a hash
-- table here; it knows nothing about the size of an UNNEST, and would turn a
-- plain IN into a join, in nested loops.
WITH held AS (
    SELECT s.shard, s.epoch, u.from_position
    FROM shard_claims s
    JOIN UNNEST($2::smallint[], $3::bigint[], $4::bigint[]) AS u (shard, epoch, from_position)
        ON s.shard = u.shard AND s.epoch = u.epoch
    FOR SHARE OF s
),
advanced AS (
    UPDATE checkpoints c
    SET position = $5, epoch = held.epoch
    FROM held
    WHERE c.projection = 'balances' AND c.ledger_id = $1 AND c.shard = held.shard AND c.position = held.from_position
    RETURNING c.shard
),
new_accounts AS (
    INSERT INTO accounts (
        shard, ledger_id, account_id, code, asset, normal_side, min_balance, max_balance, status, metadata, opened_at
    )
    SELECT
        a.shard, $1, a.account_id, a.code, a.asset, a.normal_side, a.min_balance, a.max_balance, 'open',
        a.metadata, a.opened_at
    FROM UNNEST(
        $6::smallint[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::numeric[], $12::numeric[],
        $13::jsonb[], $14::timestamptz[]
    ) AS a (shard, account_id, code, asset, normal_side, min_balance, max_balance, metadata, opened_at)
    WHERE (a.shard IN (SELECT shard FROM advanced)) IS TRUE
),
changes AS MATERIALIZED (
    SELECT b.*
    FROM UNNEST(
        $15::smallint[], $16::bigint[], $17::numeric[], $18::numeric[], $19::numeric[], $20::numeric[],
        $21::bigint[], $22::bigint[], $23::bigint[]
    ) AS b (
        shard, account_id, debits_posted, credits_posted, debits_pending, credits_pending,
        version, previous_version, position
    )
    WHERE (b.shard IN (SELECT shard FROM advanced)) IS TRUE
),
faulty AS MATERIALIZED (
    SELECT account_id FROM projection_faults WHERE ledger_id = $1
),
moved AS (
    INSERT INTO balances AS b (
        shard, ledger_id, account_id, debits_posted, credits_posted, debits_pending, credits_pending,
        version, previous_version, position
    )
    SELECT
        shard, $1, account_id, debits_posted, credits_posted, debits_pending, credits_pending,
        version, previous_version, position
    FROM changes
    WHERE account_id NOT IN (SELECT account_id FROM faulty)
    ON CONFLICT (shard, ledger_id, account_id) DO UPDATE SET
        debits_posted = EXCLUDED.debits_posted,
        credits_posted = EXCLUDED.credits_posted,
        debits_pending = EXCLUDED.debits_pending,
        credits_pending = EXCLUDED.credits_pending,
        version = EXCLUDED.version,
        previous_version = EXCLUDED.previous_version,
        position = EXCLUDED.position
    WHERE b.version = EXCLUDED.previous_version
    RETURNING b.account_id
),
stopped AS MATERIALIZED (
    SELECT c.shard, c.account_id, c.previous_version, c.position
    FROM changes c
    WHERE c.account_id NOT IN (SELECT account_id FROM moved)
),
new_entries AS (
    INSERT INTO entries (
        shard, ledger_id, account_id, version, position, leg, transaction_id, side, amount, balance_after,
        reference, effective_at, recorded_at
    )
    SELECT
        e.shard, $1, e.account_id, e.version, e.position, e.leg, e.transaction_id, e.side, e.amount, e.balance_after,
        e.reference, e.effective_at, e.recorded_at
    FROM UNNEST(
        $24::smallint[], $25::bigint[], $26::bigint[], $27::bigint[], $28::smallint[], $29::uuid[], $30::text[],
        $31::numeric[], $32::numeric[], $33::text[], $34::timestamptz[], $35::timestamptz[]
    ) AS e (
        shard, account_id, version, position, leg, transaction_id, side, amount, balance_after,
        reference, effective_at, recorded_at
    )
    WHERE (e.shard IN (SELECT shard FROM advanced)) IS TRUE AND e.account_id NOT IN (SELECT account_id FROM stopped)
),
new_rejections AS (
    INSERT INTO rejections (
        shard, ledger_id, account_id, position, leg, transaction_id, reason, reference, effective_at, recorded_at
    )
    SELECT
        r.shard, $1, r.account_id, r.position, r.leg, r.transaction_id, r.reason, r.reference,
        r.effective_at, r.recorded_at
    FROM UNNEST(
        $36::smallint[], $37::bigint[], $38::bigint[], $39::smallint[], $40::uuid[], $41::text[], $42::text[],
        $43::timestamptz[], $44::timestamptz[]
    ) AS r (shard, account_id, position, leg, transaction_id, reason, reference, effective_at, recorded_at)
    WHERE (r.shard IN (SELECT shard FROM advanced)) IS TRUE
),
faults AS (
    INSERT INTO projection_faults (shard, ledger_id, account_id, expected, position)
    SELECT s.shard, $1, s.account_id, s.previous_version, s.position FROM stopped s
    ON CONFLICT (shard, ledger_id, account_id) DO UPDATE SET position = EXCLUDED.position
    RETURNING account_id
)
SELECT
    shard AS "shard!",
    (SELECT count(*) FROM faults WHERE account_id NOT IN (SELECT account_id FROM faulty)) AS "faults!",
    (SELECT array_agg(account_id) FROM stopped) AS stopped
FROM advanced
