-- What was pending on an account at a position is what the last event about it by
-- then left behind. Entries find those that posted; these find, by either account of
-- a hold, the ones that authorised it or gave back what was left of it.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '30min';

-- By the account that is debited the primary key finds what was authorised.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS holds_to ON holds (ledger_id, to_account_id, position);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS holds_released_from ON holds (ledger_id, account_id, changed_position)
    WHERE state IN ('voided', 'expired');
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS holds_released_to ON holds (ledger_id, to_account_id, changed_position)
    WHERE state IN ('voided', 'expired');
