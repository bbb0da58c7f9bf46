/* entry.h - log entries: the only way in which the scheduler's state changes.
 *
 * Pure. Payloads are the structs of entries.def, one for each kind, in the encoding of
 * lib/pure/tlv.h. An entry is authenticated and checked for form before it is appended; whether it
 * may happen is decided when it is applied (apply.h), after it was committed.
 *
 * Time: time_us is max(time of the previous entry + 1, the leader's clock). The leader's clock must
 * run like CLOCK_BOOTTIME (wall clock read once at start, plus the time since on CLOCK_BOOTTIME):
 * leases are counted in it, and a wall clock that is set forward would end them early.
 */
#pragma once
#include "lib/base.h"
#include "lib/limits.h"
#include "lib/pure/buf.h"
#include "lib/pure/schema.h"
#include "lib/pure/terms.h"

/* What a principal may do; ascending, each includes those before it. */
#define SCOPES(P, X)                                                                               \
    X(P, NONE, "none")                                                                             \
    X(P, NODE, "node")       /* an agent: reports about its own node only */                       \
    X(P, READ, "read")       /* see */                                                             \
    X(P, SUBMIT, "submit")   /* and submit, change and stop one's own jobs */                      \
    X(P, OPERATE, "operate") /* and everybody's jobs and the nodes */                              \
    X(P, ADMIN, "admin")     /* and users, tokens, the cluster */                                  \
    X(P, SYSTEM, "system")   /* the scheduler itself: ticks, proposals, conclusions */
DECLARE_ENUM(scope, SCOPE, SCOPES);

/* Bits of entry_user_set.only: several people may change an account at once. */
enum {
    USER_SET_ACCOUNT = 1, // uid and gid
    USER_SET_SCOPE = 2,
    USER_SET_DISABLED = 4,
    USER_SET_EXTERNAL = 8,
    USER_SET_FIELDS = 15,
    USER_SET_NEW = 16,   // refused if the user is there
    USER_SET_KNOWN = 32, // refused if not
    USER_SET_ALL = 63,
};

/* Bits of restart_when: which causes restart a job (RESTART_FAULTS by default). */
enum {
    RESTART_NODE = 1,
    RESTART_SIGNAL = 2,
    RESTART_MEMORY = 4,
    RESTART_HANG = 8,
    RESTART_EXIT = 16,
    RESTART_FAULTS = RESTART_NODE | RESTART_SIGNAL | RESTART_MEMORY | RESTART_HANG,
    RESTART_ALL = RESTART_FAULTS | RESTART_EXIT,
};

/* How a job that another waits for must end. */
#define AFTER_WANTS(P, X)                                                                          \
    X(P, OK, "ok")         /* succeed */                                                           \
    X(P, ANY, "any")       /* end, however */                                                      \
    X(P, FAILED, "failed") /* fail, or run for longer than it may */
DECLARE_ENUM(after_want, AFTER, AFTER_WANTS);

/* How a job moves among the places of its user's waiting jobs. */
#define JOB_MOVES(P, X)                                                                            \
    X(P, STAYS, "stays")                                                                           \
    X(P, FIRST, "first")                                                                           \
    X(P, LAST, "last")                                                                             \
    X(P, BEFORE, "before") /* another one of them */
DECLARE_ENUM(job_move, JOB_MOVE, JOB_MOVES);

/* Whose quota: one user's, one team's, or that of every user who has none of his own. */
#define QUOTA_HOLDERS(P, X)                                                                        \
    X(P, USER, "user")                                                                             \
    X(P, TEAM, "team")                                                                             \
    X(P, EVERY, "every")
DECLARE_ENUM(quota_holder, QUOTA_HOLDER, QUOTA_HOLDERS);

#include "scheduler/core/entries.def"

#include "lib/pure/schema_structs.h"
ENTRY_SCHEMAS
#include "lib/pure/schema_undef.h"

#define ENTRY_KIND_(suffix, tag, version) ENTRY_##suffix,
enum entry_kind { ENTRY_NONE, ENTRY_KINDS(ENTRY_KIND_) ENTRY_COUNT };

/* An entry as apply reads it; all pointers are the caller's.
 *
 * principal  who asked, "SCOPE:NAME": "submit:alice", "operate:root", "node:a1", "system:hai"
 * kind       enum entry_kind, as read from the log: an unknown number is refused
 * version    of the payload: 1 to entry_version(kind)
 */
struct entry {
    int64_t index; // 1, 2, 3, ... without gaps
    int64_t term;
    int64_t time_us;
    const char *principal;
    int kind;
    int version;
    const void *payload;
    size_t payload_bytes;
};

/* The schema of a kind's payload; NULL for an unknown kind. */
const struct schema *entry_schema(int kind);

/* The newest payload version of a kind, 0 for an unknown kind. New entries are written with it. */
int entry_version(int kind);

/* The word for a kind ("job_submit"); "?" for an unknown kind. */
const char *entry_kind_text(int kind);

/* The kind of a word, or -EINVAL. */
int entry_kind_parse(const char *text);

/* Take "SCOPE:NAME" apart. ret_name points into the text. An unknown scope gives SCOPE_NONE. */
enum scope entry_principal(const char *principal, const char **ret_name);
