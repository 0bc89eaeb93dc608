-- What the log is searched by beside positions and ids. Neither index has a row yet
-- when it is made, but each reads the log once, and payments wait for that: on a log
-- of many millions make both beforehand with CONCURRENTLY (docs/OPERATIONS.md), and
-- this finds them there.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '30min';

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS events_subject_id ON events (ledger_id, subject_id, position) WHERE subject_id IS NOT NULL;
-- Rules are read from the log itself: there are few, and all are read at a start.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS events_rules ON events (ledger_id, position) WHERE type IN (
    'account_type_set', 'account_type_removed', 'velocity_limit_set', 'velocity_limit_removed', 'period_closed'
);
