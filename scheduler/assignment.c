#include "scheduler/assignment.h"

#include "lib/digest.h"
#include <stdio.h>

int64_t assignment_address(const char *address, char **ret_host) {
    const char *colon = address ? strrchr(address, ':') : NULL;

    if (!colon || strchr(colon, ']')) {
        *ret_host = hai_strdup(address);
        return 0;
    }
    *ret_host = hai_strndup(address, (size_t)(colon - address));
    return strtoll(colon + 1, NULL, 10);
}

void assignment_rank_gpus(uint32_t gpus, int64_t ranks_per_node, int64_t local_rank, void *ret) {
    SCHEMA_LIST(int64_t) *list = ret;
    int64_t n = __builtin_popcount(gpus);
    bool shared = n % ranks_per_node != 0;
    int64_t share = shared ? n : n / ranks_per_node;
    int64_t first = shared ? 0 : local_rank * share;

    for (int64_t bit = 0, i = 0; bit < 32; bit++) {
        if (!(gpus >> bit & 1))
            continue;
        if (i >= first && i < first + share)
            *LIST_ADD(list) = bit;
        i++;
    }
}

static void fill_secret(const struct schedd *s, const struct state_job *job, char **ret) {
    uint8_t mac[DIGEST_SHA256_BYTES];
    char hex[DIGEST_SHA256_HEX_BYTES];
    char text[64];

    snprintf(text, sizeof text, "attempt %lld %lld %lld", (long long)job->id,
             (long long)job->attempt, (long long)job->epoch);
    digest_hmac(s->secret, sizeof s->secret, text, strlen(text), mac);
    digest_hex(mac, sizeof mac, hex);
    *ret = hai_strdup(hex);
}

static void fill_nodes(const struct state *state, const struct state_job *job,
                       struct desired_attempt *ret) {
    int64_t per_node = job->spec.ranks_per_node;

    for (size_t i = 0; i < job->allocs.n; i++) {
        const struct node *node = state->nodes[job->allocs.items[i].node];
        struct node_place *place = LIST_ADD(&ret->nodes);
        schema_init(node_place_schema(), place);
        place->name = hai_strdup(node->r.name);
        place->zone = hai_strdup(state->zones[node->zone].name);
        place->data_port = assignment_address(node->r.address, &place->address);
        place->first_rank = (int64_t)i * per_node;
        place->n_ranks = per_node;
    }
    if (ret->nodes.n)
        ret->master_addr = hai_strdup(ret->nodes.items[0].address);
    ret->master_port = job->master_port;
}

static void fill_ranks(const struct desired_part *part, struct desired_attempt *ret) {
    for (int64_t i = 0; i < part->n_ranks; i++) {
        struct rank_place *place = LIST_ADD(&ret->ranks);
        schema_init(rank_place_schema(), place);
        place->rank = part->first_rank + i;
        place->local_rank = i;
        assignment_rank_gpus(part->gpus, part->n_ranks, i, &place->gpus);
    }
}

static void fill_checkpoint(const struct state_job *job, struct desired_attempt *ret) {
    char hex[2 * DIGEST_BYTES + 1];

    if (job->ckpt_step == S_ABSENT)
        return;
    ret->ckpt_step = job->ckpt_step;
    ret->ckpt_dir = hai_strdup(job->ckpt_dir);
    if (job->ckpt_digest.n_bytes == DIGEST_BYTES) {
        digest_hex(job->ckpt_digest.data, DIGEST_BYTES, hex);
        ret->ckpt_digest = hai_strdup(hex);
    }
}

void assignment_fill(const struct schedd *s, const struct desired_part *part,
                     struct desired_attempt *ret) {
    const struct state_job *job = &part->job->r;

    schema_init(desired_attempt_schema(), ret);
    ret->job = job->id;
    ret->attempt = job->attempt;
    ret->epoch = job->epoch;
    ret->phase = part->phase;
    ret->kill_at = part->kill_at_us;
    ret->name = hai_strdup(job->spec.name);
    ret->user = hai_strdup(job->spec.user);
    ret->uid = job->spec.uid;
    ret->gid = job->spec.gid;
    ret->world_size = part->world_size;
    ret->node_rank = part->node_rank;
    ret->n_nodes = part->n_nodes;
    ret->gpus_per_node = job->spec.gpus_per_node;
    ret->cpus = part->cpus;
    ret->memory_bytes = part->memory_bytes ? part->memory_bytes : S_ABSENT;
    ret->per_node = job->spec.ranks_per_node == 1;
    ret->resume = job->attempt - 1;
    ret->array = job->array;
    ret->array_index = job->array_index;
    fill_ranks(part, ret);
    fill_nodes(schedd_state(s), job, ret);
    fill_secret(s, job, &ret->secret);
    fill_checkpoint(job, ret);
    ret->spec = hai_strndup((const char *)job->spec.spec.data, job->spec.spec.n_bytes);
}
