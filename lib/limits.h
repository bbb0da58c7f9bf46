/* limits.h - the named maximum of everything that can grow; one home for all of hai.
 *
 * Pure: constants only. Texts are in bytes without a terminating zero.
 */
#pragma once
#include <stdint.h>

enum {
    /* names */
    JOB_NAME_MAX = 63,
    NODE_NAME_MAX = 63,
    ZONE_NAME_MAX = 31,
    LEAF_NAME_MAX = 255,
    LABEL_MAX = 63,     // kind of a job, version of a program, what a token is for
    PRINCIPAL_MAX = 95, // "SCOPE:NAME" of a log entry
    BOOT_ID_MAX = 64,
    ADDRESS_MAX = 256,
    GROUP_NAME_MAX = 63,
    USER_NAME_MAX = 63,
    RESERVE_NAME_MAX = 63,
    PATH_BYTES_MAX = 4095,
    REASON_BYTES_MAX = 512,
    IDEMPOTENCY_KEY_MAX = 128,

    /* the cluster */
    ZONES_MAX = 16,
    LEAVES_MAX = 4096,
    NODES_MAX = 20000,
    GROUPS_MAX = 64, // a set of groups is one 64-bit word
    NODE_GPUS_MAX = 16,
    NODE_CPUS_MAX = 4096,
    NODE_RANKS_MAX = 4096, // ranks, or attempts, on one node at once
    RESERVES_MAX = 1000,   // reservations that are not over
    RESERVE_USERS_MAX = 1000,
    RESERVE_LEAVING_MAX = 16, // jobs that a dry run names

    /* jobs */
    JOB_NODES_MAX = 10000,
    JOB_RANKS_MAX = 160000,
    RESTARTS_MAX = 1000000,
    SPEC_BYTES_MAX = 256 * 1024,
    COMMAND_BYTES_MAX = 64 * 1024,
    COMMAND_WORDS_MAX = 4096,
    ENV_BYTES_MAX = 64 * 1024,
    ENV_VARS_MAX = 4096,
    JOBS_LIVE_MAX = 1000000, // not ended; more are refused
    JOBS_ENDED_KEPT = 1000,  // ended ones the scheduler keeps in memory; SQL has all
    AFTER_MAX = 64,          // jobs that one waits for, in each list of `after:`
    PASTS_MAX = 4096,        // users and job names whose run times are remembered
    BACKFILL_MAX = 64,       // jobs of a group with a planned start
    BACKFILL_DEFAULT = 4,
    PAST_BUCKETS = 56, // half octaves of run time, from 1 s
    PAST_COUNT_MAX = 1 << 20,
    ARRAY_MAX = 10000, // elements of one array
    ARRAY_INDEX_MAX = 999999,
    ARRAY_RANGES_MAX = 128,
    ARRAY_TEXT_MAX = 512,
    JOB_AVOID_MAX = 16, // nodes a job remembers to have failed on
    SUBMIT_BATCH_MAX = 1000,
    IDEMPOTENCY_KEYS_MAX = 1000000,
    IDEMPOTENCY_KEEP_S = 24 * 3600,
    KEY_HASH_BYTES = 16,
    DIGEST_BYTES = 32, // SHA-256
    TOKENS_MAX = 100000,
    TOKENS_OWNER_MAX = 1000, // of one user or node, not expired
    USERS_MAX = 65536,
    QUOTAS_MAX = 100000,
    QUOTA_GPUS_MAX = NODES_MAX * NODE_GPUS_MAX,

    /* streams and logs */
    LOG_TAIL_BYTES = 64 * 1024,
    STREAM_BYTES_MAX = 1024 * 1024,
    RENDEZVOUS_BYTES_MAX = 4096, // one rank's value

    /* HTTP */
    HTTP_BODY_BYTES_MAX = 32 * 1024 * 1024,

    /* ports handed out as MASTER_PORT */
    MASTER_PORT_FIRST = 20000,
    MASTER_PORT_LAST = 29999,
};

/* Longest duration anywhere: ten years. */
#define DURATION_US_MAX (INT64_C(3653) * 24 * 3600 * 1000000)
#define NODE_MEMORY_BYTES_MAX (INT64_C(1) << 50)
