-- What analysts read: views that are a stable contract, whatever becomes of the
-- tables behind them. Each answers at a consistent cut, the highest position
-- that every shard has reached, so that a trial balance sums to zero in every
-- snapshot.

CREATE SCHEMA reporting;

CREATE VIEW reporting.consistent_cut AS
SELECT l.ledger_id, l.name AS ledger, min(c.position) AS position
FROM public.ledgers l
JOIN public.checkpoints c ON c.ledger_id = l.ledger_id AND c.projection = 'balances'
GROUP BY l.ledger_id, l.name;
COMMENT ON VIEW reporting.consistent_cut IS 'Per ledger, the position of the log that every view of this schema answers at.';
COMMENT ON COLUMN reporting.consistent_cut.ledger_id IS 'Number of the ledger.';
COMMENT ON COLUMN reporting.consistent_cut.ledger IS 'Name of the ledger, such as main.';
COMMENT ON COLUMN reporting.consistent_cut.position IS 'Highest position of the log that every shard has reached.';

CREATE VIEW reporting.assets AS
SELECT l.name AS ledger, a.code AS asset, a.scale
FROM public.assets a
JOIN public.ledgers l USING (ledger_id);
COMMENT ON VIEW reporting.assets IS 'Assets that amounts are counted in.';
COMMENT ON COLUMN reporting.assets.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.assets.asset IS 'Code of the asset, such as EUR.';
COMMENT ON COLUMN reporting.assets.scale IS 'Decimals of the smallest unit: divide amounts by 10 ^ scale to print them.';

CREATE VIEW reporting.accounts AS
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
    cut.position AS as_of_position
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
COMMENT ON VIEW reporting.accounts IS 'Accounts with their balances. Amounts are integers in the asset''s smallest unit.';
COMMENT ON COLUMN reporting.accounts.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.accounts.account IS 'Code of the account.';
COMMENT ON COLUMN reporting.accounts.asset IS 'Code of the account''s asset.';
COMMENT ON COLUMN reporting.accounts.normal_side IS 'Side on which the balance is counted: debit or credit.';
COMMENT ON COLUMN reporting.accounts.status IS 'open, frozen or closed.';
COMMENT ON COLUMN reporting.accounts.min_balance IS 'Floor of the balance; null is no floor.';
COMMENT ON COLUMN reporting.accounts.max_balance IS 'Cap of the balance; null is no cap.';
COMMENT ON COLUMN reporting.accounts.metadata IS 'The client''s own JSON object.';
COMMENT ON COLUMN reporting.accounts.opened_at IS 'When the account was opened.';
COMMENT ON COLUMN reporting.accounts.debits_posted IS 'Sum of all posted debits.';
COMMENT ON COLUMN reporting.accounts.credits_posted IS 'Sum of all posted credits.';
COMMENT ON COLUMN reporting.accounts.debits_pending IS 'Sum of debits authorised and not yet captured.';
COMMENT ON COLUMN reporting.accounts.credits_pending IS 'Sum of credits authorised and not yet captured.';
COMMENT ON COLUMN reporting.accounts.balance IS 'Posted balance on the normal side.';
COMMENT ON COLUMN reporting.accounts.version IS 'Number of legs posted to the account.';
COMMENT ON COLUMN reporting.accounts.as_of_position IS 'Position of the log that the row answers at.';

CREATE VIEW reporting.statement_lines AS
SELECT
    cut.ledger,
    a.code AS account,
    a.asset,
    e.version AS line,
    e.position,
    e.transaction_id,
    e.side,
    e.amount,
    CASE WHEN e.side = a.normal_side THEN e.amount ELSE -e.amount END AS change,
    e.balance_after,
    e.reference,
    e.effective_at,
    e.recorded_at
FROM reporting.consistent_cut cut
JOIN public.accounts a ON a.ledger_id = cut.ledger_id
JOIN public.entries e ON e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
    AND e.position <= cut.position;
COMMENT ON VIEW reporting.statement_lines IS 'Account statements, one row per posted leg.';
COMMENT ON COLUMN reporting.statement_lines.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.statement_lines.account IS 'Code of the account.';
COMMENT ON COLUMN reporting.statement_lines.asset IS 'Code of the account''s asset.';
COMMENT ON COLUMN reporting.statement_lines.line IS 'Number of the line in the account''s statement: 1, 2, 3, … without a gap.';
COMMENT ON COLUMN reporting.statement_lines.position IS 'Position of the event in the log.';
COMMENT ON COLUMN reporting.statement_lines.transaction_id IS 'Transaction that the leg belongs to.';
COMMENT ON COLUMN reporting.statement_lines.side IS 'debit or credit.';
COMMENT ON COLUMN reporting.statement_lines.amount IS 'Amount of the leg, more than zero, in the smallest unit.';
COMMENT ON COLUMN reporting.statement_lines.change IS 'The amount with its sign on the account''s normal side.';
COMMENT ON COLUMN reporting.statement_lines.balance_after IS 'Balance on the normal side after the line.';
COMMENT ON COLUMN reporting.statement_lines.reference IS 'The client''s reference, such as an invoice number.';
COMMENT ON COLUMN reporting.statement_lines.effective_at IS 'When the transaction counts for the books.';
COMMENT ON COLUMN reporting.statement_lines.recorded_at IS 'When the transaction was recorded.';

CREATE VIEW reporting.transactions AS
SELECT
    cut.ledger,
    e.transaction_id,
    e.payload ->> 'kind' AS type,
    CASE e.type WHEN 'transaction_posted' THEN 'posted' ELSE 'rejected' END AS status,
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
    e.recorded_at
FROM reporting.consistent_cut cut
JOIN public.events e ON e.ledger_id = cut.ledger_id AND e.position <= cut.position
WHERE e.type IN ('transaction_posted', 'transaction_rejected', 'batch_rejected');
COMMENT ON VIEW reporting.transactions IS 'Transactions, posted and rejected, one row each.';
COMMENT ON COLUMN reporting.transactions.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.transactions.transaction_id IS 'Id of the transaction.';
COMMENT ON COLUMN reporting.transactions.type IS 'What the client meant with it: payment.';
COMMENT ON COLUMN reporting.transactions.status IS 'posted or rejected.';
COMMENT ON COLUMN reporting.transactions.reason IS 'Code of the business rule that declined it, such as insufficient_funds; null when posted.';
COMMENT ON COLUMN reporting.transactions.asset IS 'Asset of the first leg.';
COMMENT ON COLUMN reporting.transactions.amount IS 'Sum of the debits in that asset, in its smallest unit.';
COMMENT ON COLUMN reporting.transactions.from_account IS 'Account of the first debit.';
COMMENT ON COLUMN reporting.transactions.to_account IS 'Account of the first credit.';
COMMENT ON COLUMN reporting.transactions.legs IS 'Number of legs.';
COMMENT ON COLUMN reporting.transactions.reference IS 'The client''s reference.';
COMMENT ON COLUMN reporting.transactions.description IS 'The client''s description.';
COMMENT ON COLUMN reporting.transactions.metadata IS 'The client''s own JSON object.';
COMMENT ON COLUMN reporting.transactions.idempotency_key IS 'The client''s idempotency key.';
COMMENT ON COLUMN reporting.transactions.position IS 'Position of the event in the log.';
COMMENT ON COLUMN reporting.transactions.effective_at IS 'When the transaction counts for the books.';
COMMENT ON COLUMN reporting.transactions.recorded_at IS 'When the transaction was recorded.';

CREATE VIEW reporting.trial_balance AS
SELECT
    ledger,
    asset,
    account,
    normal_side,
    debits_posted,
    credits_posted,
    debits_posted - credits_posted AS net_debit,
    as_of_position
FROM reporting.accounts;
COMMENT ON VIEW reporting.trial_balance IS 'Trial balance at the consistent cut: net_debit sums to zero per ledger and asset.';
COMMENT ON COLUMN reporting.trial_balance.ledger IS 'Name of the ledger.';
COMMENT ON COLUMN reporting.trial_balance.asset IS 'Code of the asset.';
COMMENT ON COLUMN reporting.trial_balance.account IS 'Code of the account.';
COMMENT ON COLUMN reporting.trial_balance.normal_side IS 'Normal side of the account.';
COMMENT ON COLUMN reporting.trial_balance.debits_posted IS 'Sum of all posted debits.';
COMMENT ON COLUMN reporting.trial_balance.credits_posted IS 'Sum of all posted credits.';
COMMENT ON COLUMN reporting.trial_balance.net_debit IS 'Debits less credits.';
COMMENT ON COLUMN reporting.trial_balance.as_of_position IS 'Position of the log that the row answers at.';

GRANT USAGE ON SCHEMA reporting TO steelyard_analyst, steelyard_serving;
GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO steelyard_analyst, steelyard_serving;
