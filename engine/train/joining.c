#include "engine/train/joining.h"

#include <inttypes.h>

enum { AGENT_WAIT_US = 30 * 1000000 }; // for the agent to answer

struct gathering {
    struct rank *rank;
    int world;
    int64_t timeout_s;
};

/* The rank contract's all-gather, as rendezvous wants it. */
static int gather(void *userdata, const char *value, char (*ret)[RENDEZVOUS_VALUE_BYTES],
                  struct hai_err *err) {
    const struct gathering *g = userdata;
    struct rank_value *values = hai_new_array(struct rank_value, (size_t)g->world);
    int r = rank_gather(g->rank, "coll", value, strlen(value), g->timeout_s * 1000000, g->world,
                        values, err);

    if (r >= 0) {
        for (int i = 0; i < g->world; i++)
            memcpy(ret[i], values[i].data,
                   MIN(values[i].n_bytes, (size_t)RENDEZVOUS_VALUE_BYTES - 1));
        rank_values_free(values, g->world);
    }
    free(values);
    return MIN(r, 0);
}

int joining_open(struct rank **ret_rank, struct coll **ret_coll, struct hai_err *err) {
    struct rendezvous meet;
    int r = rank_open(AGENT_WAIT_US, ret_rank, err);

    if (r >= 0)
        r = rendezvous_from_env(&meet, err);
    if (r < 0)
        return r;
    struct gathering gathering = {*ret_rank, meet.world, meet.timeout_s};
    if (*ret_rank) {
        meet.secret = (struct peerlink_secret){rank_secret(*ret_rank), RANK_SECRET_BYTES};
        meet.allgather = gather;
        meet.userdata = &gathering;
    }
    return coll_open(&meet, ret_coll, err);
}

/* What rank 0 found, told to all. */
struct choice {
    int64_t step, epoch; // step -1: nothing to resume from
    char digest[CKPT_DIGEST_BYTES];
};

int joining_checkpoint(struct coll *coll, const char *dir,
                       void (*on_skip)(void *userdata, const char *path, const char *reason),
                       void *userdata, struct ckpt **ret, struct hai_err *err) {
    _cleanup_(ckpt_freep) struct ckpt *ckpt = NULL;
    struct choice choice = {.step = -1};
    int r;

    if (coll_rank(coll) == 0) {
        r = ckpt_newest(dir, on_skip, userdata, &ckpt, err);
        if (r < 0 && r != -ENOENT)
            return r;
        if (r == 0) {
            choice.step = ckpt_meta_of(ckpt)->step;
            choice.epoch = ckpt_meta_of(ckpt)->epoch;
            strcpy(choice.digest, ckpt_digest(ckpt));
        }
    }
    r = coll_broadcast(coll, &choice, sizeof choice, 0, err);
    if (r < 0)
        return r;
    if (choice.step < 0)
        return -ENOENT;
    if (!ckpt) {
        _cleanup_free_ char *path =
            hai_asprintf("%s/step-%" PRId64 ".E%" PRId64, dir, choice.step, choice.epoch);
        r = ckpt_open(path, &ckpt, err);
        if (r < 0)
            return r;
        if (!hai_streq(ckpt_digest(ckpt), choice.digest))
            return hai_fail(err, -ESTALE, "%s: not the checkpoint that rank 0 sees there", path);
    }
    *ret = TAKE_PTR(ckpt);
    return 0;
}
