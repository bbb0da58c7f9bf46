/* verbs.h - every verb that is built into `hai`; one file each. */
#pragma once
#include "cli/cli.h"

/* All verbs, ended by NULL, in the order of `hai --help`; the one of a name, or NULL. */
const struct verb *const *verbs_all(void);
const struct verb *verbs_find(const char *name);

/* Verbs that are programs of their own, hai-NAME; ended by a NULL name. */
struct verbs_program {
    const char *name, *group, *help;
};
const struct verbs_program *verbs_programs(void);

/* The directory of `hai up`: of --dir, made if wanted, else the default. NULL and err: no such. */
char *verb_up_dir(const struct cli *cli, bool make, struct hai_err *err);

/* The administrator's connection to the cluster that lies there, whatever is configured. */
int verb_up_connect(struct cli *cli, const char *dir, int port, struct hai_err *err);

extern const struct verb verb_attach;
extern const struct verb verb_bash;
extern const struct verb verb_check;
extern const struct verb verb_complete;
extern const struct verb verb_describe;
extern const struct verb verb_doctor;
extern const struct verb verb_down;
extern const struct verb verb_drain;
extern const struct verb verb_events;
extern const struct verb verb_example;
extern const struct verb verb_exec;
extern const struct verb verb_init;
extern const struct verb verb_list;
extern const struct verb verb_logs;
extern const struct verb verb_nodes;
extern const struct verb verb_plot;
extern const struct verb verb_python;
extern const struct verb verb_queue;
extern const struct verb verb_rerun;
extern const struct verb verb_resume;
extern const struct verb verb_run;
extern const struct verb verb_set;
extern const struct verb verb_shell;
extern const struct verb verb_status;
extern const struct verb verb_stop;
extern const struct verb verb_submit;
extern const struct verb verb_suspend;
extern const struct verb verb_quota;
extern const struct verb verb_token;
extern const struct verb verb_undrain;
extern const struct verb verb_reserve;
extern const struct verb verb_user;
extern const struct verb verb_up;
extern const struct verb verb_usage;
extern const struct verb verb_wait;
extern const struct verb verb_whoami;
extern const struct verb verb_why;
