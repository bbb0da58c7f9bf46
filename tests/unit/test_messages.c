#include "lib/fileio.h"
#include "tests/unit/test.h"
#include "wire/messages.h"
#include "wire/messages_doc.h"

/* The list is what documentation and the API description are made from, so it must be complete:
 * every field says what it is, bounds are ordered and defaults lie within them. */
TEST(every_field_is_described_and_bounded)
{
    int n;
    const struct schema *const *all = messages_all(&n);
    CHECK(n > 30);
    for (int i = 0; i < n; i++) {
        CHECK(all[i]->doc[0], "%s", all[i]->name);
        for (int j = 0; j < all[i]->n_fields; j++) {
            const struct schema_field *f = &all[i]->fields[j];
            CHECK(f->doc[0], "%s.%s", all[i]->name, f->name);
            CHECK(f->min <= f->max, "%s.%s", all[i]->name, f->name);
            bool bounded = f->type < SCHEMA_SIZE && f->def != S_ABSENT && f->def != S_REQUIRED;
            if (bounded && f->type == SCHEMA_I64)
                CHECK(f->def >= f->min && f->def <= f->max, "%s.%s", all[i]->name, f->name);
        }
    }
}

TEST(durations_are_named_for_their_unit)
{
    int n;
    const struct schema *const *all = messages_all(&n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < all[i]->n_fields; j++) {
            const struct schema_field *f = &all[i]->fields[j];
            size_t length = strlen(f->name);
            if (f->type == SCHEMA_DURATION)
                CHECK(length > 3 && !strcmp(f->name + length - 3, "_us"), "%s", f->name);
            if (f->type == SCHEMA_SIZE)
                CHECK(length > 6 && !strcmp(f->name + length - 6, "_bytes"), "%s", f->name);
        }
}

/* HAI_UPDATE_DOCS=1 in the environment writes the page anew instead. */
TEST(the_page_in_docs_is_the_list)
{
    static const char path[] = "docs/messages.md";
    _cleanup_(buf_free) struct buf page = {0};
    _cleanup_(buf_free) struct buf found = {0};
    struct hai_err err = {0};
    messages_doc(&page);
    if (getenv("HAI_UPDATE_DOCS"))
        CHECK_EQ(fileio_replace(path, page.data, page.n_bytes, 0644, &err), 0, "%s", err.text);
    CHECK(fileio_read_file(path, 1 << 20, &found, &err) >= 0, "%s", err.text);
    CHECK_EQ(found.n_bytes, page.n_bytes, "run the test with HAI_UPDATE_DOCS=1");
    CHECK(found.n_bytes == page.n_bytes && !memcmp(found.data, page.data, page.n_bytes));
}
