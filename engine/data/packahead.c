#include "engine/data/packahead.h"

#include <pthread.h>
#include <signal.h>

struct packahead_plan packahead_plan_of(int64_t first, int64_t batch, int rank, int world) {
    int64_t each = batch / world, more = batch % world;

    assert(rank >= 0);
    assert(rank < world);
    return (struct packahead_plan){.first = first,
                                   .batch = batch,
                                   .offset = rank * each + MIN((int64_t)rank, more),
                                   .share = each + (rank < more)};
}

int64_t packahead_index(const struct packahead_plan *plan, int64_t n) {
    assert(plan->share >= 1);
    return plan->first + n / plan->share * plan->batch + plan->offset + n % plan->share;
}

struct slot {
    int32_t *ids, *seq_start;
    int n_seqs;
    int r; // of reading it
    struct hai_err err;
};

struct packahead {
    const struct packing *packing;
    struct packahead_plan plan;
    int n_slots;        // one more than are read ahead: the caller holds one
    struct slot *slots; // sample n lies in n % n_slots
    void *room;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t n_read;  // samples that are ready, or failed
    int64_t n_taken; // samples given to the caller, who holds the last
    int64_t n_waits;
    bool stop, started;
};

static void *read_all(void *arg) {
    struct packahead *a = arg;

    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        // The slot of the sample that the caller holds is not written.
        if (a->n_read - MAX(a->n_taken - 1, INT64_C(0)) >= a->n_slots) {
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        struct slot *slot = &a->slots[a->n_read % a->n_slots];
        int64_t index = packahead_index(&a->plan, a->n_read);
        pthread_mutex_unlock(&a->lock);
        slot->err = (struct hai_err){0};
        slot->r = packing_read(a->packing, index, a->room, slot->ids, slot->seq_start,
                               &slot->n_seqs, &slot->err);
        pthread_mutex_lock(&a->lock);
        a->n_read++;
        pthread_cond_broadcast(&a->changed);
        // After a failure the caller decides: what follows is not read.
        while (slot->r < 0 && !a->stop && a->n_read > a->n_taken)
            pthread_cond_wait(&a->changed, &a->lock);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

int packahead_new(const struct packing *p, const struct packahead_plan *plan, int n_ahead,
                  struct packahead **ret, struct hai_err *err) {
    _cleanup_(packahead_freep) struct packahead *a = hai_new(struct packahead);
    size_t n_window = (size_t)packing_n_window(p);
    sigset_t all, before;

    assert(n_ahead >= 1);
    assert(plan->share >= 1);
    a->packing = p;
    a->plan = *plan;
    a->n_slots = n_ahead + 1;
    a->slots = hai_new_array(struct slot, (size_t)a->n_slots);
    for (int i = 0; i < a->n_slots; i++) {
        a->slots[i].ids = hai_new_array(int32_t, n_window);
        a->slots[i].seq_start = hai_new_array(int32_t, n_window + 1);
    }
    a->room = aligned_alloc(SHARDS_ALIGN, packing_room(p));
    if (!a->room)
        return hai_fail(err, -ENOMEM, "no memory for %zu bytes of samples", packing_room(p));
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    sigfillset(&all); // signals are for the program's own threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&a->thread, NULL, read_all, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r)
        return hai_fail(err, -r, "a thread to read samples: %s", strerrordesc_np(r));
    a->started = true;
    *ret = TAKE_PTR(a);
    return 0;
}

int packahead_next(struct packahead *a, struct packahead_sample *ret, struct hai_err *err) {
    pthread_mutex_lock(&a->lock);
    a->n_waits += a->n_read == a->n_taken;
    while (a->n_read == a->n_taken)
        pthread_cond_wait(&a->changed, &a->lock);
    struct slot *slot = &a->slots[a->n_taken % a->n_slots];
    int r = slot->r;
    if (r < 0) {
        if (err)
            *err = slot->err;
        a->n_read--; // the thread waits, and tries it again
    } else {
        *ret = (struct packahead_sample){packahead_index(&a->plan, a->n_taken), slot->ids,
                                         slot->seq_start, slot->n_seqs};
        a->n_taken++;
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    return r;
}

int64_t packahead_n_waits(struct packahead *a) {
    pthread_mutex_lock(&a->lock);
    int64_t n = a->n_waits;
    pthread_mutex_unlock(&a->lock);
    return n;
}

void packahead_free(struct packahead *a) {
    if (!a)
        return;
    if (a->started) {
        pthread_mutex_lock(&a->lock);
        a->stop = true;
        pthread_cond_broadcast(&a->changed);
        pthread_mutex_unlock(&a->lock);
        (void)pthread_join(a->thread, NULL);
        pthread_mutex_destroy(&a->lock);
        pthread_cond_destroy(&a->changed);
    }
    for (int i = 0; a->slots && i < a->n_slots; i++) {
        free(a->slots[i].ids);
        free(a->slots[i].seq_start);
    }
    free(a->slots);
    free(a->room);
    free(a);
}
