-- Which accounts hold money that nobody has moved for long?
--
-- Parameters:
--   days     how many days without a line make an account dormant; 365 if not given
--   as_of    the moment from which to count back; now if not given
--   prefix   only accounts whose code begins so; all if not given
--   ledger   main if not given
--
-- A row per account with a balance other than zero whose last line is older than that, the longest first. `idle_days`
-- are whole days since the last line. Balances are as they are now, in the asset's main unit.

\if :{?ledger} \else \set ledger main \endif
\if :{?days} \else \set days 365 \endif
\if :{?as_of} \else
SELECT now() AS as_of \gset
\endif
\if :{?prefix} \else \set prefix '' \endif

SELECT
    a.account,
    a.asset,
    round(a.balance / 10::numeric ^ s.scale, s.scale) AS balance,
    to_char(l.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS last_line_on,
    floor(extract(epoch FROM :'as_of'::timestamptz - l.recorded_at) / 86400)::integer AS idle_days
FROM reporting.accounts a
JOIN reporting.assets s USING (ledger, asset)
-- The number of an account's last line is its version, so each is one probe of an index.
JOIN LATERAL (
    SELECT recorded_at FROM reporting.statement_lines l
    WHERE l.ledger = a.ledger AND l.account = a.account AND l.line = a.version
    LIMIT 1
) AS l ON true
WHERE a.ledger = :'ledger' AND starts_with(a.account, :'prefix') AND a.balance <> 0
    AND l.recorded_at < :'as_of'::timestamptz - make_interval(days => :days)
ORDER BY l.recorded_at, a.account;
