-- What analysts see of holds, scheduled transactions and accounts that change.
--
-- Everything answers at the consistent cut. What has become of a hold by then is
-- read from the log, by its two indexes; a shard that is ahead of the cut has a
-- newer state in its tables.

-- Bounded, so that a migration that cannot get its lock gives up rather than
-- stopping all payments behind it.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE OR REPLACE VIEW reporting.accounts AS
SELECT
    cut.ledger,
    a.code AS account,
    a.asset,
    a.normal_side,
    a.status,
    a.min_balance,
    a.max_balance,
    coalesce(a.metadata, '{}'::jsonb) AS metadata,
    a.opened_at,
    b.debits_posted - coalesce(later.debits, 0) AS debits_posted,
    b.credits_posted - coalesce(later.credits, 0) AS credits_posted,
    b.debits_pending,
    b.credits_pending,
    CASE a.normal_side
        WHEN 'debit' THEN b.debits_posted - b.credits_posted - coalesce(later.debits, 0) + coalesce(later.credits, 0)
        ELSE b.credits_posted - b.debits_posted - coalesce(later.credits, 0) + coalesce(later.debits, 0)
    END AS balance,
    b.version - coalesce(later.legs, 0) AS version,
    cut.position AS as_of_position,
    a.freeze_scope,
    a.freeze_reason
FROM reporting.consistent_cut cut
JOIN public.accounts a ON a.ledger_id = cut.ledger_id AND a.account_id <= cut.position
JOIN public.balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
LEFT JOIN LATERAL (
    -- What a shard that is ahead of the cut has added since. Shards of one
    -- worker advance together, so this runs only while claims move.
    SELECT
        sum(e.amount) FILTER (WHERE e.side = 'debit') AS debits,
        sum(e.amount) FILTER (WHERE e.side = 'credit') AS credits,
        count(*) AS legs
    FROM public.entries e
    WHERE b.position > cut.position
        AND e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
        AND e.position > cut.position
) later ON b.position > cut.position;
COMMENT ON COLUMN reporting.accounts.status IS 'open, frozen or closed. What may change of an account (status, limits, metadata, freeze) is as of its own shard, which is at the cut but for moments.';
COMMENT ON COLUMN reporting.accounts.debits_pending IS 'Sum of debits authorised and not yet captured, as of the account''s own shard, which is at the cut but for moments.';
COMMENT ON COLUMN reporting.accounts.credits_pending IS 'Sum of credits authorised and not yet captured, as of the account''s own shard, which is at the cut but for moments.';
COMMENT ON COLUMN reporting.accounts.freeze_scope IS 'Which legs a freeze declines: all, debits or credits; null when there is none. A closed account keeps its freeze.';
COMMENT ON COLUMN reporting.accounts.freeze_reason IS 'Why it is frozen, in the operator''s words.';

-- A transaction that was scheduled has the row of its posting or rejection, once
-- it has come to that: amounts and days of what was posted are then those of the
-- books. `first_position` is where searches find it.
CREATE OR REPLACE VIEW reporting.transactions AS
SELECT
    cut.ledger,
    e.transaction_id,
    e.payload ->> 'kind' AS type,
    CASE e.type
        WHEN 'transaction_posted' THEN 'posted'
        WHEN 'transaction_authorised' THEN
            CASE
                WHEN ended.type = 'hold_voided' THEN 'voided'
                WHEN ended.type = 'hold_expired' THEN 'expired'
                WHEN capture.remaining = 0 THEN 'captured'
                ELSE 'authorised'
            END
        WHEN 'transaction_scheduled' THEN CASE WHEN ended.type IS NULL THEN 'scheduled' ELSE 'cancelled' END
        ELSE 'rejected'
    END AS status,
    e.payload #>> '{rejection,code}' AS reason,
    coalesce(e.payload ->> 'asset', e.payload #>> '{legs,0,asset}') AS asset,
    (SELECT sum((leg ->> 'amount')::numeric) FROM jsonb_array_elements(e.payload -> 'legs') leg
        WHERE leg ->> 'side' = 'debit'
            AND leg ->> 'asset' IS NOT DISTINCT FROM e.payload #>> '{legs,0,asset}') AS amount,
    (SELECT leg ->> 'account' FROM jsonb_array_elements(e.payload -> 'legs') leg
        WHERE leg ->> 'side' = 'debit' LIMIT 1) AS from_account,
    (SELECT leg ->> 'account' FROM jsonb_array_elements(e.payload -> 'legs') leg
        WHERE leg ->> 'side' = 'credit' LIMIT 1) AS to_account,
    jsonb_array_length(e.payload -> 'legs') AS legs,
    e.payload ->> 'reference' AS reference,
    e.payload ->> 'description' AS description,
    coalesce(e.payload -> 'metadata', '{}'::jsonb) AS metadata,
    e.idempotency_key,
    e.position,
    e.effective_at,
    e.recorded_at,
    coalesce(e.subject_id, (e.payload ->> 'subject_id')::uuid) AS subject_id,
    coalesce((e.payload ->> 'scheduled_position')::bigint, e.position) AS first_position,
    CASE e.type WHEN 'transaction_authorised' THEN coalesce(capture.captured, 0) END AS captured
FROM reporting.consistent_cut cut
JOIN public.events e ON e.ledger_id = cut.ledger_id AND e.position <= cut.position
LEFT JOIN LATERAL (
    -- The event that ended a hold, or what was scheduled.
    SELECT own.type
    FROM public.events own
    WHERE e.type IN ('transaction_authorised', 'transaction_scheduled')
        AND own.transaction_id = e.transaction_id AND own.ledger_id = e.ledger_id
        AND own.position > e.position AND own.position <= cut.position
    LIMIT 1
) AS ended ON true
LEFT JOIN LATERAL (
    SELECT
        (own.payload #>> '{hold,captured}')::numeric AS captured,
        (own.payload #>> '{hold,remaining}')::numeric AS remaining
    FROM public.events own
    WHERE e.type = 'transaction_authorised'
        AND own.ledger_id = e.ledger_id AND own.subject_id = e.transaction_id AND own.position <= cut.position
    ORDER BY own.position DESC
    LIMIT 1
) AS capture ON true
WHERE e.type IN ('transaction_posted', 'transaction_rejected', 'batch_rejected', 'transaction_authorised')
    OR (e.type = 'transaction_scheduled' AND (ended.type IS NULL OR ended.type = 'schedule_cancelled'));
COMMENT ON VIEW reporting.transactions IS 'Transactions, whatever has become of them, one row each. One that was scheduled has the row of its posting or rejection once it has come to that.';
COMMENT ON COLUMN reporting.transactions.type IS 'What the client meant with it: payment or transaction, capture of a hold, or reversal; of those that were declined also void and cancellation.';
COMMENT ON COLUMN reporting.transactions.status IS 'posted or rejected; of a hold authorised, captured, voided or expired; scheduled or cancelled. Only what is posted is in balances: a hold''s captures are, as transactions of their own.';
COMMENT ON COLUMN reporting.transactions.reason IS 'Code of the business rule that declined it, such as insufficient_funds; null otherwise.';
COMMENT ON COLUMN reporting.transactions.subject_id IS 'The transaction that it is about: the hold of a capture or a void, the transaction that is reversed or cancelled; null otherwise.';
COMMENT ON COLUMN reporting.transactions.first_position IS 'Position of its first event in the log: where it was scheduled, if it was; else its position. Join reporting.transaction_metadata by ledger and this.';
COMMENT ON COLUMN reporting.transactions.captured IS 'What has been captured of a hold; null of anything else.';

CREATE OR REPLACE VIEW reporting.transaction_legs AS
SELECT
    cut.ledger,
    e.transaction_id,
    e.payload ->> 'kind' AS type,
    CASE e.type
        WHEN 'transaction_posted' THEN 'posted'
        WHEN 'transaction_authorised' THEN
            CASE
                WHEN ended.type = 'hold_voided' THEN 'voided'
                WHEN ended.type = 'hold_expired' THEN 'expired'
                WHEN capture.remaining = 0 THEN 'captured'
                ELSE 'authorised'
            END
        WHEN 'transaction_scheduled' THEN CASE WHEN ended.type IS NULL THEN 'scheduled' ELSE 'cancelled' END
        ELSE 'rejected'
    END AS status,
    e.payload #>> '{rejection,code}' AS reason,
    leg.number AS leg,
    leg.body ->> 'account' AS account,
    leg.body ->> 'side' AS side,
    (leg.body ->> 'amount')::numeric AS amount,
    coalesce(leg.body ->> 'asset', e.payload ->> 'asset') AS asset,
    CASE leg.body ->> 'side' WHEN 'debit' THEN 1 ELSE -1 END * (leg.body ->> 'amount')::numeric AS net_debit,
    CASE
        WHEN e.type <> 'transaction_posted' THEN NULL
        WHEN leg.body ->> 'normal' = 'debit' THEN (leg.body ->> 'debits')::numeric - (leg.body ->> 'credits')::numeric
        ELSE (leg.body ->> 'credits')::numeric - (leg.body ->> 'debits')::numeric
    END AS balance_after,
    e.payload ->> 'reference' AS reference,
    coalesce(e.payload -> 'metadata', '{}'::jsonb) AS metadata,
    e.position,
    e.effective_at,
    e.recorded_at,
    coalesce(e.subject_id, (e.payload ->> 'subject_id')::uuid) AS subject_id,
    coalesce((e.payload ->> 'scheduled_position')::bigint, e.position) AS first_position
FROM reporting.consistent_cut cut
JOIN public.events e ON e.ledger_id = cut.ledger_id AND e.position <= cut.position
LEFT JOIN LATERAL (
    SELECT own.type
    FROM public.events own
    WHERE e.type IN ('transaction_authorised', 'transaction_scheduled')
        AND own.transaction_id = e.transaction_id AND own.ledger_id = e.ledger_id
        AND own.position > e.position AND own.position <= cut.position
    LIMIT 1
) AS ended ON true
LEFT JOIN LATERAL (
    SELECT (own.payload #>> '{hold,remaining}')::numeric AS remaining
    FROM public.events own
    WHERE e.type = 'transaction_authorised'
        AND own.ledger_id = e.ledger_id AND own.subject_id = e.transaction_id AND own.position <= cut.position
    ORDER BY own.position DESC
    LIMIT 1
) AS capture ON true
CROSS JOIN LATERAL jsonb_array_elements(e.payload -> 'legs') WITH ORDINALITY AS leg (body, number)
WHERE e.type IN ('transaction_posted', 'transaction_rejected', 'batch_rejected', 'transaction_authorised')
    OR (e.type = 'transaction_scheduled' AND (ended.type IS NULL OR ended.type = 'schedule_cancelled'));
COMMENT ON VIEW reporting.transaction_legs IS 'Transactions, whatever has become of them, one row per leg. For the lines of one account, reporting.statement_lines is faster.';
COMMENT ON COLUMN reporting.transaction_legs.type IS 'What the client meant with it, such as payment: as in reporting.transactions.';
COMMENT ON COLUMN reporting.transaction_legs.status IS 'What has become of it, as in reporting.transactions. Only legs that are posted are in balances.';
COMMENT ON COLUMN reporting.transaction_legs.reason IS 'Code of the business rule that declined it, such as insufficient_funds; null otherwise.';
COMMENT ON COLUMN reporting.transaction_legs.balance_after IS 'Balance of the account on its normal side after the leg; null when it was not posted.';
COMMENT ON COLUMN reporting.transaction_legs.subject_id IS 'The transaction that it is about: the hold of a capture or a void, the transaction that is reversed or cancelled; null otherwise.';
COMMENT ON COLUMN reporting.transaction_legs.first_position IS 'Position of the transaction''s first event in the log.';

COMMENT ON VIEW reporting.transaction_metadata IS 'Searchable members of transactions'' metadata, one row each: strings, numbers and booleans at the top, name and value of at most 255 bytes, at most 32 of a transaction. Indexed by key and value; join reporting.transactions by ledger and its first_position.';
COMMENT ON COLUMN reporting.transaction_metadata.position IS 'Position of the transaction''s first event in the log.';

CREATE VIEW reporting.holds_outstanding AS
SELECT
    cut.ledger,
    h.transaction_id,
    h.from_account,
    h.to_account,
    h.asset,
    h.amount,
    h.captured,
    h.remaining,
    h.reference,
    h.authorised_at,
    h.expires_at,
    now() - h.authorised_at AS age,
    h.position,
    cut.position AS as_of_position
FROM reporting.consistent_cut cut
JOIN public.holds h ON h.ledger_id = cut.ledger_id AND h.state = 'authorised'
    AND h.position <= cut.position AND h.changed_position <= cut.position
UNION ALL
-- Those that a shard ahead of the cut has changed since: as they were at the cut.
SELECT
    cut.ledger,
    h.transaction_id,
    h.from_account,
    h.to_account,
    h.asset,
    h.amount,
    coalesce(capture.captured, 0) AS captured,
    coalesce(capture.remaining, h.amount) AS remaining,
    h.reference,
    h.authorised_at,
    h.expires_at,
    now() - h.authorised_at AS age,
    h.position,
    cut.position AS as_of_position
FROM reporting.consistent_cut cut
CROSS JOIN LATERAL (
    SELECT DISTINCT coalesce(later.subject_id, later.transaction_id) AS transaction_id
    FROM public.events later
    WHERE later.ledger_id = cut.ledger_id AND later.position > cut.position
        AND later.position <= (
            SELECT max(c.position) FROM public.checkpoints c
            WHERE c.ledger_id = cut.ledger_id AND c.projection = 'balances'
        )
        AND (
            later.type IN ('hold_voided', 'hold_expired')
            OR (later.type = 'transaction_posted' AND later.subject_id IS NOT NULL)
        )
) AS changed
CROSS JOIN LATERAL (
    SELECT own.position
    FROM public.events own
    WHERE own.transaction_id = changed.transaction_id AND own.ledger_id = cut.ledger_id
        AND own.type = 'transaction_authorised' AND own.position <= cut.position
    LIMIT 1
) AS begun
JOIN public.holds h ON h.ledger_id = cut.ledger_id AND h.state IN ('authorised', 'captured', 'voided', 'expired')
    AND h.position = begun.position AND h.changed_position > cut.position
LEFT JOIN LATERAL (
    SELECT
        (own.payload #>> '{hold,captured}')::numeric AS captured,
        (own.payload #>> '{hold,remaining}')::numeric AS remaining
    FROM public.events own
    WHERE own.ledger_id = cut.ledger_id AND own.subject_id = changed.transaction_id AND own.position <= cut.position
    ORDER BY own.position DESC
    LIMIT 1
) AS capture ON true;
COMMENT ON VIEW reporting.holds_outstanding IS 'Holds of which something is still reserved, with their age. Amounts are integers in the asset''s smallest unit.';
COMMENT ON COLUMN reporting.holds_outstanding.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.holds_outstanding.transaction_id IS 'Id of the payment that was authorised.';
COMMENT ON COLUMN reporting.holds_outstanding.from_account IS 'Account on which the funds are reserved.';
COMMENT ON COLUMN reporting.holds_outstanding.to_account IS 'Account that they are meant for.';
COMMENT ON COLUMN reporting.holds_outstanding.asset IS 'Code of the asset.';
COMMENT ON COLUMN reporting.holds_outstanding.amount IS 'What was authorised.';
COMMENT ON COLUMN reporting.holds_outstanding.captured IS 'What has been captured of it.';
COMMENT ON COLUMN reporting.holds_outstanding.remaining IS 'What is still reserved.';
COMMENT ON COLUMN reporting.holds_outstanding.reference IS 'The client''s reference.';
COMMENT ON COLUMN reporting.holds_outstanding.authorised_at IS 'When it was authorised.';
COMMENT ON COLUMN reporting.holds_outstanding.expires_at IS 'When it ends by itself; null is never.';
COMMENT ON COLUMN reporting.holds_outstanding.age IS 'Time since it was authorised.';
COMMENT ON COLUMN reporting.holds_outstanding.position IS 'Position of the event that authorised it.';
COMMENT ON COLUMN reporting.holds_outstanding.as_of_position IS 'Position of the log that the row answers at.';

CREATE VIEW reporting.scheduled AS
SELECT
    cut.ledger,
    e.transaction_id,
    e.payload ->> 'kind' AS type,
    coalesce(e.payload ->> 'asset', e.payload #>> '{legs,0,asset}') AS asset,
    (SELECT sum((leg ->> 'amount')::numeric) FROM jsonb_array_elements(e.payload -> 'legs') leg
        WHERE leg ->> 'side' = 'debit'
            AND leg ->> 'asset' IS NOT DISTINCT FROM e.payload #>> '{legs,0,asset}') AS amount,
    (SELECT leg ->> 'account' FROM jsonb_array_elements(e.payload -> 'legs') leg
        WHERE leg ->> 'side' = 'debit' LIMIT 1) AS from_account,
    (SELECT leg ->> 'account' FROM jsonb_array_elements(e.payload -> 'legs') leg
        WHERE leg ->> 'side' = 'credit' LIMIT 1) AS to_account,
    jsonb_array_length(e.payload -> 'legs') AS legs,
    e.payload ->> 'reference' AS reference,
    coalesce(e.payload -> 'metadata', '{}'::jsonb) AS metadata,
    e.effective_at,
    e.effective_at - now() AS due_in,
    e.recorded_at,
    e.position,
    cut.position AS as_of_position
FROM reporting.consistent_cut cut
CROSS JOIN LATERAL (
    SELECT s.position
    FROM public.scheduled_transactions s
    WHERE s.ledger_id = cut.ledger_id AND s.state = 'scheduled' AND s.position <= cut.position
    UNION ALL
    -- Those that a shard ahead of the cut has seen end.
    SELECT s.position
    FROM public.events later
    JOIN public.scheduled_transactions s
        ON s.ledger_id = cut.ledger_id AND s.state IN ('posted', 'rejected', 'cancelled')
        AND s.position = (later.payload ->> 'scheduled_position')::bigint AND s.changed_position = later.position
    WHERE later.ledger_id = cut.ledger_id AND later.position > cut.position
        AND later.position <= (
            SELECT max(c.position) FROM public.checkpoints c
            WHERE c.ledger_id = cut.ledger_id AND c.projection = 'balances'
        )
        AND later.type IN ('transaction_posted', 'transaction_rejected', 'schedule_cancelled')
        AND later.payload ? 'scheduled_position'
        AND s.position <= cut.position
) AS waiting
JOIN public.events e ON e.ledger_id = cut.ledger_id AND e.position = waiting.position;
COMMENT ON VIEW reporting.scheduled IS 'Transactions that wait for their effective time, one row each. Amounts are integers in the asset''s smallest unit.';
COMMENT ON COLUMN reporting.scheduled.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.scheduled.transaction_id IS 'Id of the transaction, which it keeps.';
COMMENT ON COLUMN reporting.scheduled.type IS 'What the client meant with it: payment or transaction.';
COMMENT ON COLUMN reporting.scheduled.asset IS 'Asset of the first leg.';
COMMENT ON COLUMN reporting.scheduled.amount IS 'Sum of the debits in that asset, in its smallest unit.';
COMMENT ON COLUMN reporting.scheduled.from_account IS 'Account of the first debit.';
COMMENT ON COLUMN reporting.scheduled.to_account IS 'Account of the first credit.';
COMMENT ON COLUMN reporting.scheduled.legs IS 'Number of legs.';
COMMENT ON COLUMN reporting.scheduled.reference IS 'The client''s reference.';
COMMENT ON COLUMN reporting.scheduled.metadata IS 'The client''s own JSON object.';
COMMENT ON COLUMN reporting.scheduled.effective_at IS 'When it will be decided, and counts for the books if it is posted.';
COMMENT ON COLUMN reporting.scheduled.due_in IS 'Time until then.';
COMMENT ON COLUMN reporting.scheduled.recorded_at IS 'When it was scheduled.';
COMMENT ON COLUMN reporting.scheduled.position IS 'Position of the event that scheduled it.';
COMMENT ON COLUMN reporting.scheduled.as_of_position IS 'Position of the log that the row answers at.';

GRANT SELECT ON reporting.holds_outstanding, reporting.scheduled TO steelyard_analyst, steelyard_serving;
