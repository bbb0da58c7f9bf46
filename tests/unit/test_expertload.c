/* The load of experts over a window of steps, alone and as a trainer fills it. */
#include "engine/train/dropping.h"
#include "engine/train/trainer.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

TEST(a_window_of_steps)
{
    // Two layers of three experts: picks of both, then what each has dropped.
    static const int64_t steps[][8] = {
        {100, 0, 0, 0, 100, 0, 50, 0},
        {4,   1, 1, 2, 2,   2, 1,  0},
        {5,   2, 2, 3, 3,   3, 2,  3},
    };
    _cleanup_(expertload_freep) struct expertload *load = expertload_new(2, 1, 3, 2);
    struct expertload_layer layer;

    expertload_layer(load, 0, &layer);
    CHECK(layer.n_picks == 0 && layer.max_violation == 0 && layer.mean_violation == 0, "");
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        expertload_add(load, steps[i], 8);
        CHECK_EQ(expertload_n_steps(load), i ? 2 : 1, "");
    }
    expertload_layer(load, 0, &layer); // 9 3 3: the first step is forgotten
    CHECK_EQ(layer.number, 1, "");
    CHECK_EQ(layer.picks[0], 9, "");
    CHECK_EQ(layer.n_picks, 15, "");
    CHECK_EQ(layer.n_dropped, 3, "");
    CHECK(fabs(layer.max_violation - 0.8) < 1e-12, "%g", layer.max_violation);
    CHECK(fabs(layer.mean_violation - 1.6 / 3) < 1e-12, "%g", layer.mean_violation);
    expertload_layer(load, 1, &layer);
    CHECK_EQ(layer.number, 2, "");
    CHECK(layer.max_violation == 0 && layer.mean_violation == 0, "");
    CHECK_EQ(layer.n_dropped, 3, "");
}

TEST(as_json_and_as_text)
{
    static const int64_t step[] = {6, 2, 4, 1};
    _cleanup_(expertload_freep) struct expertload *load = expertload_new(1, 3, 3, 10);
    _cleanup_(buf_free) struct buf text = {0}, table = {0};

    expertload_add(load, step, 4);
    struct json *json = expertload_json(load);
    json_dump(json, 0, &text);
    json_free(json);
    CHECK_STR(buf_cstr(&text),
              "{\"steps\":1,\"layers\":[{\"layer\":3,\"max_violation\":0.5,"
              "\"mean_violation\":0.3333333333333333,\"dropped\":0.08333333333333333,"
              "\"picks\":[6,2,4]}]}");
    expertload_text(load, &table);
    CHECK_STR(buf_cstr(&table),
              "load of 3 experts over 1 steps, as times the mean\n"
              "layer  busiest           idlest            mean distance  dropped\n"
              "    3   1.50 (expert   0)   0.50 (expert   1)          0.333    8.3 %\n");
}

/* A share of all samples, by (seed, number) alone. */
TEST(spared_samples)
{
    int spared = 0, both = 0;

    for (int64_t i = 0; i < 10000; i++) {
        bool is = dropping_spares(5, i, 0.1);
        spared += is;
        both += is && dropping_spares(6, i, 0.1);
        CHECK(is == dropping_spares(5, i, 0.1) && (!is || dropping_spares(5, i, 0.2)), "%d",
              (int)i);
        CHECK(!dropping_spares(5, i, 0) && dropping_spares(5, i, 1), "%d", (int)i);
    }
    CHECK(spared > 900 && spared < 1100, "%d", spared);
    CHECK(both > 60 && both < 140, "%d", both);
}

enum { STEPS = 6, BATCH = 4, SEQ = 24, SLOTS = 4, LAYERS = 2 };

static const char file[] =
    "model: tests/fixtures/models/dsv2_full\n"
    "data: {files: [tests/fixtures/README.md], tokenizer: tests/fixtures/tokenizer/tiny}\n"
    "steps: 6\nbatch: 4\nmicro_batch: 2\nseq: 24\nseed: 1\n"
    "loss: {balance_alpha: 0.003, device_alpha: 0.05, communication_alpha: 0.02,\n"
    "       balance_groups: 4, max_groups: 2, balance_over: micro_batch}\n"
    "dropping: {capacity: 1.0, whole: 0.1}\n";

static void run_steps(struct trainconf *conf, const char *dir) {
    _cleanup_(coll_closep) struct coll *coll = NULL;
    struct rendezvous meet = {.world = 1};
    struct trainer_report report;
    struct trainer *t = NULL;
    struct hai_err err = {0};

    CHECK_EQ(coll_open(&meet, &coll, &err), 0, "%s", err.text);
    const struct trainer_place place = {.coll = coll, .ckpt_dir = dir};
    if (!CHECK_EQ(trainer_open(conf, &place, &t, &err), 0, "%s", err.text))
        return;
    for (int i = 0; i < STEPS; i++)
        CHECK_EQ(trainer_step(t, false, &report, &err), 0, "%s", err.text);
    const struct expertload *load = trainer_load(t);
    CHECK_EQ(expertload_n_steps(load), STEPS, "");
    CHECK_EQ(expertload_n_layers(load), LAYERS, "");
    for (int i = 0; i < LAYERS; i++) {
        struct expertload_layer layer;
        expertload_layer(load, i, &layer);
        CHECK_EQ(layer.number, 1 + i, "");
        CHECK_EQ(layer.n_picks, STEPS * BATCH * SEQ * SLOTS, "");
        CHECK(layer.n_dropped > 0 && layer.n_dropped < layer.n_picks / 2, "%d",
              (int)layer.n_dropped);
    }
    trainer_free(t);
}

TEST(a_trainer_fills_it)
{
    _cleanup_(trainconf_free) struct trainconf conf = {0};
    char dir[] = "/tmp/hai-expertload-XXXXXX";
    struct hai_err err = {0};

    CHECK(mkdtemp(dir) != NULL, "");
    _cleanup_free_ char *path = hai_asprintf("%s/train.yaml", dir);
    CHECK_EQ(fileio_replace(path, file, sizeof file - 1, 0644, &err), 0, "%s", err.text);
    trainconf_init(&conf);
    CHECK_EQ(trainconf_read(path, &conf, &err), 0, "%s", err.text);
    CHECK_EQ(trainconf_check(&conf, 1, &err), 0, "%s", err.text);
    run_steps(&conf, dir);
    CHECK_EQ(fileio_remove_tree(dir, &err), 0, "%s", err.text);
}
