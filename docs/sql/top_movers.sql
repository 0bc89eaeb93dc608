-- Which accounts changed most in a period?
--
-- Parameters:
--   from     first day (UTC, by the time of recording)
--   to       day after the last; tomorrow if not given
--   asset    code of the asset
--   top      how many accounts; 20 if not given
--   prefix   only accounts whose code begins so; all if not given
--   ledger   main if not given
--
-- A row per account, the largest change first, whether up or down, in the asset's main unit. Accounts that were opened
-- in the period had 0 before. `turnover` is all that moved, either way: a large turnover with a small change is
-- money that passes through.

\if :{?from} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give from with -v from=..., see the first lines of this file'; END $$;
\endif
\if :{?asset} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give asset with -v asset=..., see the first lines of this file'; END $$;
\endif
\if :{?ledger} \else \set ledger main \endif
\if :{?top} \else \set top 20 \endif
\if :{?prefix} \else \set prefix '' \endif
\if :{?to} \else
SELECT (now() AT TIME ZONE 'UTC')::date + 1 AS to \gset
\endif

WITH period AS (
    SELECT account,
           (array_agg(opening_balance ORDER BY day))[1] AS before,
           (array_agg(closing_balance ORDER BY day DESC))[1] AS after,
           sum(debits + credits) AS turnover
    FROM reporting.daily_balances
    WHERE ledger = :'ledger' AND asset = :'asset' AND starts_with(account, :'prefix')
        AND day >= :'from'::date AND day < :'to'::date
    GROUP BY account
)
SELECT
    p.account,
    round(p.before / 10::numeric ^ s.scale, s.scale) AS before,
    round(p.after / 10::numeric ^ s.scale, s.scale) AS after,
    round((p.after - p.before) / 10::numeric ^ s.scale, s.scale) AS change,
    round(p.turnover / 10::numeric ^ s.scale, s.scale) AS turnover
FROM period p
JOIN reporting.assets s ON s.ledger = :'ledger' AND s.asset = :'asset'
WHERE p.turnover > 0
ORDER BY abs(p.after - p.before) DESC, p.account
LIMIT :top;
