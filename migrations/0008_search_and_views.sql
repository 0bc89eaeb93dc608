-- Finding transactions by their metadata and by time, accounts by their
-- metadata, and more views for analysts.

-- One row per searchable member of a transaction's metadata, posted or
-- rejected, in the shard of the account of its first leg. The primary key is
-- the index of the search, in the order of the log, so that a page is read from
-- it alone; a second index would cost each row as much again.
CREATE TABLE transaction_metadata (
    shard      smallint NOT NULL,
    ledger_id  integer NOT NULL,
    account_id bigint NOT NULL,
    position   bigint NOT NULL,
    key        text COLLATE "C" NOT NULL,
    value      text COLLATE "C" NOT NULL,
    PRIMARY KEY (ledger_id, key, value, position, shard)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON transaction_metadata TO steelyard_serving;

-- Accounts are few against events, and most have no metadata. While it is built
-- projections wait, payments do not. Not CONCURRENTLY, which would wait for the
-- workers that wait for this migration to end.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '600s';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX accounts_metadata ON accounts USING gin (metadata jsonb_path_ops) WHERE metadata IS NOT NULL;

-- `recorded_at` never falls along the log, so a time is a position, and is found
-- in some 26 probes of the primary key in 50,000,000 events, without an index.
--
-- Both functions read as their owner: views of `reporting` use them for
-- analysts, who may not read the tables.
CREATE FUNCTION log_position_before(of_ledger integer, before timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    low    bigint := 0;
    high   bigint;
    middle bigint;
    earlier boolean;
BEGIN
    SELECT e.position + 1 INTO high FROM events e WHERE e.ledger_id = of_ledger ORDER BY e.position DESC LIMIT 1;
    WHILE high - low > 1 LOOP
        middle := low + (high - low) / 2;
        SELECT e.recorded_at < before INTO STRICT earlier FROM events e
            WHERE e.ledger_id = of_ledger AND e.position = middle;
        IF earlier THEN low := middle; ELSE high := middle; END IF;
    END LOOP;
    RETURN low;
END
$$;
COMMENT ON FUNCTION log_position_before IS 'Position of the last event of a ledger that was recorded before a time; 0 when there is none.';

-- Along an account's versions neither position nor `recorded_at` falls.
CREATE FUNCTION entry_version_at(
    of_shard smallint, of_ledger integer, of_account bigint, upto bigint, before timestamptz
) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    low    bigint := 0;
    high   bigint;
    middle bigint;
    entry  record;
BEGIN
    IF upto <= 0 THEN
        RETURN 0;
    END IF;
    SELECT e.version, e.position <= upto AND e.recorded_at < before AS within INTO entry FROM entries e
        WHERE e.shard = of_shard AND e.ledger_id = of_ledger AND e.account_id = of_account
        ORDER BY e.version DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF entry.within THEN
        RETURN entry.version;
    END IF;
    high := entry.version;
    WHILE high - low > 1 LOOP
        middle := low + (high - low) / 2;
        SELECT e.version, e.position <= upto AND e.recorded_at < before AS within INTO entry FROM entries e
            WHERE e.shard = of_shard AND e.ledger_id = of_ledger AND e.account_id = of_account
                AND e.version >= middle AND e.version < high
            ORDER BY e.version LIMIT 1;
        IF NOT FOUND OR NOT entry.within THEN high := middle; ELSE low := entry.version; END IF;
    END LOOP;
    RETURN low;
END
$$;
COMMENT ON FUNCTION entry_version_at IS 'Version of an account''s last entry up to a position and before a time; 0 when there is none.';

REVOKE EXECUTE ON FUNCTION log_position_before, entry_version_at FROM PUBLIC;
GRANT EXECUTE ON FUNCTION log_position_before, entry_version_at TO steelyard_serving, steelyard_analyst;

CREATE VIEW reporting.transaction_legs AS
SELECT
    cut.ledger,
    e.transaction_id,
    e.payload ->> 'kind' AS type,
    CASE e.type WHEN 'transaction_posted' THEN 'posted' ELSE 'rejected' END AS status,
    e.payload #>> '{rejection,code}' AS reason,
    leg.number AS leg,
    leg.body ->> 'account' AS account,
    leg.body ->> 'side' AS side,
    (leg.body ->> 'amount')::numeric AS amount,
    coalesce(leg.body ->> 'asset', e.payload ->> 'asset') AS asset,
    CASE leg.body ->> 'side' WHEN 'debit' THEN 1 ELSE -1 END * (leg.body ->> 'amount')::numeric AS net_debit,
    CASE leg.body ->> 'normal'
        WHEN 'debit' THEN (leg.body ->> 'debits')::numeric - (leg.body ->> 'credits')::numeric
        ELSE (leg.body ->> 'credits')::numeric - (leg.body ->> 'debits')::numeric
    END AS balance_after,
    e.payload ->> 'reference' AS reference,
    coalesce(e.payload -> 'metadata', '{}'::jsonb) AS metadata,
    e.position,
    e.effective_at,
    e.recorded_at
FROM reporting.consistent_cut cut
JOIN public.events e ON e.ledger_id = cut.ledger_id AND e.position <= cut.position
CROSS JOIN LATERAL jsonb_array_elements(e.payload -> 'legs') WITH ORDINALITY AS leg (body, number)
WHERE e.type IN ('transaction_posted', 'transaction_rejected', 'batch_rejected');
COMMENT ON VIEW reporting.transaction_legs IS 'Transactions, posted and rejected, one row per leg. For the lines of one account, reporting.statement_lines is faster.';
COMMENT ON COLUMN reporting.transaction_legs.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.transaction_legs.transaction_id IS 'Id of the transaction.';
COMMENT ON COLUMN reporting.transaction_legs.type IS 'What the client meant with it, such as payment.';
COMMENT ON COLUMN reporting.transaction_legs.status IS 'posted or rejected.';
COMMENT ON COLUMN reporting.transaction_legs.reason IS 'Code of the business rule that declined it, such as insufficient_funds; null when posted.';
COMMENT ON COLUMN reporting.transaction_legs.leg IS 'Number of the leg in its transaction: 1, 2, 3, …';
COMMENT ON COLUMN reporting.transaction_legs.account IS 'Code of the leg''s account.';
COMMENT ON COLUMN reporting.transaction_legs.side IS 'debit or credit.';
COMMENT ON COLUMN reporting.transaction_legs.amount IS 'Amount of the leg, more than zero, in the smallest unit.';
COMMENT ON COLUMN reporting.transaction_legs.asset IS 'Code of the leg''s asset.';
COMMENT ON COLUMN reporting.transaction_legs.net_debit IS 'The amount, negative when it is a credit: sums to zero per transaction and asset.';
COMMENT ON COLUMN reporting.transaction_legs.balance_after IS 'Balance of the account on its normal side after the leg; null when rejected.';
COMMENT ON COLUMN reporting.transaction_legs.reference IS 'The client''s reference.';
COMMENT ON COLUMN reporting.transaction_legs.metadata IS 'The client''s own JSON object, of the transaction.';
COMMENT ON COLUMN reporting.transaction_legs.position IS 'Position of the event in the log.';
COMMENT ON COLUMN reporting.transaction_legs.effective_at IS 'When the transaction counts for the books.';
COMMENT ON COLUMN reporting.transaction_legs.recorded_at IS 'When the transaction was recorded.';

CREATE VIEW reporting.transaction_metadata AS
SELECT cut.ledger, m.key, m.value, m.position
FROM reporting.consistent_cut cut
JOIN public.transaction_metadata m ON m.ledger_id = cut.ledger_id AND m.position <= cut.position;
COMMENT ON VIEW reporting.transaction_metadata IS 'Searchable members of transactions'' metadata, one row each: strings, numbers and booleans at the top, name and value of at most 255 bytes, at most 32 of a transaction. Indexed by key and value; join reporting.transactions by ledger and position.';
COMMENT ON COLUMN reporting.transaction_metadata.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.transaction_metadata.key IS 'Name of the member.';
COMMENT ON COLUMN reporting.transaction_metadata.value IS 'Its value as text: a string without quotes, a number or boolean as JSON writes it.';
COMMENT ON COLUMN reporting.transaction_metadata.position IS 'Position of the transaction in the log.';

-- A row per account and day, whether anything moved or not. Which lines are of
-- a day is found by probing versions, so an account with millions of lines is
-- read only where the days that are asked for are. OFFSET 0 keeps the planner
-- from calling the function again wherever a bound is used.
CREATE VIEW reporting.daily_balances AS
SELECT
    cut.ledger,
    a.code AS account,
    a.asset,
    days.day::date AS day,
    coalesce(opening.balance_after, 0) AS opening_balance,
    moved.debits,
    moved.credits,
    coalesce(opening.balance_after, 0)
        + CASE a.normal_side WHEN 'debit' THEN moved.debits - moved.credits ELSE moved.credits - moved.debits END
        AS closing_balance,
    moved.lines,
    cut.position AS as_of_position
FROM reporting.consistent_cut cut
JOIN public.accounts a ON a.ledger_id = cut.ledger_id AND a.account_id <= cut.position
CROSS JOIN LATERAL generate_series(
    date_trunc('day', a.opened_at AT TIME ZONE 'UTC'),
    date_trunc('day', greatest(
        (SELECT last.recorded_at FROM public.events last
         WHERE last.ledger_id = cut.ledger_id AND last.position = cut.position),
        now()
    ) AT TIME ZONE 'UTC'),
    interval '1 day'
) AS days (day)
CROSS JOIN LATERAL (
    SELECT
        public.entry_version_at(a.shard, a.ledger_id, a.account_id, cut.position, days.day AT TIME ZONE 'UTC') AS before,
        public.entry_version_at(
            a.shard, a.ledger_id, a.account_id, cut.position, (days.day + interval '1 day') AT TIME ZONE 'UTC'
        ) AS upto
    OFFSET 0
) AS versions
LEFT JOIN LATERAL (
    SELECT e.balance_after FROM public.entries e
    WHERE e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
        AND e.version = versions.before
    LIMIT 1
) AS opening ON true
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(e.amount) FILTER (WHERE e.side = 'debit'), 0) AS debits,
        coalesce(sum(e.amount) FILTER (WHERE e.side = 'credit'), 0) AS credits,
        count(*) AS lines
    FROM public.entries e
    WHERE e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
        AND e.version > versions.before AND e.version <= versions.upto
) AS moved;
COMMENT ON VIEW reporting.daily_balances IS 'Balances by account and day (UTC, of recorded_at), one row for each day since the account was opened, up to today. Ask for some accounts or some days, not for all of both: each row costs some forty probes of an index.';
COMMENT ON COLUMN reporting.daily_balances.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.daily_balances.account IS 'Code of the account.';
COMMENT ON COLUMN reporting.daily_balances.asset IS 'Code of the account''s asset.';
COMMENT ON COLUMN reporting.daily_balances.day IS 'The day, in UTC, by the time of recording.';
COMMENT ON COLUMN reporting.daily_balances.opening_balance IS 'Posted balance on the normal side when the day began.';
COMMENT ON COLUMN reporting.daily_balances.debits IS 'Sum of the debits posted on the day.';
COMMENT ON COLUMN reporting.daily_balances.credits IS 'Sum of the credits posted on the day.';
COMMENT ON COLUMN reporting.daily_balances.closing_balance IS 'Posted balance on the normal side when the day ended, or so far.';
COMMENT ON COLUMN reporting.daily_balances.lines IS 'Number of legs posted on the day.';
COMMENT ON COLUMN reporting.daily_balances.as_of_position IS 'Position of the log that the row answers at.';

CREATE VIEW reporting.balances_by_prefix AS
SELECT
    a.ledger,
    path.prefix,
    path.depth,
    a.asset,
    count(*) AS accounts,
    sum(a.debits_posted) AS debits_posted,
    sum(a.credits_posted) AS credits_posted,
    sum(a.debits_posted - a.credits_posted) AS net_debit,
    a.as_of_position
FROM reporting.accounts a
CROSS JOIN LATERAL (
    SELECT depth, array_to_string(parts[1:depth], ':') AS prefix
    FROM (SELECT string_to_array(a.account, ':')) AS split (parts)
    CROSS JOIN LATERAL generate_series(1, cardinality(parts)) AS depth
) AS path
GROUP BY a.ledger, path.prefix, path.depth, a.asset, a.as_of_position;
COMMENT ON VIEW reporting.balances_by_prefix IS 'Balances by path prefix of the account codes, which are split at colons, and asset: assets:bank:eur counts for assets, for assets:bank and for itself. Rows of one depth add up to the ledger only where all codes are as deep.';
COMMENT ON COLUMN reporting.balances_by_prefix.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.balances_by_prefix.prefix IS 'The first parts of the codes, joined by colons.';
COMMENT ON COLUMN reporting.balances_by_prefix.depth IS 'Number of these parts.';
COMMENT ON COLUMN reporting.balances_by_prefix.asset IS 'Code of the asset.';
COMMENT ON COLUMN reporting.balances_by_prefix.accounts IS 'Number of accounts with that prefix and asset.';
COMMENT ON COLUMN reporting.balances_by_prefix.debits_posted IS 'Sum of all their posted debits.';
COMMENT ON COLUMN reporting.balances_by_prefix.credits_posted IS 'Sum of all their posted credits.';
COMMENT ON COLUMN reporting.balances_by_prefix.net_debit IS 'Debits less credits.';
COMMENT ON COLUMN reporting.balances_by_prefix.as_of_position IS 'Position of the log that the row answers at.';

CREATE VIEW reporting.rejections AS
SELECT
    cut.ledger,
    e.transaction_id,
    e.payload ->> 'kind' AS type,
    r.reason,
    e.payload #>> '{rejection,account}' AS account,
    (e.payload #>> '{rejection,available}')::numeric AS available,
    (e.payload #>> '{rejection,would_be}')::numeric AS would_be,
    coalesce(e.payload ->> 'asset', e.payload #>> '{legs,0,asset}') AS asset,
    (SELECT sum((part ->> 'amount')::numeric) FROM jsonb_array_elements(e.payload -> 'legs') part
        WHERE part ->> 'side' = 'debit'
            AND part ->> 'asset' IS NOT DISTINCT FROM e.payload #>> '{legs,0,asset}') AS amount,
    (SELECT part ->> 'account' FROM jsonb_array_elements(e.payload -> 'legs') part
        WHERE part ->> 'side' = 'debit' LIMIT 1) AS from_account,
    (SELECT part ->> 'account' FROM jsonb_array_elements(e.payload -> 'legs') part
        WHERE part ->> 'side' = 'credit' LIMIT 1) AS to_account,
    r.reference,
    coalesce(e.payload -> 'metadata', '{}'::jsonb) AS metadata,
    e.idempotency_key,
    r.position,
    r.effective_at,
    r.recorded_at
FROM reporting.consistent_cut cut
JOIN public.rejections r ON r.ledger_id = cut.ledger_id AND r.leg = 0 AND r.position <= cut.position
JOIN public.events e ON e.ledger_id = r.ledger_id AND e.position = r.position;
COMMENT ON VIEW reporting.rejections IS 'Transactions that a business rule declined, one row each; those of reporting.transactions, found without reading the others.';
COMMENT ON COLUMN reporting.rejections.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.rejections.transaction_id IS 'Id of the transaction.';
COMMENT ON COLUMN reporting.rejections.type IS 'What the client meant with it, such as payment.';
COMMENT ON COLUMN reporting.rejections.reason IS 'Code of the rule, such as insufficient_funds.';
COMMENT ON COLUMN reporting.rejections.account IS 'Account that the rule is about.';
COMMENT ON COLUMN reporting.rejections.available IS 'What the account had available, where the rule is about that.';
COMMENT ON COLUMN reporting.rejections.would_be IS 'What it would have had after the transaction, where the rule is about that.';
COMMENT ON COLUMN reporting.rejections.asset IS 'Asset of the first leg.';
COMMENT ON COLUMN reporting.rejections.amount IS 'Sum of the debits in that asset, in its smallest unit.';
COMMENT ON COLUMN reporting.rejections.from_account IS 'Account of the first debit.';
COMMENT ON COLUMN reporting.rejections.to_account IS 'Account of the first credit.';
COMMENT ON COLUMN reporting.rejections.reference IS 'The client''s reference.';
COMMENT ON COLUMN reporting.rejections.metadata IS 'The client''s own JSON object.';
COMMENT ON COLUMN reporting.rejections.idempotency_key IS 'The client''s idempotency key.';
COMMENT ON COLUMN reporting.rejections.position IS 'Position of the event in the log.';
COMMENT ON COLUMN reporting.rejections.effective_at IS 'When the transaction would have counted for the books.';
COMMENT ON COLUMN reporting.rejections.recorded_at IS 'When it was declined.';

CREATE VIEW reporting.rejections_by_reason AS
SELECT
    ledger,
    (recorded_at AT TIME ZONE 'UTC')::date AS day,
    reason,
    asset,
    count(*) AS rejections,
    sum(amount) AS amount
FROM reporting.rejections
GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW reporting.rejections_by_reason IS 'Declined transactions by day, reason and asset.';
COMMENT ON COLUMN reporting.rejections_by_reason.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.rejections_by_reason.day IS 'The day, in UTC, on which they were declined.';
COMMENT ON COLUMN reporting.rejections_by_reason.reason IS 'Code of the rule, such as insufficient_funds.';
COMMENT ON COLUMN reporting.rejections_by_reason.asset IS 'Asset of the first leg.';
COMMENT ON COLUMN reporting.rejections_by_reason.rejections IS 'Number of declined transactions.';
COMMENT ON COLUMN reporting.rejections_by_reason.amount IS 'Sum of their amounts, in the asset''s smallest unit.';

GRANT SELECT ON
    reporting.transaction_legs, reporting.transaction_metadata, reporting.daily_balances,
    reporting.balances_by_prefix, reporting.rejections, reporting.rejections_by_reason
    TO steelyard_analyst, steelyard_serving;
