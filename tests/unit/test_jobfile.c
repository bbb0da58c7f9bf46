#include "lib/fileio.h"
#include "lib/json.h"
#include "tests/unit/test.h"
#include "wire/jobfile.h"
#include "wire/jobtext.h"

/* Read one document; the errors, one a line as `hai check` prints them, else "ok". */
static char *read_one(const char *text, struct job_spec *ret) {
    struct jobfile_errors errors = {0};
    _cleanup_(jobfile_closep) struct jobfile *f = jobfile_of_text(text, strlen(text), "bad.yaml");
    _cleanup_(buf_free) struct buf out = {0};

    int r = jobfile_next(f, ret, &errors);
    CHECK((r == 1) == (errors.n == 0) || r == 0);
    for (size_t i = 0; i < errors.n; i++)
        buf_printf(&out, "%s%s: %s%s%s", i ? "\n" : "", errors.items[i].where, errors.items[i].text,
                   errors.items[i].hint[0] ? "; " : "", errors.items[i].hint);
    jobfile_errors_free(&errors);
    return hai_strdup(r == 1 ? "ok" : r == 0 ? "end" : buf_cstr(&out));
}

static const struct {
    const char *text;
    const char *result;
} cases[] = {
    {"version: 3\ncommand: hostname\n",                                                   "ok"                                                                                },
    {"{\"version\": 3, \"command\": [\"echo\", 1.10, true]}",                             "ok"                                                                                },
    {"",                                                                                  "end"                                                                               },
    {"# nothing\n---\n",                                                                  "end"                                                                               },
    {"version: 3\nname: a\nkind: command\ncommand: x\nworkdir: /tmp\nenv: {A: 1}\nstage: s\n"
     "priority:  35\nresources:\n  nodes: 2\n  gpu_per_node: 2\n",                   "bad.yaml:8:12: priority is 35; expected 50, 40, 30, 20, 10, 8, 5, 0 or auto\n"
     "bad.yaml:11:3: unknown field 'gpu_per_node' in 'resources'; did you mean 'gpus_per_node'?"       },
    {"version: 3\ncommand: x\npriorty: 30\n",
     "bad.yaml:3:1: unknown field 'priorty'; did you mean 'priority'?"                                                                                                        },
    {"version: 3\ncommand: x\nzzzzzzzzzz: 30\n",                                          "bad.yaml:3:1: unknown field 'zzzzzzzzzz'"                                          },
    {"command: x\n",                                                                      "bad.yaml:1:1: version is missing; expected 3"                                      },
    {"version: 2\ncommand: x\n",
     "bad.yaml:1:10: version is 2, a job file of HAI Platform, which is not yet supported; "
     "expected 3"                                                                                                                                                             },
    {"version: 4\ncommand: x\n",                                                          "bad.yaml:1:10: version is 4; expected 3"                                           },
    {"version: '3'\ncommand: x\n",                                                        "bad.yaml:1:10: version is 3; expected 3"                                           },
    {"version: 3\n",                                                                      "bad.yaml:1:1: command is missing; kind command runs it on every rank"              },
    {"version: 3\ncommand: ''\n",
     "bad.yaml:2:10: command is empty; expected text for /bin/sh, or a list of words"                                                                                         },
    {"version: 3\ncommand: []\n",
     "bad.yaml:2:10: command is a list; expected text for /bin/sh, or a list of words"                                                                                        },
    {"version: 3\ncommand: x\ntime_limit: 90\n",
     "bad.yaml:3:13: time_limit is 90; expected a duration with a unit, such as 90s, 30m, 6h or "
     "3d"                                                                                                                                                                     },
    {"version: 3\ncommand: x\ntime_limit: 1ms\n",
     "bad.yaml:3:13: time_limit is 1ms; expected 1s to 3653d"                                                                                                                 },
    {"version: 3\ncommand: x\nresources: {memory: 80}\n",
     "bad.yaml:3:21: resources.memory is 80; expected a size with a unit, such as 80GiB or "
     "512MiB"                                                                                                                                                                 },
    {"version: 3\ncommand: x\nresources: {nodes: 0}\n",
     "bad.yaml:3:20: resources.nodes is 0; expected a whole number from 1 to 10000"                                                                                           },
    {"version: 3\ncommand: x\nresources: {nodes: 1.5}\n",
     "bad.yaml:3:20: resources.nodes is 1.5; expected a whole number from 1 to 10000"                                                                                         },
    {"version: 3\ncommand: x\nresources: [1]\n",
     "bad.yaml:3:12: resources is a list; expected fields with values, such as `key: value`"                                                                                  },
    {"version: 3\ncommand: x\nresources: {ranks: per-rack}\n",
     "bad.yaml:3:20: resources.ranks is per-rack; expected per-gpu, per-node or a number from 1 to "
     "4096"                                                                                                                                                                   },
    {"version: 3\ncommand: x\nresources: {ranks: per-gpu}\n",
     "bad.yaml:3:1: resources.ranks is per-gpu and gpus_per_node is 0; expected per-node or a "
     "number"                                                                                                                                                                 },
    {"version: 3\ncommand: x\nresources: {cross_zones: yes}\n",
     "bad.yaml:3:26: resources.cross_zones is yes; expected true or false"                                                                                                    },
    {"version: 3\ncommand: x\nname: Big\n",
     "bad.yaml:3:7: name is Big; expected a letter, then letters, digits and ._- in lower case, at "
     "most 63"                                                                                                                                                                },
    {"version: 3\nkind: serve\nserve: {model: /m}\n",
     "bad.yaml:2:7: kind serve is not yet supported; expected command or train\n"
     "bad.yaml:3:1: 'serve' is not yet supported"                                                                                                                             },
    {"version: 3\nkind: trian\ncommand: x\n",
     "bad.yaml:2:7: kind is trian; expected command or train"                                                                                                                 },
    {"version: 3\ncommand: x\nlog_dir: /x\n",                                             "bad.yaml:3:1: 'log_dir' is not yet supported"                                      },
    {"version: 3\ncommand: x\nafter: {ok: [tokenise, 41], any: [42], singleton: true}\n", "ok"                                                                                },
    {"version: 3\ncommand: x\nafter: {okay: [a]}\n",
     "bad.yaml:3:9: unknown field 'okay' in 'after'"                                                                                                                          },
    {"version: 3\ncommand: x\nafter: [a]\n",
     "bad.yaml:3:8: after is a list; expected fields with values, such as `key: value`"                                                                                       },
    {"version: 3\ncommand: x\nafter: {singleton: yes}\n",
     "bad.yaml:3:20: after.singleton is yes; expected true or false"                                                                                                          },
    {"version: 3\ncommand: x\narray: 0-99%8\n",                                           "ok"                                                                                },
    {"version: 3\ncommand: x\narray: 1,3,7-9\n",                                          "ok"                                                                                },
    {"version: 3\ncommand: x\narray: 0-90:10\n",                                          "ok"                                                                                },
    {"version: 3\ncommand: x\narray: 7\n",                                                "ok"                                                                                },
    {"version: 3\ncommand: x\narray: 9-7\n",
     "bad.yaml:3:8: array is 9-7; expected indices that ascend, at most 10000 of them, such as "
     "0-99, 1,3,7-9, 0-90:10 or 0-99%8 (8 at once)"                                                                                                                           },
    {"version: 3\ncommand: x\narray: 0-10000\n",
     "bad.yaml:3:8: array is 0-10000; expected indices that ascend, at most 10000 of them, such as "
     "0-99, 1,3,7-9, 0-90:10 or 0-99%8 (8 at once)"                                                                                                                           },
    {"version: 3\ncommand: x\narray: 1,1\n",
     "bad.yaml:3:8: array is 1,1; expected indices that ascend, at most 10000 of them, such as "
     "0-99, 1,3,7-9, 0-90:10 or 0-99%8 (8 at once)"                                                                                                                           },
    {"version: 3\ncommand: x\narray: 0-9%0\n",
     "bad.yaml:3:8: array is 0-9%0; expected indices that ascend, at most 10000 of them, such as "
     "0-99, 1,3,7-9, 0-90:10 or 0-99%8 (8 at once)"                                                                                                                           },
    {"version: 3\ncommand: x\nnot_before: 2h\n",                                          "ok"                                                                                },
    {"version: 3\ncommand: x\nnot_before: 18:00\n",                                       "ok"                                                                                },
    {"version: 3\ncommand: x\nnot_before: 2026-11-23 18:00\n",                            "ok"                                                                                },
    {"version: 3\ncommand: x\nnot_before: 2026-11-23T17:00:00Z\n",                        "ok"                                                                                },
    {"version: 3\ncommand: x\nnot_before: 2h ago\n",
     "bad.yaml:3:13: not_before is 2h ago; expected a time such as 18:00, 2026-11-23 18:00 or "
     "2026-11-23T17:00:00Z, or a delay such as 2h"                                                                                                                            },
    {"version: 3\nkind: train\n",                                                         "bad.yaml:1:1: train.config is missing; kind train reads it"                        },
    {"version: 3\nkind: train\ncommand: x\ntrain: {config: c}\n",
     "bad.yaml:3:1: 'command' belongs to kind command; kind train runs hai-train by itself"                                                                                   },
    {"version: 3\ncommand: x\ntrain: {config: c}\n",
     "bad.yaml:3:1: 'train' belongs to kind train; kind is command"                                                                                                           },
    {"version: 3\ncommand: x\nrestart: {when: [fault, reboot]}\n",
     "bad.yaml:3:25: restart.when is reboot; expected fault, node, signal, memory, hang or exit"                                                                              },
    {"version: 3\ncommand: x\ncheckpoint: {every: 10}\n",                                 "ok"                                                                                },
    {"version: 3\ncommand: x\ncheckpoint: {every: 10m}\n",                                "ok"                                                                                },
    {"version: 3\ncommand: x\ncheckpoint: {every: often}\n",
     "bad.yaml:3:21: checkpoint.every is often; expected auto, a number of steps, or a duration "
     "such as 10m"                                                                                                                                                            },
    {"version: 3\ncommand: x\nenv: {1A: x, B: [1]}\n",
     "bad.yaml:3:7: '1A' in 'env' is no variable name; expected letters, digits and _\n"
     "bad.yaml:3:17: env.B is a list; expected text"                                                                                                                          },
    {"version: 3\ncommand: x\nwarn_before: 5m\n",
     "bad.yaml:3:1: warn_before has no time_limit to come before; expected both"                                                                                              },
    {"version: 3\ncommand: x\nteam: 7\n",                                                 "bad.yaml:3:7: team is 7; expected text"                                            },
    {"3",                                                                                 "bad.yaml:1:1: the job file is 3; expected fields with values, such as `key: value`"},
    {"version: 3\ncommand: x\ncommand: y\n",
     "bad.yaml:3:1: 'command' is given twice; first on line 2"                                                                                                                },
};

TEST(documents)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct job_spec spec = {0};
        _cleanup_free_ char *result = read_one(cases[i].text, &spec);
        CHECK_STR(result, cases[i].result, "%s", cases[i].text);
        schema_free(job_spec_schema(), &spec);
    }
}

static const char everything[] =
    "version: 3\nname: gpt-small\nkind: command\n"
    "command: python3 -u train.py --ckpt $HAI_CKPT_DIR\nworkdir: /shared/alice/gpt\n"
    "setup: . /shared/venv/torch/bin/activate\nenv: {OMP_NUM_THREADS: 4, V: 1.10, ON: yes}\n"
    "team: nlp\nstage: pretrain\npriority: 20\n"
    "resources: {group: default, nodes: 2, gpus_per_node: 2, cpus: 8, memory: 80GiB,\n"
    "  ranks: 4, zones: [a, b], cross_zones: true, anti_affinity: true}\n"
    "time_limit: 3d\nwarn_before: 5m\ngrace: 1m30s\nrestart: {when: [fault, exit], max: 7}\n"
    "checkpoint: {dir: /shared/ckpt, every: 200, keep: 5}\nhold: true\n";

TEST(every_field)
{
    struct job_spec spec;
    _cleanup_free_ char *result = read_one(everything, &spec);

    CHECK_STR(result, "ok");
    if (test_failed())
        return;
    CHECK_EQ(spec.command.n, 3);
    CHECK_STR(spec.command.items[0], "/bin/sh");
    CHECK_STR(spec.command.items[2], "python3 -u train.py --ckpt $HAI_CKPT_DIR");
    CHECK_STR(spec.env.items[1].value, "1.10");
    CHECK_STR(spec.env.items[2].value, "yes");
    CHECK_STR(spec.priority, "20");
    CHECK_EQ(spec.resources.memory_bytes, INT64_C(80) << 30);
    CHECK(spec.resources.anti_affinity);
    CHECK_STR(spec.resources.ranks, "4");
    CHECK_EQ(spec.resources.zones.n, 2);
    CHECK_EQ(spec.time_limit_us, INT64_C(3) * 86400 * 1000000);
    CHECK_EQ(spec.grace_us, 90 * 1000000);
    CHECK_STR(spec.restart.when.items[1], "exit");
    CHECK_STR(spec.checkpoint.every, "200");
    CHECK(spec.hold);
    schema_free(job_spec_schema(), &spec);
}

TEST(written_specs_read_back)
{
    static const char *const texts[] = {
        everything,
        "version: 3\ncommand: [echo, '7', 'two words', \"q\\\"\\n\", yes, '', '#x']\n",
        "version: 3\nkind: train\ntrain: {config: c.yaml, model: m, data: ['a b', c], out: /o}\n",
        "version: 3\ncommand: 'echo \"x: y\" # z'\ntime_limit: 1500ms\ngrace: 0s\n"
        "resources: {group: '7'}\nstage: 'null'\n",
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct job_spec first, second;
        _cleanup_(buf_free) struct buf a = {0}, b = {0};
        _cleanup_free_ char *one = read_one(texts[i], &first);
        CHECK_STR(one, "ok");
        jobtext_write(&first, &a);
        _cleanup_free_ char *two = read_one(buf_cstr(&a), &second);
        CHECK_STR(two, "ok", "%s", buf_cstr(&a));
        if (test_failed())
            return;
        jobtext_write(&second, &b);
        CHECK_STR(buf_cstr(&a), buf_cstr(&b));
        CHECK_EQ(first.command.n, second.command.n);
        for (size_t k = 0; k < first.command.n; k++)
            CHECK_STR(first.command.items[k], second.command.items[k]);
        CHECK_EQ(first.time_limit_us, second.time_limit_us);
        CHECK_EQ(first.resources.memory_bytes, second.resources.memory_bytes);
        schema_free(job_spec_schema(), &first);
        schema_free(job_spec_schema(), &second);
    }
}

TEST(many_documents)
{
    static const char text[] = "version: 3\ncommand: a\n---\nversion: 3\n---\nversion: 3\n"
                               "command: c\n...\n";
    struct jobfile_errors errors = {0};
    _cleanup_(jobfile_closep) struct jobfile *f = jobfile_of_text(text, strlen(text), "m.yaml");
    struct job_spec spec;

    CHECK_EQ(jobfile_next(f, &spec, &errors), 1);
    schema_free(job_spec_schema(), &spec);
    CHECK_EQ(jobfile_next(f, &spec, &errors), -EINVAL);
    CHECK_EQ(errors.n, 1);
    CHECK_STR(errors.items[0].where, "m.yaml:4:1");
    CHECK_EQ(jobfile_next(f, &spec, &errors), 1);
    CHECK_STR(spec.command.items[2], "c");
    schema_free(job_spec_schema(), &spec);
    CHECK_EQ(jobfile_next(f, &spec, &errors), 0);
    jobfile_errors_free(&errors);
}

TEST(options)
{
    struct job_spec spec;
    struct hai_err err = {0};

    schema_init(job_spec_schema(), &spec);
    CHECK_EQ(jobfile_set(&spec, "resources.nodes", "2", "--nodes", &err), 0);
    CHECK_EQ(spec.resources.nodes, 2);
    CHECK_EQ(jobfile_set(&spec, "priority", "20", "--priority", &err), 0);
    CHECK_STR(spec.priority, "20");
    CHECK_EQ(jobfile_set(&spec, "time_limit", "6h", "--time-limit", &err), 0);
    CHECK_EQ(spec.time_limit_us, INT64_C(6) * 3600 * 1000000);
    CHECK_EQ(jobfile_set(&spec, "resources.nodes", "two", "--nodes", &err), -EINVAL);
    CHECK_STR(err.where, "--nodes");
    CHECK_STR(err.text, "resources.nodes is two; expected a whole number from 1 to 10000");
    CHECK_EQ(jobfile_set(&spec, "time_limit", "6", "--time-limit", &err), -EINVAL);
    schema_free(job_spec_schema(), &spec);
}

TEST(names)
{
    static const struct {
        const char *source, *name;
    } names[] = {
        {"train.yaml",       "train"  },
        {"/a/b/Big Job.yml", "big-job"},
        {"7.yaml",           "job-7"  },
        {"-",                "job"    },
        {"./x.tar.gz",       "x.tar"  },
        {"python3",          "python3"},
        {"日本",           "job"    },
    };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *name = jobfile_name_from(names[i].source);
        CHECK(jobfile_name_valid(name), "%s", name);
        CHECK_STR(name, names[i].name);
    }
    CHECK(!jobfile_name_valid(""));
    CHECK(!jobfile_name_valid("9a"));
    CHECK(!jobfile_name_valid("a b"));
}

/* The schema in the tree is the one these tables make; `hai example schema` prints it. */
TEST(json_schema_is_current)
{
    _cleanup_(buf_free) struct buf made = {0}, kept = {0};
    struct hai_err err = {0};

    jobtext_json_schema(&made);
    CHECK_EQ(fileio_read_file("etc/job.schema.json", 1 << 20, &kept, &err), 0, "%s", err.text);
    CHECK_STR(buf_cstr(&made), buf_cstr(&kept), "hai example schema > etc/job.schema.json");
}
