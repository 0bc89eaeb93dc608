-- Balances as of a position of the log, and as of an effective time, without
-- reading an account's history and without one more index for every payment.
--
-- Along the versions of an account neither `position` nor `recorded_at` ever
-- falls. So the last entry at or before either is found by bisection, with some
-- two dozen probes of the primary key of `entries` in ten million entries.
--
-- What is effective when it is recorded, as nearly everything is, needs nothing
-- else. The rest is kept here once more: legs whose effective time is not the
-- time of their recording, with what they amount to so far, and their sums by
-- day. A balance as of an effective time is then the balance after the last entry
-- recorded by then, less what was back-dated up to that entry, plus what was
-- back-dated to that time or before, whenever it was recorded.

CREATE TABLE backdated (
    shard         smallint NOT NULL,
    ledger_id     integer NOT NULL,
    account_id    bigint NOT NULL,
    -- The version of the leg's row in entries.
    version       bigint NOT NULL,
    side          text NOT NULL,
    amount        numeric(38, 0) NOT NULL,
    effective_at  timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL,
    -- Sums of all back-dated legs of the account up to and with this one.
    debits_after  numeric(38, 0) NOT NULL,
    credits_after numeric(38, 0) NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, version)
);
CREATE INDEX backdated_effective_at ON backdated (shard, ledger_id, account_id, effective_at, version);

-- Sums of the back-dated legs of an account that are effective on one day, in UTC.
CREATE TABLE backdated_days (
    shard      smallint NOT NULL,
    ledger_id  integer NOT NULL,
    account_id bigint NOT NULL,
    day        date NOT NULL,
    debits     numeric(38, 0) NOT NULL,
    credits    numeric(38, 0) NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, day)
) WITH (fillfactor = 80);

GRANT SELECT, INSERT, UPDATE, DELETE ON backdated, backdated_days TO steelyard_serving;

-- The version of an account's last entry at or before both a position and a
-- time; 0 when there is none. `newest` is a version after which none counts.
-- Looks near `newest` first, since most questions are about what was a moment
-- ago, then bisects. It asks for the last entry up to a version, and so needs
-- no version to be there.
CREATE FUNCTION last_entry(
    of_shard smallint, of_ledger_id integer, of_account_id bigint, newest bigint, at_position bigint, at_time timestamptz
) RETURNS bigint LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- Entries with a version above `high` do not count; of those up to `low`, `last` is the last that does.
    high  bigint := newest;
    low   bigint := 0;
    last  bigint := 0;
    step  bigint := 0;
    probe bigint;
    found_version bigint;
    counts        boolean;
BEGIN
    WHILE low < high LOOP
        probe := greatest(high - step, (low + high + 1) / 2);
        SELECT e.version, e.position <= at_position AND e.recorded_at <= at_time
        INTO found_version, counts
        FROM public.entries e
        WHERE e.shard = of_shard AND e.ledger_id = of_ledger_id AND e.account_id = of_account_id AND e.version <= probe
        ORDER BY e.version DESC
        LIMIT 1;
        IF found_version IS NULL THEN
            low := probe;
        ELSIF counts THEN
            last := found_version;
            low := probe;
        ELSE
            high := found_version - 1;
        END IF;
        step := least(step * 16 + 1, newest);
    END LOOP;
    RETURN last;
END
$$;
COMMENT ON FUNCTION last_entry IS 'Version of the last entry of an account at or before a position and a time; 0 when there is none.';

-- An account as of an effective time, from its entries up to the version
-- `known`. `moved_debits` and `moved_credits` are what back-dating adds to the
-- totals that the last entry by then left behind (less than zero, where
-- back-dated legs that it includes are effective later). All reads are bounded
-- but for what was back-dated after `known`.
CREATE FUNCTION balance_as_of(
    of_shard smallint, of_ledger_id integer, of_account_id bigint, of_normal_side text, known bigint, at_time timestamptz,
    OUT entry_version bigint, OUT entry_position bigint, OUT balance numeric, OUT moved_debits numeric, OUT moved_credits numeric
) LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
DECLARE
    at_day    date;
    -- Of the account's back-dated legs: those that the last entry includes, those effective on earlier days
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

    moved_debits := coalesce(earlier_debits, 0) + coalesce(same_debits, 0)
        - coalesce(unknown_debits, 0) - coalesce(included_debits, 0);
    moved_credits := coalesce(earlier_credits, 0) + coalesce(same_credits, 0)
        - coalesce(unknown_credits, 0) - coalesce(included_credits, 0);
    balance := balance + CASE of_normal_side
        WHEN 'debit' THEN moved_debits - moved_credits
        ELSE moved_credits - moved_debits
    END;
END
$$;
COMMENT ON FUNCTION balance_as_of IS 'Balance of an account on its normal side as of an effective time, from its entries up to a version.';

-- Debits less credits of an account as of an effective time, as it was known at a position.
CREATE FUNCTION net_debit_as_of(
    of_shard smallint, of_ledger_id integer, of_account_id bigint, of_normal_side text, newest bigint,
    at_position bigint, at_time timestamptz
) RETURNS numeric LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
DECLARE
    known bigint;
    found numeric;
BEGIN
    known := public.last_entry(of_shard, of_ledger_id, of_account_id, newest, at_position, 'infinity');
    SELECT b.balance INTO found
    FROM public.balance_as_of(of_shard, of_ledger_id, of_account_id, of_normal_side, known, at_time) b;
    RETURN CASE of_normal_side WHEN 'debit' THEN found ELSE -found END;
END
$$;
COMMENT ON FUNCTION net_debit_as_of IS 'Debits less credits of an account as of an effective time, as it was known at a position.';

-- For analysts. It runs with the rights of its owner, as views do, and sees to
-- it itself that the position is one that every shard has reached.
CREATE FUNCTION reporting.balances_at(ledger text, at_position bigint)
RETURNS TABLE (account text, asset text, normal_side text, balance numeric, net_debit numeric, as_of_position bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    cut  bigint;
    of_ledger_id integer;
    upto bigint;
BEGIN
    SELECT c.ledger_id, c.position INTO of_ledger_id, cut FROM reporting.consistent_cut c WHERE c.ledger = balances_at.ledger;
    IF of_ledger_id IS NULL THEN
        RAISE EXCEPTION 'there is no ledger "%"', balances_at.ledger USING ERRCODE = 'invalid_parameter_value';
    END IF;
    upto := coalesce(balances_at.at_position, cut);
    IF upto < 0 OR upto > cut THEN
        RAISE EXCEPTION 'the reports of ledger "%" reach position %, and not %', balances_at.ledger, cut, upto
            USING ERRCODE = 'invalid_parameter_value', HINT = 'reporting.consistent_cut says how far they are.';
    END IF;
    RETURN QUERY
    SELECT
        found.code, found.asset, found.normal_side,
        CASE found.normal_side WHEN 'debit' THEN found.net_debit ELSE -found.net_debit END,
        found.net_debit, upto
    FROM (
        SELECT a.code, a.asset, a.normal_side,
            CASE WHEN b.position <= upto THEN b.debits_posted - b.credits_posted
                ELSE public.net_debit_as_of(
                    a.shard, a.ledger_id, a.account_id, a.normal_side, b.version, upto, 'infinity'
                )
            END AS net_debit
        FROM public.accounts a
        JOIN public.balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
        WHERE a.ledger_id = of_ledger_id AND a.account_id <= upto
    ) AS found;
END
$$;
COMMENT ON FUNCTION reporting.balances_at IS 'Balances of all accounts of a ledger as they were at a position of its log: of those that were open, on the normal side (balance) and as debits less credits (net_debit, which sums to zero per asset). A position of null is the consistent cut; one beyond it is an error. Found in the entries without reading an account''s history, which have the balance after each: totals of debits and of credits alone, and pending amounts, are not kept over time.';
REVOKE ALL ON FUNCTION reporting.balances_at FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reporting.balances_at TO steelyard_analyst, steelyard_serving;
