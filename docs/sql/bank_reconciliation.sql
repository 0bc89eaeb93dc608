-- Does a bank's statement agree with the ledger's account of it?
--
-- Parameters:
--   file     the bank's lines, CSV with the header booked_on,reference,amount: a day, the reference of the payment, and
--            the amount in the asset's main unit, negative when it left the bank. The path is psql's, on your machine
--   account  the account that mirrors the bank, such as bank:main, which is debit-normal: what comes in raises it
--   from     first day of the bank's statement
--   to       day after the last
--   days     how many days the two may be apart; 3 if not given
--   ledger   main if not given
--
-- A row per line of either side. `matched`: both have it, with the same reference and amount. `date differs`: the same,
-- but further apart than `days`. `missing here`: the bank has it and the ledger has not. `missing there`: the other
-- way round. Of several lines with the same reference and amount, the first is matched with the first, and so on; lines
-- without a reference are matched by amount. The ledger is read from `days` before `from` to `days` after `to`, and
-- what it has outside of the period and the bank has not is left out.

\if :{?ledger} \else \set ledger main \endif
\if :{?days} \else \set days 3 \endif

CREATE TEMP TABLE bank_lines (booked_on date NOT NULL, reference text, amount numeric NOT NULL);
-- \copy does not look at variables, so the whole command is one.
\set copy_file '\\copy bank_lines FROM ' :'file' ' WITH (FORMAT csv, HEADER true)'
:copy_file

WITH account AS (
    SELECT a.ledger, a.account, s.scale
    FROM reporting.accounts a
    JOIN reporting.assets s USING (ledger, asset)
    WHERE a.ledger = :'ledger' AND a.account = :'account'
),
there AS (
    SELECT booked_on, coalesce(reference, '') AS reference, amount,
           row_number() OVER (PARTITION BY coalesce(reference, ''), amount ORDER BY booked_on) AS nth
    FROM bank_lines
),
here AS (
    SELECT recorded_on, reference, amount, position,
           row_number() OVER (PARTITION BY reference, amount ORDER BY position) AS nth
    FROM (
        SELECT (l.recorded_at AT TIME ZONE 'UTC')::date AS recorded_on, coalesce(l.reference, '') AS reference,
               l.change / 10::numeric ^ account.scale AS amount, l.position
        FROM reporting.statement_lines l
        JOIN account USING (ledger, account)
        WHERE l.recorded_at >= (:'from'::date - :days)::timestamp AT TIME ZONE 'UTC'
            AND l.recorded_at < (:'to'::date + :days)::timestamp AT TIME ZONE 'UTC'
    ) AS lines
)
SELECT
    CASE
        WHEN here.position IS NULL THEN 'missing here'
        WHEN there.booked_on IS NULL THEN 'missing there'
        WHEN abs(here.recorded_on - there.booked_on) > :days THEN 'date differs'
        ELSE 'matched'
    END AS status,
    reference,
    round(amount, account.scale) AS amount,
    there.booked_on,
    here.recorded_on,
    here.position
FROM here
FULL JOIN there USING (reference, amount, nth)
CROSS JOIN account
WHERE there.booked_on IS NOT NULL OR (here.recorded_on >= :'from'::date AND here.recorded_on < :'to'::date)
ORDER BY status, coalesce(there.booked_on, here.recorded_on), here.position, reference;

DROP TABLE bank_lines;
