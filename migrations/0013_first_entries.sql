-- The first 1,024 entries of an account are read as they are where back-dating is
-- asked for, with one range of an index that only back-dated entries are in. What
-- is kept for longer histories (running sums, sums by day, an index by effective
-- time) begins after them: most accounts never get there, and for an account of
-- some hundred back-dated legs all of it cost more to write than it spared readers.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '30min';

-- Reads the entries once; on many millions make it beforehand (docs/OPERATIONS.md).
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS entries_backdated ON entries (shard, ledger_id, account_id, version)
    WHERE version <= 1024 AND effective_at <> recorded_at;

-- What is there already: running sums without those of the first entries, which go.
UPDATE backdated b
SET debits_after = b.debits_after - f.debits_after, credits_after = b.credits_after - f.credits_after
FROM (
    SELECT DISTINCT ON (shard, ledger_id, account_id)
        shard, ledger_id, account_id, debits_after, credits_after
    FROM backdated
    WHERE version <= 1024
    ORDER BY shard, ledger_id, account_id, version DESC
) AS f
WHERE b.shard = f.shard AND b.ledger_id = f.ledger_id AND b.account_id = f.account_id AND b.version > 1024;
DELETE FROM backdated WHERE version <= 1024;
DELETE FROM backdated_days;
INSERT INTO backdated_days (shard, ledger_id, account_id, day, debits, credits)
SELECT shard, ledger_id, account_id, (effective_at AT TIME ZONE 'UTC')::date,
    coalesce(sum(amount) FILTER (WHERE side = 'debit'), 0),
    coalesce(sum(amount) FILTER (WHERE side = 'credit'), 0)
FROM backdated
GROUP BY 1, 2, 3, 4;

-- An account as of an effective time, from its entries up to the version
-- `known`. `moved_debits` and `moved_credits` are what back-dating adds to the
-- totals that the last entry by then left behind (less than zero, where
-- back-dated legs that it includes are effective later). All reads are bounded
-- but for what was back-dated after `known`.
CREATE OR REPLACE FUNCTION balance_as_of(
    of_shard smallint, of_ledger_id integer, of_account_id bigint, of_normal_side text, known bigint, at_time timestamptz,
    OUT entry_version bigint, OUT entry_position bigint, OUT balance numeric, OUT moved_debits numeric, OUT moved_credits numeric
) LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
DECLARE
    at_day    date;
    -- What back-dating adds, of the account's first entries.
    first_debits    numeric; first_credits    numeric;
    -- Of its later back-dated legs: those that the last entry includes, those effective on earlier days
    -- and on the day itself, and those of them that came after what is known.
    included_debits numeric; included_credits numeric;
    earlier_debits  numeric; earlier_credits  numeric;
    same_debits     numeric; same_credits     numeric;
    unknown_debits  numeric; unknown_credits  numeric;
BEGIN
    entry_version := public.last_entry(of_shard, of_ledger_id, of_account_id, known, 9223372036854775807, at_time);
    SELECT e.position, e.balance_after INTO entry_position, balance
    FROM public.entries e
    WHERE e.shard = of_shard AND e.ledger_id = of_ledger_id AND e.account_id = of_account_id AND e.version = entry_version;
    balance := coalesce(balance, 0);
    moved_debits := 0;
    moved_credits := 0;
    -- By the end of time everything known is effective.
    IF at_time = 'infinity' THEN
        RETURN;
    END IF;

    -- A leg that is effective by then counts; one that the last entry includes counts already. The bound
    -- stands twice: the literal is what the index is for.
    SELECT
        coalesce(sum(e.amount) FILTER (WHERE e.side = 'debit' AND e.effective_at <= at_time), 0)
            - coalesce(sum(e.amount) FILTER (WHERE e.side = 'debit' AND e.version <= entry_version), 0),
        coalesce(sum(e.amount) FILTER (WHERE e.side = 'credit' AND e.effective_at <= at_time), 0)
            - coalesce(sum(e.amount) FILTER (WHERE e.side = 'credit' AND e.version <= entry_version), 0)
    INTO first_debits, first_credits
    FROM public.entries e
    WHERE e.shard = of_shard AND e.ledger_id = of_ledger_id AND e.account_id = of_account_id
        AND e.version <= least(known, 1024) AND e.version <= 1024 AND e.effective_at <> e.recorded_at;

    SELECT b.debits_after, b.credits_after INTO included_debits, included_credits
    FROM public.backdated b
    WHERE b.shard = of_shard AND b.ledger_id = of_ledger_id AND b.account_id = of_account_id AND b.version <= entry_version
    ORDER BY b.version DESC
    LIMIT 1;

    at_day := (at_time AT TIME ZONE 'UTC')::date;
    SELECT sum(d.debits), sum(d.credits) INTO earlier_debits, earlier_credits
    FROM public.backdated_days d
    WHERE d.shard = of_shard AND d.ledger_id = of_ledger_id AND d.account_id = of_account_id AND d.day < at_day;

    SELECT sum(b.amount) FILTER (WHERE b.side = 'debit'), sum(b.amount) FILTER (WHERE b.side = 'credit')
    INTO same_debits, same_credits
    FROM public.backdated b
    WHERE b.shard = of_shard AND b.ledger_id = of_ledger_id AND b.account_id = of_account_id
        AND b.effective_at >= at_day::timestamp AT TIME ZONE 'UTC' AND b.effective_at <= at_time;

    -- OFFSET keeps the planner to the primary key: there is little after what is known, and much before the time.
    SELECT sum(b.amount) FILTER (WHERE b.side = 'debit'), sum(b.amount) FILTER (WHERE b.side = 'credit')
    INTO unknown_debits, unknown_credits
    FROM (
        SELECT r.side, r.amount, r.effective_at FROM public.backdated r
        WHERE r.shard = of_shard AND r.ledger_id = of_ledger_id AND r.account_id = of_account_id AND r.version > known
        OFFSET 0
    ) AS b
    WHERE b.effective_at <= at_time;

    moved_debits := first_debits + coalesce(earlier_debits, 0) + coalesce(same_debits, 0)
        - coalesce(unknown_debits, 0) - coalesce(included_debits, 0);
    moved_credits := first_credits + coalesce(earlier_credits, 0) + coalesce(same_credits, 0)
        - coalesce(unknown_credits, 0) - coalesce(included_credits, 0);
    balance := balance + CASE of_normal_side
        WHEN 'debit' THEN moved_debits - moved_credits
        ELSE moved_credits - moved_debits
    END;
END
$$;
