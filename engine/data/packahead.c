#include "engine/data/packahead.h"

#include <pthread.h>
#include <signal.h>

struct slot {
    int packing;
    int64_t index;
    int32_t *ids, *seq_start;
    int n_seqs;
    int r; // of reading it
    struct hai_err err;
};

/* Samples are counted as they are expected; number n lies in slot n % n_slots. Below n_taken the
 * caller had them (and holds the last), below n_read they are ready or failed. */
struct packahead {
    struct packing *const *packings;
    int n_packings;
    int n_slots; // one more than are read ahead: the caller holds one
    struct slot *slots;
    void *room;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t n_expected, n_read, n_taken;
    int64_t n_waits;
    bool reading; // slot n_read is being written, without the lock
    bool stop, started;
};

static struct slot *slot_of(struct packahead *a, int64_t number) {
    return &a->slots[number % a->n_slots];
}

/* The last one read and not taken failed: the caller decides, what follows is not read. */
static bool has_failed(struct packahead *a) {
    return a->n_read > a->n_taken && slot_of(a, a->n_read - 1)->r < 0;
}

static void *read_all(void *arg) {
    struct packahead *a = arg;

    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        if (a->n_read == a->n_expected || has_failed(a)) {
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        struct slot *slot = slot_of(a, a->n_read);
        a->reading = true;
        pthread_mutex_unlock(&a->lock);
        slot->err = (struct hai_err){0};
        slot->r = packing_read(a->packings[slot->packing], slot->index, a->room, slot->ids,
                               slot->seq_start, &slot->n_seqs, &slot->err);
        pthread_mutex_lock(&a->lock);
        a->reading = false;
        a->n_read++;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* Slots for the longest samples of all packings, and room to read them. */
static int make_slots(struct packahead *a, struct hai_err *err) {
    size_t n_window = 0, n_room = 0;

    for (int i = 0; i < a->n_packings; i++) {
        n_window = MAX(n_window, (size_t)packing_n_window(a->packings[i]));
        n_room = MAX(n_room, packing_room(a->packings[i]));
    }
    a->slots = hai_new_array(struct slot, (size_t)a->n_slots);
    for (int i = 0; i < a->n_slots; i++) {
        a->slots[i].ids = hai_new_array(int32_t, n_window);
        a->slots[i].seq_start = hai_new_array(int32_t, n_window + 1);
    }
    a->room = aligned_alloc(SHARDS_ALIGN, n_room);
    return a->room ? 0 : hai_fail(err, -ENOMEM, "no memory for %zu bytes of samples", n_room);
}

int packahead_new(struct packing *const *packings, int n_packings, int n_ahead,
                  struct packahead **ret, struct hai_err *err) {
    _cleanup_(packahead_freep) struct packahead *a = hai_new(struct packahead);
    sigset_t all, before;

    assert(n_packings >= 1);
    assert(n_ahead >= 1);
    a->packings = packings;
    a->n_packings = n_packings;
    a->n_slots = n_ahead + 1;
    int r = make_slots(a, err);
    if (r < 0)
        return r;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    sigfillset(&all); // signals are for the program's own threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&a->thread, NULL, read_all, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r)
        return hai_fail(err, -r, "a thread to read samples: %s", strerrordesc_np(r));
    a->started = true;
    *ret = TAKE_PTR(a);
    return 0;
}

/* Under the lock. The slot of the sample that the caller holds is not written. */
static bool expect(struct packahead *a, int packing, int64_t index) {
    assert(packing >= 0);
    assert(packing < a->n_packings);
    if (a->n_expected - MAX(a->n_taken - 1, INT64_C(0)) >= a->n_slots)
        return false;
    struct slot *slot = slot_of(a, a->n_expected++);
    slot->packing = packing;
    slot->index = index;
    pthread_cond_broadcast(&a->changed);
    return true;
}

bool packahead_expect(struct packahead *a, int packing, int64_t index) {
    pthread_mutex_lock(&a->lock);
    bool taken = expect(a, packing, index);
    pthread_mutex_unlock(&a->lock);
    return taken;
}

/* Under the lock: make that sample the next one to be taken. */
static void find(struct packahead *a, int packing, int64_t index) {
    struct slot *next = slot_of(a, a->n_taken);

    if (a->n_expected > a->n_taken && next->packing == packing && next->index == index)
        return;
    while (a->reading)
        pthread_cond_wait(&a->changed, &a->lock);
    a->n_expected = a->n_read = a->n_taken;
    bool taken = expect(a, packing, index);
    assert(taken);
}

int packahead_take(struct packahead *a, int packing, int64_t index, struct packahead_sample *ret,
                   struct hai_err *err) {
    pthread_mutex_lock(&a->lock);
    find(a, packing, index);
    a->n_waits += a->n_read == a->n_taken;
    while (a->n_read == a->n_taken)
        pthread_cond_wait(&a->changed, &a->lock);
    struct slot *slot = slot_of(a, a->n_taken);
    int r = slot->r;
    if (r < 0) {
        if (err)
            *err = slot->err;
        a->n_read = a->n_expected = a->n_taken; // forgotten: asked for again, it is read again
    } else {
        *ret = (struct packahead_sample){slot->ids, slot->seq_start, slot->n_seqs};
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
