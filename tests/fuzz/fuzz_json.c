/* Whatever bytes a request body holds: a tree or an error, and what is accepted reads back from its
 * own dump; the same through the schema of a job. */
#include "lib/json_schema.h"
#include "wire/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void tree_reads_back(const struct json *tree) {
    _cleanup_(buf_free) struct buf once = {0};
    _cleanup_(buf_free) struct buf twice = {0};
    _cleanup_(json_freep) struct json *again = NULL;

    json_dump(tree, 0, &once);
    int r = json_parse(once.data, once.n_bytes, NULL, &again, NULL);
    assert(r == 0);
    json_dump(again, 0, &twice);
    assert(once.n_bytes == twice.n_bytes);
    assert(memcmp(once.data, twice.data, once.n_bytes) == 0);
}

static void job_reads_back(const struct json *tree) {
    _cleanup_(buf_free) struct buf text = {0};
    struct job_spec spec;
    struct job_spec again;
    struct hai_err err = {0};

    int r =
        json_schema_decode(job_spec_schema(), tree, JSON_SCHEMA_WIRE, 0, NULL, &spec, NULL, &err);
    assert(r == 0 || err.text[0]);
    if (r < 0)
        return;
    json_schema_dump(job_spec_schema(), &spec, &text);
    r = json_schema_parse(job_spec_schema(), text.data, text.n_bytes, 0, &again, &err);
    assert(r == 0);
    schema_free(job_spec_schema(), &spec);
    schema_free(job_spec_schema(), &again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(json_freep) struct json *tree = NULL;
    struct hai_err err = {0};

    int r = json_parse(data, n_bytes, "fuzz", &tree, &err);
    assert(r == 0 || err.text[0]);
    if (r < 0)
        return 0;
    tree_reads_back(tree);
    job_reads_back(tree);
    return 0;
}
