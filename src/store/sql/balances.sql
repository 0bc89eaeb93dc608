-- Balances of accounts, summed by the first segments of their codes and by
-- asset, all as of one position ($2): shards that are ahead of it are taken back
-- to it. With an effective time ($3) as of that, as it was known at the position.
-- Sums of debits and of credits are right where the position is the present ($4).
SELECT
    path AS "path!", asset AS "asset!", count(*) AS "accounts!", sum(net_debit)::text AS "net_debit!",
    sum(debits_posted)::text AS "debits_posted!", sum(credits_posted)::text AS "credits_posted!",
    sum(debits_pending)::text AS "debits_pending!", sum(credits_pending)::text AS "credits_pending!"
FROM (
    SELECT
        CASE
            WHEN $5::integer IS NULL THEN $6::text
            ELSE array_to_string((string_to_array(a.code, ':'))[1:$5], ':')
        END COLLATE "C" AS path,
        a.asset,
        CASE
            WHEN $3::timestamptz IS NULL AND b.position <= $2 THEN b.debits_posted - b.credits_posted
            ELSE net_debit_as_of(
                a.shard, a.ledger_id, a.account_id, a.normal_side, b.version, $2, coalesce($3, 'infinity')
            )
        END AS net_debit,
        b.debits_posted - coalesce(later.debits, 0) AS debits_posted,
        b.credits_posted - coalesce(later.credits, 0) AS credits_posted,
        b.debits_pending,
        b.credits_pending
    FROM accounts a
    JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
    LEFT JOIN LATERAL (
        SELECT
            sum(e.amount) FILTER (WHERE e.side = 'debit') AS debits,
            sum(e.amount) FILTER (WHERE e.side = 'credit') AS credits
        FROM entries e
        WHERE e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
            AND e.version > last_entry(a.shard, a.ledger_id, a.account_id, b.version, $2, 'infinity')
    ) AS later ON $4::boolean AND b.position > $2
    WHERE a.ledger_id = $1 AND a.account_id <= $2
        AND a.code >= $7 AND a.code < $8
        AND ($6 = '' OR a.code = $6 OR starts_with(a.code, $9))
        AND ($10::text IS NULL OR a.asset = $10)
) AS found
WHERE path > $11 OR (path = $11 AND asset > $12)
GROUP BY path, asset
ORDER BY path, asset
LIMIT $13
