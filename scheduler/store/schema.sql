-- schema.sql - every table of the scheduler's store; the one home of their form.
--
-- `log` is the truth: state is what follows from it. All other tables are a projection of the log
-- (job, event, place, usage, ledger: written a few transactions later) or keep what is not state: the last output
-- of ranks, requests that were denied.
-- A change of this file needs a higher schema_version and a step in migrate.c.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,   -- schema_version, store_id, and applied_index: as log.projected, of
                              -- rows that were written when no entry was
    value NOT NULL
) WITHOUT ROWID;

-- Entries in order, without gaps; the oldest may have been dropped (snapshots stand for them).
CREATE TABLE log (
    idx       INTEGER PRIMARY KEY,
    term      INTEGER NOT NULL,
    time_us   INTEGER NOT NULL,
    principal TEXT NOT NULL,
    kind      INTEGER NOT NULL,  -- enum entry_kind
    version   INTEGER NOT NULL,
    projected INTEGER NOT NULL,  -- entry up to which rows were written with this one
    payload   BLOB NOT NULL
);

-- Jobs that ended. Live ones, and the newest ended ones, are in the scheduler's state.
CREATE TABLE job (
    id           INTEGER PRIMARY KEY,
    user         TEXT NOT NULL,
    name         TEXT NOT NULL,
    state        INTEGER NOT NULL,  -- enum job_state
    submitted_us INTEGER NOT NULL,
    ended_us     INTEGER NOT NULL,
    idx          INTEGER NOT NULL,  -- entry that changed it last
    record       BLOB NOT NULL      -- state_job of scheduler/core/records.def
);
CREATE INDEX job_by_user ON job (user, name, id);
CREATE INDEX job_by_owner ON job (user, id);
CREATE INDEX job_by_end ON job (ended_us);
CREATE INDEX job_by_state ON job (state, id);

-- What happened; n counts within one entry.
CREATE TABLE event (
    idx       INTEGER NOT NULL,
    n         INTEGER NOT NULL,
    time_us   INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    job       INTEGER,
    attempt   INTEGER,
    rank      INTEGER,
    node      TEXT,
    principal TEXT NOT NULL,
    message   TEXT NOT NULL,
    PRIMARY KEY (idx, n)
) WITHOUT ROWID;
CREATE INDEX event_by_job ON event (job, idx, n) WHERE job IS NOT NULL;

-- Which nodes an attempt had, in rank order: that is where its output lies.
CREATE TABLE place (
    job       INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    node_rank INTEGER NOT NULL,
    node      TEXT NOT NULL,
    PRIMARY KEY (job, attempt, node_rank)
) WITHOUT ROWID;

-- The last output of ranks that ended, stored before their agent's report is acknowledged.
CREATE TABLE tail (
    job      INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    rank     INTEGER NOT NULL,
    time_us  INTEGER NOT NULL,
    total    INTEGER NOT NULL,  -- bytes of the whole output
    data     BLOB NOT NULL,
    PRIMARY KEY (job, attempt, rank)
);
CREATE INDEX tail_by_time ON tail (time_us);

-- Every request that was denied. Those that changed something are in `event`, with who asked.
CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY,
    time_us   INTEGER NOT NULL,
    principal TEXT NOT NULL,   -- '' if the caller is not known
    method    TEXT NOT NULL,
    path      TEXT NOT NULL,
    status    INTEGER NOT NULL,
    detail    TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (time_us);

-- GPU time of one attempt on one UTC day, counted from 1970, by what it went into. A day's rows are
-- whole once it is over and in `ledger`; before, what runs is in the scheduler's state only.
CREATE TABLE usage (
    day           INTEGER NOT NULL,
    job           INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    user          TEXT NOT NULL,
    team          TEXT,
    grp           TEXT NOT NULL,
    stage         TEXT,
    productive_us INTEGER NOT NULL,
    recomputed_us INTEGER NOT NULL,
    stalled_us    INTEGER NOT NULL,
    start_up_us   INTEGER NOT NULL,
    suspended_us  INTEGER NOT NULL,
    PRIMARY KEY (day, job, attempt)
) WITHOUT ROWID;

-- `usage` without the jobs, of days that are in `ledger`: a million jobs are few thousand sums. ''
-- stands for NULL.
CREATE TABLE usage_sum (
    day           INTEGER NOT NULL,
    user          TEXT NOT NULL,
    team          TEXT NOT NULL,
    grp           TEXT NOT NULL,
    stage         TEXT NOT NULL,
    productive_us INTEGER NOT NULL,
    recomputed_us INTEGER NOT NULL,
    stalled_us    INTEGER NOT NULL,
    start_up_us   INTEGER NOT NULL,
    suspended_us  INTEGER NOT NULL,
    PRIMARY KEY (day, user, team, grp, stage)
) WITHOUT ROWID;

-- GPU time of the cluster on a day that is over: enum ledger_class in words, and `capacity`, which
-- is their sum.
CREATE TABLE ledger (
    day    INTEGER NOT NULL,
    class  TEXT NOT NULL,
    gpu_us INTEGER NOT NULL,
    PRIMARY KEY (day, class)
) WITHOUT ROWID;
