#include "engine/train/saver.h"

#include <pthread.h>
#include <stdatomic.h>

struct saver {
    const char *dir;
    const struct ckpt_part *live; // what training changes
    struct ckpt_part *copy;       // what is written
    size_t n_parts;
    float *memory;
    int keep;
    pthread_t thread;
    bool started;     // there is a thread to join
    _Atomic bool end; // it has finished; what follows is the main thread's again
    struct ckpt_meta meta;
    struct saver_done done;
    int r;
    struct hai_err err;
};

static size_t elements(const struct ckpt_part *p) {
    size_t n = 1;

    for (int i = 0; i < p->n_dims; i++)
        n *= (size_t)p->shape[i];
    return n;
}

struct saver *saver_new(const char *dir, const struct ckpt_part *parts, size_t n_parts, int keep) {
    struct saver *s = hai_new(struct saver);
    size_t n = 0;

    for (size_t i = 0; i < n_parts; i++)
        n += elements(&parts[i]);
    s->dir = dir;
    s->live = parts;
    s->n_parts = n_parts;
    s->keep = keep;
    s->memory = hai_new_array(float, n);
    s->copy = hai_new_array(struct ckpt_part, n_parts);
    float *at = s->memory;
    for (size_t i = 0; i < n_parts; i++) {
        s->copy[i] = parts[i];
        s->copy[i].data = at;
        at += elements(&parts[i]);
    }
    return s;
}

void saver_free(struct saver *s) {
    if (!s)
        return;
    if (s->started)
        pthread_join(s->thread, NULL);
    free(s->done.path);
    free(s->memory);
    free(s->copy);
    free(s);
}

static void *save(void *arg) {
    struct saver *s = arg;

    s->r = ckpt_save(s->dir, &s->meta, s->copy, s->n_parts, &s->done.path, s->done.digest, &s->err);
    // What is durable counts, even where older ones cannot be removed.
    if (s->r == 0)
        (void)ckpt_prune(s->dir, s->meta.step, s->meta.epoch, s->keep, &s->done.pruning);
    atomic_store(&s->end, true);
    return NULL;
}

int saver_start(struct saver *s, const struct ckpt_meta *meta, struct hai_err *err) {
    assert(!s->started); // the caller has looked, and waited
    for (size_t i = 0; i < s->n_parts; i++)
        memcpy(s->copy[i].data, s->live[i].data, elements(&s->live[i]) * sizeof(float));
    s->meta = *meta;
    s->done = (struct saver_done){.step = meta->step};
    s->err = (struct hai_err){0};
    atomic_store(&s->end, false);
    int r = pthread_create(&s->thread, NULL, save, s);
    if (r)
        return hai_fail(err, -r, "a thread for saving: %s", strerror(r));
    s->started = true;
    return 0;
}

int saver_look(struct saver *s, bool wait, struct saver_done *ret, struct hai_err *err) {
    if (!s->started || (!wait && !atomic_load(&s->end)))
        return 0;
    pthread_join(s->thread, NULL);
    s->started = false;
    if (s->r < 0) {
        if (err)
            *err = s->err;
        return s->r;
    }
    *ret = s->done;
    s->done.path = NULL;
    return 1;
}
