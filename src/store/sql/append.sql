-- The append: fence, events, keys and assets of one batch in one statement and
-- one commit. Without the claim's epoch the fence is empty, and nothing is
-- written. FOR SHARE, because FOR KEY SHARE would not wait for a takeover.
WITH fence AS (
    SELECT epoch FROM sequencer_claims WHERE ledger_id = $1 AND epoch = $2 FOR SHARE
),
new_events AS (
    INSERT INTO events (
        ledger_id, position, type, schema_version, transaction_id, subject_id, idempotency_key,
        payload, recorded_at, effective_at, epoch
    )
    SELECT
        $1, $3 + e.ordinality - 1, e.type, e.schema_version, e.transaction_id, e.subject_id, e.idempotency_key,
        e.payload, e.recorded_at, e.effective_at, fence.epoch
    FROM fence
    CROSS JOIN UNNEST(
        $4::text[], $5::smallint[], $6::uuid[], $7::uuid[], $8::text[], $9::jsonb[], $10::timestamptz[],
        $11::timestamptz[]
    ) WITH ORDINALITY AS e (
        type, schema_version, transaction_id, subject_id, idempotency_key, payload, recorded_at, effective_at,
        ordinality
    )
),
new_keys AS (
    INSERT INTO idempotency_keys (ledger_id, key_hash, fingerprint, position, event_count)
    SELECT $1, k.key_hash, k.fingerprint, k.position, k.event_count
    FROM fence
    CROSS JOIN UNNEST($12::bytea[], $13::bytea[], $14::bigint[], $15::integer[])
        AS k (key_hash, fingerprint, position, event_count)
),
new_assets AS (
    INSERT INTO assets (ledger_id, code, scale)
    SELECT $1, a.code, a.scale
    FROM fence
    CROSS JOIN UNNEST($16::text[], $17::smallint[]) AS a (code, scale)
)
SELECT count(*) AS "fences!" FROM fence
