-- The events of a transaction: those with its id (part 0), the first captures or
-- reversals of it (part 1), and the last of those (part 2).
WITH own AS (
    SELECT 0 AS part, position, type, schema_version, transaction_id, subject_id, idempotency_key, payload,
           recorded_at, effective_at
    FROM events
    WHERE transaction_id = $2 AND ledger_id = $1
),
linked AS (
    SELECT 1 AS part, position, type, schema_version, transaction_id, subject_id, idempotency_key, payload,
           recorded_at, effective_at
    FROM events
    WHERE ledger_id = $1 AND subject_id = $2
    ORDER BY position
    LIMIT $3
),
latest AS (
    SELECT 2 AS part, position, type, schema_version, transaction_id, subject_id, idempotency_key, payload,
           recorded_at, effective_at
    FROM events
    WHERE ledger_id = $1 AND subject_id = $2
    ORDER BY position DESC
    LIMIT 1
)
SELECT part AS "part!", position AS "position!", type AS "type_name!", schema_version AS "schema_version!",
       transaction_id, subject_id, idempotency_key, payload AS "payload!: Jsonb<Box<str>>",
       recorded_at AS "recorded_at!", effective_at AS "effective_at!"
FROM (SELECT * FROM own UNION ALL SELECT * FROM linked UNION ALL SELECT * FROM latest) AS story
ORDER BY part, position
