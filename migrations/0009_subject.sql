-- The earlier transaction that an event is about: the hold of a capture, the
-- transaction of a reversal. A file of its own, since it locks the log against
-- everybody: it does so for milliseconds, and what follows reads all of it.

-- Bounded, so that a migration that cannot get its lock gives up rather than
-- stopping all payments behind it.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '30min';

ALTER TABLE events ADD COLUMN IF NOT EXISTS subject_id uuid;
