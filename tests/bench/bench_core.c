/* bench_core - the scheduler's core alone: submissions applied a second, and decisions.
 *
 *     bench-core [JOBS] [NODES]        default 10000 1000
 *
 * One core of the machine, no log and no store. Prints each figure with its repetitions.
 */
#include "lib/pure/tlv.h"
#include "sim/world.h"

#include <malloc.h>
#include <stdio.h>
#include <time.h>

static double seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct entry_job_spec shape(int i) {
    static uint8_t blob[800]; // a job file as JSON
    struct entry_job_spec spec = world_spec();

    spec.gpus_per_node = i % 5 ? 1 + i % 8 : 8;
    spec.nodes = i % 5 ? 1 : 1 + i % 16;
    spec.spec = (struct schema_blob){blob, sizeof blob};
    return spec;
}

static void submit_all(struct world *w, int n_jobs) {
    size_t before = mallinfo2().uordblks;
    struct apply_reply reply;
    double apply_s = 0;

    for (int i = 0; i < n_jobs; i++) {
        struct entry_job_submit submit = {.job = shape(i)};
        struct buf payload = {0};
        submit.job.user = (char *)"alice";
        submit.job.name = (char *)"job";
        submit.job.group = (char *)"default";
        tlv_encode(entry_job_submit_schema(), &submit, &payload);
        struct entry entry = {w->state->r.index + 1,
                              1,
                              w->state->r.time_us + 1,
                              "submit:alice",
                              ENTRY_JOB_SUBMIT,
                              1,
                              payload.data,
                              payload.n_bytes};
        double start = seconds();
        if (apply_entry(w->state, &entry, w->fx, &reply) < 0)
            printf("refused: %s\n", reply.err.text);
        effects_clear(w->fx);
        apply_s += seconds() - start;
        buf_free(&payload);
    }
    printf("apply: %d submissions, %.0f a second, %.0f bytes a job with a spec of 800\n", n_jobs,
           n_jobs / apply_s, (double)(mallinfo2().uordblks - before) / n_jobs);
}

static void place_all(struct world *w, int n_jobs) {
    struct decide_list list = {0};
    struct apply_reply reply;
    size_t n_placed = 0, n_turns = 0, n;
    double start = seconds(), longest = 0;

    do {
        double one = seconds();
        n = decide_run(w->decide, w->state, &list);
        longest = MAX(longest, seconds() - one);
        n_turns++;
        n_placed += n;
        for (size_t i = 0; i < list.n; i++) {
            struct entry entry = {w->state->r.index + 1,      1,
                                  w->state->r.time_us + 1,    "system:hai",
                                  list.items[i].kind,         1,
                                  list.items[i].payload.data, list.items[i].payload.n_bytes};
            apply_entry(w->state, &entry, w->fx, &reply);
        }
        effects_clear(w->fx);
        decide_list_clear(&list);
    } while (n);
    printf("decide and apply: %zu placed of %d waiting on %d nodes in %.1f ms, %zu turns, longest "
           "decision %.2f ms\n",
           n_placed, n_jobs, w->state->n_nodes, (seconds() - start) * 1e3, n_turns, longest * 1e3);
    start = seconds();
    for (int i = 0; i < 100000; i++)
        decide_run(w->decide, w->state, &list);
    printf("decide with nothing new: %.2f us, 100000 repetitions\n", (seconds() - start) * 10);
    decide_list_free(&list);
}

static void snapshot(const struct world *w) {
    struct buf bytes = {0};
    struct state *copy;
    double start = seconds();

    state_encode(w->state, &bytes);
    double encode_s = seconds() - start;
    start = seconds();
    if (state_decode(bytes.data, bytes.n_bytes, &copy, NULL) == 0)
        state_free(copy);
    printf("snapshot: %zu bytes, encode %.1f ms, decode %.1f ms\n", bytes.n_bytes, encode_s * 1e3,
           (seconds() - start) * 1e3);
    buf_free(&bytes);
}

int main(int argc, char **argv) {
    int n_jobs = argc > 1 ? atoi(argv[1]) : 10000;
    int n_nodes = argc > 2 ? atoi(argv[2]) : 1000;
    struct world_cluster cluster = {.n_zones = 2,
                                    .leaves_per_zone = MAX(n_nodes / 40, 1),
                                    .nodes_per_leaf = 20,
                                    .gpus = 8,
                                    .cpus = 64};
    struct world w;

    world_init(&w);
    world_cluster(&w, &cluster);
    submit_all(&w, n_jobs);
    place_all(&w, n_jobs);
    snapshot(&w);
    world_free(&w);
    return 0;
}
