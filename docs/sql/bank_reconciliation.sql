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
-- way round. Of several lines with the same reference and amount, those nearest in date are matched first; lines
-- without a reference are matched by amount, and only within `days`. The ledger is read from `days` before `from` to
-- `days` after `to`, and what it has outside of the period and the bank has not is left out.

\if :{?file} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give file with -v file=..., see the first lines of this file'; END $$;
\endif
\if :{?account} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give account with -v account=..., see the first lines of this file'; END $$;
\endif
\if :{?from} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give from with -v from=..., see the first lines of this file'; END $$;
\endif
\if :{?to} \else
\set ON_ERROR_STOP 1
DO $$ BEGIN RAISE EXCEPTION 'give to with -v to=..., see the first lines of this file'; END $$;
\endif
\if :{?ledger} \else \set ledger main \endif
SELECT NOT EXISTS (SELECT FROM reporting.accounts WHERE ledger = :'ledger' AND account = :'account') AS is_unknown \gset
\if :is_unknown
\set ON_ERROR_STOP 1
\warn there is no account :account in the ledger :ledger
DO $$ BEGIN RAISE EXCEPTION 'no such account'; END $$;
\endif
\if :{?days} \else \set days 3 \endif

CREATE TEMP TABLE bank_lines (
    booked_on date NOT NULL,
    reference text,
    amount numeric NOT NULL,
    line bigint GENERATED ALWAYS AS IDENTITY,
    -- The line of the ledger that it is matched with.
    ledger_line bigint
);
-- \copy does not look at variables, so the whole command is one.
\set copy_file '\\copy bank_lines (booked_on, reference, amount) FROM ' :'file' ' WITH (FORMAT csv, HEADER true)'
:copy_file
UPDATE bank_lines SET reference = '' WHERE reference IS NULL;

CREATE TEMP TABLE ledger_lines AS
SELECT
    l.line,
    (l.recorded_at AT TIME ZONE 'UTC')::date AS recorded_on,
    coalesce(l.reference, '') AS reference,
    l.change / 10::numeric ^ s.scale AS amount,
    l.position
FROM reporting.statement_lines l
JOIN reporting.accounts a USING (ledger, account)
JOIN reporting.assets s ON s.ledger = a.ledger AND s.asset = a.asset
WHERE l.ledger = :'ledger' AND l.account = :'account'
    AND l.recorded_at >= (:'from'::date - :days)::timestamp AT TIME ZONE 'UTC'
    AND l.recorded_at < (:'to'::date + :days)::timestamp AT TIME ZONE 'UTC';

-- Those of the same day first, then those that the bank has a day later, a day earlier, two days later, and so on.
SELECT format($round$
    UPDATE bank_lines b
    SET ledger_line = pair.ledger_line
    FROM (
        SELECT there.line, here.line AS ledger_line
        FROM (
            SELECT line, booked_on, reference, amount,
                   row_number() OVER (PARTITION BY reference, amount, booked_on ORDER BY line) AS nth
            FROM bank_lines
            WHERE ledger_line IS NULL
        ) AS there
        JOIN (
            SELECT line, recorded_on, reference, amount,
                   row_number() OVER (PARTITION BY reference, amount, recorded_on ORDER BY line) AS nth
            FROM ledger_lines l
            WHERE NOT EXISTS (SELECT FROM bank_lines m WHERE m.ledger_line = l.line)
        ) AS here USING (reference, amount, nth)
        WHERE there.booked_on = here.recorded_on + %s
    ) AS pair
    WHERE b.line = pair.line
$round$, later)
FROM generate_series(0, :days) AS apart
CROSS JOIN LATERAL (VALUES (apart), (-apart)) AS round (later)
ORDER BY apart, later DESC
\gexec

-- What is left and has a reference, in order.
UPDATE bank_lines b
SET ledger_line = pair.ledger_line
FROM (
    SELECT there.line, here.line AS ledger_line
    FROM (
        SELECT line, reference, amount, row_number() OVER (PARTITION BY reference, amount ORDER BY booked_on, line) AS nth
        FROM bank_lines
        WHERE ledger_line IS NULL
    ) AS there
    JOIN (
        SELECT line, reference, amount, row_number() OVER (PARTITION BY reference, amount ORDER BY line) AS nth
        FROM ledger_lines l
        WHERE NOT EXISTS (SELECT FROM bank_lines m WHERE m.ledger_line = l.line)
    ) AS here USING (reference, amount, nth)
    WHERE reference <> ''
) AS pair
WHERE b.line = pair.line;

SELECT
    CASE
        WHEN here.line IS NULL THEN 'missing here'
        WHEN there.line IS NULL THEN 'missing there'
        WHEN abs(here.recorded_on - there.booked_on) > :days THEN 'date differs'
        ELSE 'matched'
    END AS status,
    coalesce(there.reference, here.reference) AS reference,
    round(coalesce(there.amount, here.amount), s.scale) AS amount,
    there.booked_on,
    here.recorded_on,
    here.position
FROM ledger_lines here
FULL JOIN bank_lines there ON there.ledger_line = here.line
CROSS JOIN reporting.accounts a
JOIN reporting.assets s ON s.ledger = a.ledger AND s.asset = a.asset
WHERE a.ledger = :'ledger' AND a.account = :'account'
    AND (there.line IS NOT NULL OR (here.recorded_on >= :'from'::date AND here.recorded_on < :'to'::date))
ORDER BY status, coalesce(there.booked_on, here.recorded_on), here.position, reference;

DROP TABLE bank_lines, ledger_lines;
