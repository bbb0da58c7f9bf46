#include "cli/verbs.h"

static const struct verb *const list[] = {
    &verb_up,       &verb_down,   &verb_init,     &verb_whoami, &verb_doctor,  &verb_submit,
    &verb_run,      &verb_python, &verb_bash,     &verb_exec,   &verb_example, &verb_check,
    &verb_list,     &verb_queue,  &verb_status,   &verb_why,    &verb_events,  &verb_logs,
    &verb_plot,     &verb_wait,   &verb_describe, &verb_attach, &verb_shell,   &verb_stop,
    &verb_suspend,  &verb_resume, &verb_rerun,    &verb_set,    &verb_nodes,   &verb_drain,
    &verb_undrain,  &verb_usage,  &verb_quota,    &verb_user,   &verb_token,   &verb_reserve,
    &verb_complete, NULL,
};

const struct verb *const *verbs_all(void) {
    return list;
}

const struct verbs_program *verbs_programs(void) {
    static const struct verbs_program programs[] = {
        {"chat", "enter",   "talk with a model"                       },
        {"sim",  "operate", "what would happen, on a recorded cluster"},
        {NULL,   NULL,      NULL                                      },
    };

    return programs;
}

const struct verb *verbs_find(const char *name) {
    for (const struct verb *const *v = list; *v; v++)
        if (strcmp((*v)->name, name) == 0)
            return *v;
    return NULL;
}
