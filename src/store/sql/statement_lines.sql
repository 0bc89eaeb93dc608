-- Lines of a statement: legs of an account that are effective in a period, in
-- the order of effective time and then of version, which is that of positions.
-- They lie in three places. Those effective when they were recorded are entries
-- between two versions, which bisection finds; the others are among the first
-- 1,024 entries, which are read and sorted, or in the index of later back-dated
-- legs. The first and the last are read in order and only as far as the limit.
-- Legs above version $4 were not known when the statement was begun.
WITH straight AS (
    SELECT e.version, e.position, e.transaction_id, e.side, e.amount, e.reference, e.effective_at, e.recorded_at
    FROM entries e
    WHERE e.shard = $1 AND e.ledger_id = $2 AND e.account_id = $3
        AND e.version > (
            SELECT last_entry($1, $2, $3, $4, 9223372036854775807, $5::timestamptz - interval '1 microsecond')
        )
        AND e.version <= (
            SELECT last_entry($1, $2, $3, $4, 9223372036854775807, $7::timestamptz - interval '1 microsecond')
        )
        AND e.effective_at = e.recorded_at
        AND (e.recorded_at, e.version) > ($5, $6)
    ORDER BY e.version
    LIMIT $8
),
first_late AS (
    SELECT e.version, e.effective_at
    FROM entries e
    WHERE e.shard = $1 AND e.ledger_id = $2 AND e.account_id = $3
        AND e.version <= 1024 AND e.effective_at <> e.recorded_at
        AND (e.effective_at, e.version) > ($5, $6) AND e.effective_at < $7 AND e.version <= $4
    ORDER BY e.effective_at, e.version
    LIMIT $8
),
late AS (
    SELECT b.version, b.effective_at
    FROM backdated b
    WHERE b.shard = $1 AND b.ledger_id = $2 AND b.account_id = $3
        AND (b.effective_at, b.version) > ($5, $6) AND b.effective_at < $7 AND b.version <= $4
    ORDER BY b.effective_at, b.version
    LIMIT $8
)
SELECT
    version AS "version!", position AS "position!", transaction_id AS "transaction_id!", side AS "side!",
    amount AS "amount!: Amount", reference, effective_at AS "effective_at!", recorded_at AS "recorded_at!"
FROM (
    SELECT * FROM straight
    UNION ALL
    SELECT e.version, e.position, e.transaction_id, e.side, e.amount, e.reference, e.effective_at, e.recorded_at
    FROM (
        SELECT * FROM first_late
        UNION ALL
        SELECT * FROM late
        ORDER BY effective_at, version
        LIMIT $8
    ) AS late
    CROSS JOIN LATERAL (
        SELECT * FROM entries e
        WHERE e.shard = $1 AND e.ledger_id = $2 AND e.account_id = $3 AND e.version = late.version
        LIMIT 1
    ) AS e
) AS lines
ORDER BY effective_at, version
LIMIT $8
