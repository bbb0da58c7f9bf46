/* hai set: change priority, time limit, group or place of a waiting or running job. */
#include "cli/each.h"
#include "cli/verbs.h"
#include "lib/pure/buf.h"
#include "lib/timefmt.h"
#include "wire/jobfile.h"

/* Check VALUE as the field of a job file and put it into the change. */
static int add_change(struct cli *cli, const char *word, struct json *change) {
    static const struct {
        const char *key, *field;
    } known[] = {
        {"priority",   "priority"       },
        {"time_limit", "time_limit"     },
        {"group",      "resources.group"},
    };
    const char *equals = strchr(word, '=');
    _cleanup_free_ char *key = hai_strndup(word, (size_t)(equals - word));
    struct job_spec spec;
    struct hai_err err = {0};

    if (!strcmp(key, "order") && !json_get(change, key)) { // no field of a job file
        json_add_string(change, key, equals + 1);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strcmp(known[i].key, key) != 0)
            continue;
        if (json_get(change, key)) {
            cli_usage(cli, "%s is given twice", key);
            return -EINVAL;
        }
        schema_init(job_spec_schema(), &spec);
        int r = jobfile_set(&spec, known[i].field, equals + 1, NULL, &err);
        if (r < 0)
            cli_usage(cli, "%s", err.text);
        else if (i == 1)
            json_add_real(change, "time_limit_s", (double)spec.time_limit_us / 1e6);
        else
            json_add_string(change, key, equals + 1);
        schema_free(job_spec_schema(), &spec);
        return r;
    }
    cli_usage(cli, "'%s' cannot be set; expected priority, time_limit, group or order", key);
    return -EINVAL;
}

static int run(struct cli *cli) {
    _cleanup_(json_freep) struct json *change = json_new_object();
    _cleanup_(buf_free) struct buf body = {0};
    int n_jobs = 0;

    for (int i = 0; i < cli->n_words; i++)
        if (!strchr(cli->words[i], '='))
            cli->words[n_jobs++] = cli->words[i];
        else if (add_change(cli, cli->words[i], change) < 0)
            return CLI_USAGE;
    cli->n_words = n_jobs;
    if (n_jobs == 0)
        return cli_usage(cli, "no job is named; usage: hai set JOB... priority=20");
    if (json_count(change) == 0)
        return cli_usage(cli, "nothing to set; usage: hai set JOB... priority=20");
    json_dump(change, 0, &body);
    return each_change(cli, "/api/v1/jobs", "set", "changed", buf_cstr(&body));
}

const struct verb verb_set = {
    .name = "set",
    .group = "change",
    .args = "JOB... priority=P|time_limit=T|group=G|order=first|last|before:JOB...",
    .help = "change a waiting or running job",
    .examples =
        "  hai set 42 priority=20\n  hai set 42 time_limit=6h group=big\n"
        "  hai set 42 order=first           # of my waiting jobs\n  hai set 42 order=before:40\n",
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
