/* hai example: a commented job file to start from. */
#include "cli/verbs.h"
#include "lib/yaml.h"
#include "wire/jobtext.h"
#include <stdio.h>

static const char example_command[] =
    "# A job file of hai, version 3. `hai check FILE` checks it, `hai submit FILE` queues it.\n"
    "version: 3\n"
    "name: hello                    # a letter, then [a-z0-9._-]; default: the file's name\n"
    "command: echo \"rank $RANK of $WORLD_SIZE on $HAI_NODE\"   # text: /bin/sh -c; list: as it "
    "is\n"
    "# workdir: /shared/me/hello    # default: where `hai submit` was typed; must exist on the "
    "node\n"
    "# setup: . /shared/venv/bin/activate          # runs before the command, same shell\n"
    "env: {OMP_NUM_THREADS: 1}\n"
    "priority: auto                 # 50 40 30 20 10 8 5 0 or auto; higher goes first\n"
    "resources:\n"
    "  group: default               # which nodes\n"
    "  nodes: 2\n"
    "  gpus_per_node: 2             # 0: a CPU job\n"
    "  ranks: per-gpu               # per-gpu (torch.distributed), per-node (torchrun, MPI), "
    "number\n"
    "  # reservation: demo          # on its nodes, while it is active: hai reserve\n"
    "# team: nlp                    # who pays; default: your own\n"
    "# stage: pretrain              # a free label: a row of `hai usage`\n"
    "# after: {ok: [prepare]}       # ok, any, failed: ids or names; singleton: true\n"
    "# not_before: 2h               # or \"18:00\", or a date and time\n"
    "# array: 0-99%8                # 100 jobs with HAI_ARRAY_INDEX, at most 8 at once\n"
    "time_limit: 1h                 # durations and sizes carry a unit: 90s 30m 6h 3d, 80GiB\n"
    "restart: {when: [fault], max: 20}   # fault: node, signal, memory, hang; add exit for others\n"
    "# checkpoint: {dir: /shared/me/hello/ckpt, keep: 3}   # HAI_CKPT_DIR; default: "
    "STATE/ckpt/ID\n";

static const char example_train[] =
    "# A training job of hai: hai-train runs on every rank, saves checkpoints, resumes by itself.\n"
    "version: 3\n"
    "name: gpt-small\n"
    "kind: train\n"
    "train:\n"
    "  config: train.yaml           # of hai-train: share/hai/examples/train.yaml has every key\n"
    "  model: config.json           # of the model, in Hugging Face form, or a checkpoint\n"
    "  data: [/shared/text]         # files, directories or patterns\n"
    "  out: out                     # receives the trained model\n"
    "resources:\n"
    "  nodes: 2\n"
    "  gpus_per_node: 2\n"
    "restart: {max: 100}\n"
    "checkpoint: {every: auto, keep: 3}\n";

/* JSON has no comments; what is left is a job file as well. */
static void print_example(const struct cli *cli, const char *text) {
    _cleanup_(json_freep) struct json *tree = NULL;

    if (!cli->json) {
        fputs(text, stdout);
        return;
    }
    int r = yaml_parse(text, strlen(text), NULL, &tree, NULL);
    assert(r == 0);
    cli_print_json(tree);
}

static int run(struct cli *cli) {
    const char *kind = cli->n_words ? cli->words[0] : "command";
    _cleanup_(buf_free) struct buf schema = {0};

    if (strcmp(kind, "command") == 0) {
        print_example(cli, example_command);
    } else if (strcmp(kind, "train") == 0) {
        print_example(cli, example_train);
    } else if (strcmp(kind, "schema") == 0) {
        jobtext_json_schema(&schema);
        fputs(buf_cstr(&schema), stdout);
    } else if (strcmp(kind, "serve") == 0 || strcmp(kind, "generate") == 0 ||
               strcmp(kind, "validate") == 0) {
        return cli_usage(cli, "kind %s is not yet supported; expected command, train or schema",
                         kind);
    } else {
        return cli_usage(cli, "kind is '%s'; expected command, train or schema", kind);
    }
    return CLI_OK;
}

const struct verb verb_example = {
    .name = "example",
    .group = "submit",
    .args = "[KIND]",
    .help = "print a commented job file (command, train; schema: the JSON Schema)",
    .examples = "  hai example > hello.yaml\n  hai example train\n",
    .words_max = 1,
    .run = run,
};
