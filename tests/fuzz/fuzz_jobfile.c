/* Whatever bytes a job file holds: jobs or errors with a place, never a crash; and what is
 * accepted can be written and read again. */
#include "wire/jobfile.h"
#include "wire/jobtext.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void read_back(const struct job_spec *spec) {
    _cleanup_(buf_free) struct buf text = {0};
    struct jobfile_errors errors = {0};
    struct job_spec again;

    jobtext_write(spec, &text);
    _cleanup_(jobfile_closep) struct jobfile *f = jobfile_of_text(text.data, text.n_bytes, "back");
    int r = jobfile_next(f, &again, &errors);
    assert(r == 1);
    schema_free(job_spec_schema(), &again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(jobfile_closep) struct jobfile *f = jobfile_of_text(data, n_bytes, "fuzz");
    struct jobfile_errors errors = {0};
    struct job_spec spec;
    int r;

    while ((r = jobfile_next(f, &spec, &errors)) != 0 && r != -EBADMSG)
        if (r == 1) {
            read_back(&spec);
            schema_free(job_spec_schema(), &spec);
        }
    for (size_t i = 0; i < errors.n; i++)
        assert(errors.items[i].text[0] && errors.items[i].where[0]);
    jobfile_errors_free(&errors);
    return 0;
}
