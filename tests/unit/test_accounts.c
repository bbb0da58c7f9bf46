#include "lib/pure/tlv.h"
#include "tests/unit/core_steps.h"

static int submit_key(struct world *w, char key, char digest) {
    uint8_t hash[KEY_HASH_BYTES], body[KEY_HASH_BYTES];
    struct entry_job_submit in;

    memset(hash, key, sizeof hash);
    memset(body, digest, sizeof body);
    in = (struct entry_job_submit){
        .job = world_spec(), .key_hash = {hash, sizeof hash},
             .body_digest = {body, sizeof body}
    };
    in.job.user = (char *)"alice";
    in.job.name = (char *)"job";
    in.job.group = (char *)"default";
    return world_append(w, "submit:alice", ENTRY_JOB_SUBMIT, &in);
}

TEST(a_repeated_submission_is_one_job)
{
    struct world w;

    small_cluster(&w, 1, 1);
    CHECK_EQ(submit_key(&w, 'k', 'b'), 0);
    int64_t id = w.reply.id;
    CHECK(!w.reply.repeated);
    CHECK_EQ(submit_key(&w, 'k', 'b'), 0);
    CHECK(w.reply.repeated);
    CHECK_EQ(w.reply.id, id);
    CHECK_EQ(submit_key(&w, 'k', 'c'), -EEXIST);
    CHECK_STR(w.reply.err.code, "conflict");
    CHECK_EQ(submit_key(&w, 'l', 'c'), 0);
    CHECK_EQ(w.state->n_jobs, 2);
    check_same(&w);
    world_restart(&w, true);
    CHECK_EQ(submit_key(&w, 'k', 'b'), 0);
    CHECK_EQ(w.reply.id, id);
    w.now_us += KEYS_KEPT_US; // a day later it is a new one
    CHECK_EQ(submit_key(&w, 'k', 'c'), 0);
    CHECK(!w.reply.repeated);
    world_free(&w);
}

TEST(keys_are_bounded_and_the_oldest_go)
{
    struct keys keys = {0};
    struct key key = {0};

    for (int64_t i = 1; i <= IDEMPOTENCY_KEYS_MAX + 10; i++) {
        memcpy(key.hash, &i, sizeof i);
        key.job = i;
        key.time_us = i;
        keys_add(&keys, &key);
    }
    CHECK_EQ(keys.n, IDEMPOTENCY_KEYS_MAX);
    for (int64_t i = 9; i <= 12; i++) {
        memcpy(key.hash, &i, sizeof i);
        const struct key *found = keys_find(&keys, key.hash);
        CHECK_EQ(found ? found->job : 0, i <= 10 ? 0 : i);
    }
    keys_expire(&keys, KEYS_KEPT_US + 1000);
    CHECK_EQ(keys.n, IDEMPOTENCY_KEYS_MAX + 10 - 1000);
    keys_free(&keys);
}

static int make_token(struct world *w, const char *principal, const char *owner, enum scope scope,
                      char fill) {
    uint8_t hash[DIGEST_BYTES];
    struct entry_token_create in = {
        {hash, sizeof hash},
        (char *)owner, scope, S_ABSENT, (char *)"test"
    };

    memset(hash, fill, sizeof hash);
    return world_append(w, principal, ENTRY_TOKEN_CREATE, &in);
}

TEST(tokens_are_made_found_and_revoked)
{
    uint8_t hash[DIGEST_BYTES];
    struct world w;

    world_init(&w);
    CHECK_EQ(make_token(&w, "admin:root", "alice", SCOPE_SUBMIT, 1), 0);
    CHECK_EQ(w.reply.id, 1);
    CHECK_EQ(make_token(&w, "admin:root", "alice", SCOPE_SUBMIT, 1), -EEXIST);
    CHECK_EQ(make_token(&w, "submit:alice", "alice", SCOPE_READ, 2), 0);
    CHECK_EQ(make_token(&w, "submit:alice", "alice", SCOPE_OPERATE, 3), -EACCES);
    CHECK_EQ(make_token(&w, "submit:alice", "bob", SCOPE_READ, 3), -EACCES);
    CHECK_EQ(make_token(&w, "submit:alice", "a1", SCOPE_NODE, 3), -EACCES);
    CHECK_EQ(make_token(&w, "admin:root", "a1", SCOPE_NODE, 3), 0);
    CHECK_EQ(make_token(&w, "admin:root", "a1", SCOPE_SYSTEM, 4), -EINVAL);
    memset(hash, 2, sizeof hash);
    CHECK_STR(state_token_find(w.state, hash)->owner, "alice");
    check_same(&w);
    struct entry_token_revoke revoke = {2};
    CHECK_EQ(world_append(&w, "submit:bob", ENTRY_TOKEN_REVOKE, &revoke), -EACCES);
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_TOKEN_REVOKE, &revoke), 0);
    CHECK(!state_token_find(w.state, hash));
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_TOKEN_REVOKE, &revoke), -ENOENT);
    memset(hash, 3, sizeof hash);
    CHECK_EQ(state_token_find(w.state, hash)->id, 3);
    check_same(&w);
    world_free(&w);
}

static int make_lasting(struct world *w, const char *owner, int64_t number, int64_t expires_us) {
    uint8_t hash[DIGEST_BYTES] = {0};
    struct entry_token_create in = {
        {hash, sizeof hash},
        (char *)owner, SCOPE_SUBMIT, expires_us, NULL
    };

    memcpy(hash, &number, sizeof number);
    return world_append(w, "admin:root", ENTRY_TOKEN_CREATE, &in);
}

TEST(an_owner_has_so_many_tokens_and_expired_ones_go)
{
    uint8_t hash[DIGEST_BYTES] = {1};
    struct world w;

    world_init(&w);
    int64_t until_us = w.now_us + S(3600);
    for (int64_t i = 1; i <= TOKENS_OWNER_MAX; i++)
        CHECK_EQ(make_lasting(&w, "alice", i, i <= 400 ? until_us : S_ABSENT), 0);
    CHECK_EQ(make_lasting(&w, "alice", 2000, S_ABSENT), -E2BIG);
    CHECK_EQ(make_lasting(&w, "bob", 2000, S_ABSENT), 0);
    CHECK_EQ(w.state->n_tokens, TOKENS_OWNER_MAX + 1);
    check_same(&w);
    w.now_us = until_us;
    CHECK_EQ(make_lasting(&w, "alice", 2001, S_ABSENT), 0);
    CHECK_EQ(w.state->n_tokens, TOKENS_OWNER_MAX - 400 + 2);
    CHECK(!state_token_find(w.state, hash));
    CHECK_EQ(w.state->tokens[0].id, 401);
    check_same(&w);
    world_free(&w);
}

/* What version 1 did is what it does when it is replayed. */
TEST(an_old_token_entry_keeps_the_expired_ones)
{
    uint8_t hash[DIGEST_BYTES] = {2};
    _cleanup_(buf_free) struct buf payload = {0};
    struct entry_token_create in = {
        {hash, sizeof hash},
        (char *)"alice", SCOPE_SUBMIT, S_ABSENT, NULL
    };
    struct apply_reply reply;
    struct world w;

    world_init(&w);
    CHECK_EQ(make_lasting(&w, "alice", 1, w.now_us + S(1)), 0);
    tlv_encode(entry_token_create_schema(), &in, &payload);
    struct entry e = {.index = (int64_t)w.state->r.index + 1,
                      .term = 1,
                      .time_us = w.now_us + S(10),
                      .principal = "admin:root",
                      .kind = ENTRY_TOKEN_CREATE,
                      .version = 1,
                      .payload = payload.data,
                      .payload_bytes = payload.n_bytes};
    CHECK_EQ(apply_entry(w.state, &e, NULL, &reply), 0);
    CHECK_EQ(w.state->n_tokens, 2);
    world_free(&w);
}

TEST(users_are_set_by_admins)
{
    struct entry_user_set in = {(char *)"alice", 1000, 1000, SCOPE_OPERATE, false};
    struct world w;

    world_init(&w);
    CHECK_EQ(world_append(&w, "operate:bob", ENTRY_USER_SET, &in), -EACCES);
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &in), 0);
    in.disabled = true;
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &in), 0);
    CHECK_EQ(w.state->n_users, 1);
    CHECK(state_user_find(w.state, "alice")->disabled);
    CHECK(!state_user_find(w.state, "bob"));
    check_same(&w);
    world_free(&w);
}

static int set_user(struct world *w, const char *principal, struct entry_user_set in,
                    int64_t only) {
    in.name = (char *)"alice";
    in.only = only;
    return world_append(w, principal, ENTRY_USER_SET, &in);
}

/* Two people change other parts of an account at once: neither knows of the other. */
TEST(a_change_of_a_user_carries_what_changes)
{
    struct entry_user_set all = {NULL, 1000, 1000, SCOPE_ADMIN, false, S_ABSENT};
    struct entry_user_set off = {.disabled = true}, low = {.scope = SCOPE_READ};
    struct world w;

    world_init(&w);
    CHECK_EQ(set_user(&w, "admin:root", low, USER_SET_KNOWN | USER_SET_SCOPE), -ENOENT);
    CHECK_EQ(set_user(&w, "admin:root", all, USER_SET_NEW | USER_SET_FIELDS), 0);
    CHECK_EQ(set_user(&w, "admin:root", all, USER_SET_NEW | USER_SET_FIELDS), -EEXIST);
    CHECK_EQ(set_user(&w, "operate:root", off, USER_SET_KNOWN | USER_SET_DISABLED), -EACCES);
    CHECK_EQ(set_user(&w, "admin:alice", off, USER_SET_KNOWN | USER_SET_DISABLED), -EINVAL);
    CHECK_EQ(set_user(&w, "admin:alice", low, USER_SET_KNOWN | USER_SET_SCOPE), -EINVAL);
    CHECK_EQ(set_user(&w, "admin:root", off, USER_SET_KNOWN | USER_SET_DISABLED), 0);
    CHECK_EQ(set_user(&w, "admin:root", low, USER_SET_KNOWN | USER_SET_SCOPE), 0);
    const struct state_user *alice = state_user_find(w.state, "alice");
    CHECK(alice->disabled);
    CHECK_EQ(alice->scope, SCOPE_READ);
    CHECK_EQ(alice->uid, 1000);
    low.external = 1;
    CHECK_EQ(set_user(&w, "admin:root", low, USER_SET_KNOWN | USER_SET_EXTERNAL), 0);
    CHECK_EQ(set_user(&w, "admin:root", low, USER_SET_KNOWN), 0);
    CHECK(alice->disabled && alice->external == 1);
    low.uid = low.gid = 2000;
    CHECK_EQ(set_user(&w, "admin:root", low, USER_SET_KNOWN | USER_SET_ACCOUNT), 0);
    CHECK_EQ(alice->gid, 2000);
    CHECK_EQ(set_user(&w, "admin:root", all, 0), 0);
    CHECK(!alice->disabled && alice->external == S_ABSENT && alice->scope == SCOPE_ADMIN);
    check_same(&w);
    world_free(&w);
}

TEST(damaged_snapshots_and_entries_are_refused)
{
    _cleanup_(buf_free) struct buf bytes = {0};
    struct state *state;
    struct world w;

    small_cluster(&w, 2, 1);
    submit(&w, 1, 1, 1);
    world_decide(&w);
    state_encode(w.state, &bytes);
    for (size_t n = 1; n < bytes.n_bytes; n++)
        if (state_decode(bytes.data, n, &state, NULL) == 0)
            state_free(state);
    for (size_t i = 0; i < bytes.n_bytes; i++) {
        bytes.data[i] ^= 0x15;
        if (state_decode(bytes.data, bytes.n_bytes, &state, NULL) == 0)
            state_free(state);
        bytes.data[i] ^= 0x15;
    }
    struct apply_reply reply;
    struct entry entry = {
        w.state->r.index + 1, 1, w.state->r.time_us + 1, "system:hai", 999, 1, "", 0};
    CHECK_EQ(apply_entry(w.state, &entry, NULL, &reply), -EBADMSG);
    entry = (struct entry){
        w.state->r.index + 1, 1, w.state->r.time_us + 1, "system:hai", ENTRY_NODE_UP, 1,
        "\xff\xff",           2};
    CHECK_EQ(apply_entry(w.state, &entry, NULL, &reply), -EBADMSG);
    world_free(&w);
}
