-- How much moves each day, and how much is declined?
--
-- Parameters:
--   from     first day (UTC, by the time of recording)
--   to       day after the last; tomorrow if not given
--   ledger   main if not given
--
-- A row per day and asset (of the first leg): posted transactions with their sum in the asset's main unit, declined
-- ones, their share of both in percent, and the reason that declined most. Days without either are left out.

\if :{?from} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give from with -v from=..., see the first lines of this file'; END $$;
\endif
\if :{?ledger} \else \set ledger main \endif
\if :{?to} \else
SELECT (now() AT TIME ZONE 'UTC')::date + 1 AS to \gset
\endif

SELECT
    (t.recorded_at AT TIME ZONE 'UTC')::date AS day,
    t.asset,
    count(*) FILTER (WHERE t.status = 'posted') AS posted,
    round(coalesce(sum(t.amount) FILTER (WHERE t.status = 'posted'), 0) / 10::numeric ^ s.scale, s.scale) AS volume,
    count(*) FILTER (WHERE t.status = 'rejected') AS rejected,
    round(100.0 * count(*) FILTER (WHERE t.status = 'rejected') / count(*), 1) AS rejected_percent,
    mode() WITHIN GROUP (ORDER BY t.reason) AS first_reason
FROM reporting.transactions t
JOIN reporting.assets s USING (ledger, asset)
WHERE t.ledger = :'ledger' AND t.status IN ('posted', 'rejected')
    AND t.recorded_at >= :'from'::timestamp AT TIME ZONE 'UTC' AND t.recorded_at < :'to'::timestamp AT TIME ZONE 'UTC'
GROUP BY day, t.asset, s.scale
ORDER BY day, t.asset;
