-- A transaction that was scheduled and then decided has the key that scheduled it.
--
-- The event that decides it has none of its own, and names the position of the one
-- that has. That is looked up, by primary key, only where an event has no key.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

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
    coalesce(
        e.idempotency_key,
        (SELECT begun.idempotency_key FROM public.events begun
            WHERE begun.ledger_id = e.ledger_id AND begun.position = (e.payload ->> 'scheduled_position')::bigint)
    ) AS idempotency_key,
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
COMMENT ON COLUMN reporting.transactions.idempotency_key IS 'The client''s idempotency key; of what was scheduled, the key that scheduled it.';

CREATE OR REPLACE VIEW reporting.rejections AS
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
    coalesce(
        e.idempotency_key,
        (SELECT begun.idempotency_key FROM public.events begun
            WHERE begun.ledger_id = e.ledger_id AND begun.position = (e.payload ->> 'scheduled_position')::bigint)
    ) AS idempotency_key,
    r.position,
    r.effective_at,
    r.recorded_at
FROM reporting.consistent_cut cut
JOIN public.rejections r ON r.ledger_id = cut.ledger_id AND r.leg = 0 AND r.position <= cut.position
JOIN public.events e ON e.ledger_id = r.ledger_id AND e.position = r.position;
COMMENT ON COLUMN reporting.rejections.idempotency_key IS 'The client''s idempotency key; of what was scheduled, the key that scheduled it.';
