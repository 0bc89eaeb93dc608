-- How old are the open balances?
--
-- Parameters:
--   prefix   accounts whose code begins so, such as receivable:
--   as_of    the moment from which ages are counted; now if not given
--   ledger   main if not given
--
-- A row per account with a balance above zero on its normal side, and a row `total` per asset, in the asset's main
-- unit. What lowers a balance settles the oldest of what raised it (first in, first out), so what is open are the
-- newest increases, each with its own age: the columns are parts of the balance that are at most 30 days old, 31 to
-- 60, 61 to 90, and older. They add up to the balance, which is as it is now.

\if :{?prefix} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give prefix with -v prefix=..., see the first lines of this file'; END $$;
\endif
\if :{?ledger} \else \set ledger main \endif
\if :{?as_of} \else
SELECT now() AS as_of \gset
\endif

WITH increases AS (
    SELECT a.account, a.asset, a.balance, l.change,
           floor(extract(epoch FROM :'as_of'::timestamptz - l.recorded_at) / 86400) AS days,
           sum(l.change) OVER (PARTITION BY a.account ORDER BY l.line DESC) - l.change AS newer
    FROM reporting.accounts a
    JOIN reporting.statement_lines l ON l.ledger = a.ledger AND l.account = a.account AND l.change > 0
    WHERE a.ledger = :'ledger' AND starts_with(a.account, :'prefix') AND a.balance > 0
),
open AS (
    SELECT account, asset, days, least(change, balance - newer) AS amount
    FROM increases
    WHERE balance > newer
)
SELECT
    coalesce(o.account, 'total') AS account,
    o.asset,
    round(sum(o.amount) / 10::numeric ^ s.scale, s.scale) AS balance,
    round(coalesce(sum(o.amount) FILTER (WHERE o.days <= 30), 0) / 10::numeric ^ s.scale, s.scale) AS "0-30",
    round(coalesce(sum(o.amount) FILTER (WHERE o.days BETWEEN 31 AND 60), 0) / 10::numeric ^ s.scale, s.scale) AS "31-60",
    round(coalesce(sum(o.amount) FILTER (WHERE o.days BETWEEN 61 AND 90), 0) / 10::numeric ^ s.scale, s.scale) AS "61-90",
    round(coalesce(sum(o.amount) FILTER (WHERE o.days > 90), 0) / 10::numeric ^ s.scale, s.scale) AS older
FROM open o
JOIN reporting.assets s ON s.ledger = :'ledger' AND s.asset = o.asset
GROUP BY GROUPING SETS ((o.asset, s.scale, o.account), (o.asset, s.scale))
ORDER BY o.asset, GROUPING(o.account), o.account;
