/* Whatever a line of questions holds: a question with its answer among the choices, or an error. */
#include "jobs/choices.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct choices_question q;
    struct hai_err err = {0};

    if (choices_parse((const char *)data, n_bytes, &q, &err) < 0) {
        assert(err.text[0]);
    } else {
        assert(q.prompt[0]);
        assert(q.n >= 2);
        assert(q.answer >= 0);
        assert(q.answer < q.n);
        for (int i = 0; i < q.n; i++)
            assert(q.texts[i][0]);
    }
    choices_question_free(&q);
    return 0;
}
