-- What happened on one account in a period?
--
-- Parameters:
--   account  code of the account
--   from     first day (UTC, by the time of recording)
--   to       day after the last; tomorrow if not given
--   ledger   main if not given
--
-- The first row is the opening balance, the last the closing balance; between them is a row per line, with the
-- balance that it leaves. Amounts are in the asset's main unit; `change` has the sign of the account's normal side.
-- Opening balance plus the sum of the changes is the closing balance.

\if :{?account} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give account with -v account=..., see the first lines of this file'; END $$;
\endif
\if :{?from} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give from with -v from=..., see the first lines of this file'; END $$;
\endif
\if :{?ledger} \else \set ledger main \endif
SELECT NOT EXISTS (SELECT FROM reporting.accounts WHERE ledger = :'ledger' AND account = :'account') AS is_unknown \gset
\if :is_unknown
\set ON_ERROR_STOP 1
\warn there is no account :account in the ledger :ledger
DO $$ BEGIN RAISE EXCEPTION 'no such account'; END $$;
\endif
\if :{?to} \else
SELECT (now() AT TIME ZONE 'UTC')::date + 1 AS to \gset
\endif

WITH account AS (
    SELECT a.ledger, a.account, a.asset, s.scale
    FROM reporting.accounts a
    JOIN reporting.assets s USING (ledger, asset)
    WHERE a.ledger = :'ledger' AND a.account = :'account'
),
days AS (
    SELECT d.* FROM reporting.daily_balances d
    JOIN account USING (ledger, account)
    WHERE d.day >= :'from'::date AND d.day < :'to'::date
),
rows AS (
    SELECT 0 AS part, 0::bigint AS line, NULL::timestamptz AS recorded_at, 'opening balance' AS what,
           NULL::numeric AS change, opening_balance AS balance
    FROM days WHERE day = (SELECT min(day) FROM days)
    UNION ALL
    SELECT 1, l.line, l.recorded_at, coalesce(l.reference, ''), l.change, l.balance_after
    FROM reporting.statement_lines l
    JOIN account USING (ledger, account)
    WHERE l.recorded_at >= :'from'::timestamp AT TIME ZONE 'UTC' AND l.recorded_at < :'to'::timestamp AT TIME ZONE 'UTC'
    UNION ALL
    SELECT 2, 0, NULL, 'closing balance', NULL, closing_balance
    FROM days WHERE day = (SELECT max(day) FROM days)
)
SELECT
    to_char(r.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS recorded_at,
    r.what,
    round(r.change / 10::numeric ^ scale, scale) AS change,
    round(r.balance / 10::numeric ^ scale, scale) AS balance,
    asset
FROM rows r CROSS JOIN account
ORDER BY r.part, r.line;
