#include "engine/train/ema.h"

#include <pthread.h>

struct ema {
    const float *weights;
    float *values;
    size_t n;
    float share; // 1 - decay
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool wanted, end; // under lock
};

static void average(struct ema *e) {
    for (size_t i = 0; i < e->n; i++)
        e->values[i] += e->share * (e->weights[i] - e->values[i]);
}

static void *work(void *arg) {
    struct ema *e = arg;

    pthread_mutex_lock(&e->lock);
    while (!e->end) {
        if (!e->wanted) {
            pthread_cond_wait(&e->changed, &e->lock);
            continue;
        }
        pthread_mutex_unlock(&e->lock);
        average(e);
        pthread_mutex_lock(&e->lock);
        e->wanted = false;
        pthread_cond_broadcast(&e->changed);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

struct ema *ema_new(const float *weights, size_t n, double decay) {
    struct ema *e = hai_new(struct ema);

    *e = (struct ema){.weights = weights, .n = n, .share = (float)(1 - decay)};
    e->values = hai_new_array(float, n);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    if (pthread_create(&e->thread, NULL, work, e)) {
        free(e->values);
        free(e);
        return NULL;
    }
    ema_restart(e);
    return e;
}

void ema_free(struct ema *e) {
    if (!e)
        return;
    ema_wait(e);
    pthread_mutex_lock(&e->lock);
    e->end = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e->values);
    free(e);
}

void ema_update(struct ema *e) {
    pthread_mutex_lock(&e->lock);
    assert(!e->wanted);
    e->wanted = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void ema_wait(struct ema *e) {
    pthread_mutex_lock(&e->lock);
    while (e->wanted)
        pthread_cond_wait(&e->changed, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

void ema_restart(struct ema *e) {
    ema_wait(e);
    memcpy(e->values, e->weights, e->n * sizeof *e->values);
}

float *ema_values(struct ema *e) {
    return e->values;
}
