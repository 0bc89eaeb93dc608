-- Which funds are reserved, and for how long already?
--
-- Parameters:
--   as_of    the moment from which ages are counted; now if not given
--   prefix   accounts whose code begins so; all if not given
--   ledger   main if not given
--
-- A row per account with holds that are open, and a row `total` per asset, in the asset's main unit: how many there
-- are, what is still reserved, and how much of it has been so for at most 1 day, 2 to 7, 8 to 30, and longer. What has
-- been captured is not in it. The last column is when the next of them ends by itself; empty is never.

\if :{?ledger} \else \set ledger main \endif
\if :{?prefix} \else \set prefix '' \endif
\if :{?as_of} \else
SELECT now() AS as_of \gset
\endif

WITH open AS (
    SELECT from_account, asset, remaining, expires_at,
           ceil(extract(epoch FROM :'as_of'::timestamptz - authorised_at) / 86400) AS days
    FROM reporting.holds_outstanding
    WHERE ledger = :'ledger' AND starts_with(from_account, :'prefix')
)
SELECT
    coalesce(o.from_account, 'total') AS account,
    o.asset,
    count(*) AS holds,
    round(sum(o.remaining) / 10::numeric ^ s.scale, s.scale) AS reserved,
    round(coalesce(sum(o.remaining) FILTER (WHERE o.days <= 1), 0) / 10::numeric ^ s.scale, s.scale) AS "0-1",
    round(coalesce(sum(o.remaining) FILTER (WHERE o.days BETWEEN 2 AND 7), 0) / 10::numeric ^ s.scale, s.scale) AS "2-7",
    round(coalesce(sum(o.remaining) FILTER (WHERE o.days BETWEEN 8 AND 30), 0) / 10::numeric ^ s.scale, s.scale) AS "8-30",
    round(coalesce(sum(o.remaining) FILTER (WHERE o.days > 30), 0) / 10::numeric ^ s.scale, s.scale) AS older,
    to_char(min(o.expires_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS next_end
FROM open o
JOIN reporting.assets s ON s.ledger = :'ledger' AND s.asset = o.asset
GROUP BY GROUPING SETS ((o.asset, s.scale, o.from_account), (o.asset, s.scale))
ORDER BY o.asset, GROUPING(o.from_account), o.from_account;
