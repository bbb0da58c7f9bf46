#include "agent/accounts.h"
#include "agent/launch.h"
#include "lib/pure/map.h"
#include "lib/timefmt.h"
#include <grp.h>
#include <pwd.h>

enum { GROUPS_PER_USER_MAX = 65536, FRESH_US = 60 * 1000000 };

struct account {
    struct launch_account content;
    char *name, *home, *shell;
    gid_t *groups;
    int64_t looked_us;
};

struct accounts {
    struct map by_uid;
};

struct accounts *accounts_new(void) {
    return hai_new(struct accounts);
}

static void account_free(struct account *a) {
    free(a->name);
    free(a->home);
    free(a->shell);
    free(a->groups);
    free(a);
}

void accounts_free(struct accounts *accounts) {
    struct map_item *item;

    if (!accounts)
        return;
    for (size_t at = 0; (item = map_next(&accounts->by_uid, &at));)
        account_free(item->value);
    map_free(&accounts->by_uid);
    free(accounts);
}

static void load_groups(struct account *a, gid_t gid) {
    int n = 32;

    a->groups = hai_new_array(gid_t, (size_t)n);
    if (getgrouplist(a->name, gid, a->groups, &n) < 0) {
        n = MIN(n, GROUPS_PER_USER_MAX);
        a->groups = hai_realloc_array(a->groups, (size_t)n, sizeof *a->groups);
        if (getgrouplist(a->name, gid, a->groups, &n) < 0)
            n = 0;
    }
    a->content.groups = (const int32_t *)a->groups;
    a->content.n_groups = (size_t)n;
}

static struct account *load(uint32_t uid, uint32_t gid, const char *fallback_name) {
    struct account *a = hai_new(struct account);
    const struct passwd *pw = getpwuid(uid);

    a->name = hai_strdup(pw ? pw->pw_name : fallback_name ? fallback_name : "nobody");
    a->home = hai_strdup(pw && *pw->pw_dir ? pw->pw_dir : "/");
    a->shell = hai_strdup(pw && *pw->pw_shell ? pw->pw_shell : "/bin/sh");
    if (pw)
        load_groups(a, gid);
    a->content.uid = uid;
    a->content.name = a->name;
    a->content.home = a->home;
    a->content.shell = a->shell;
    return a;
}

void accounts_get(struct accounts *accounts, uint32_t uid, uint32_t gid, const char *fallback_name,
                  struct launch_account *ret) {
    struct account *a = map_get(&accounts->by_uid, uid);
    int64_t now_us = timefmt_monotonic_us();

    if (!a || now_us - a->looked_us > FRESH_US) {
        if (a)
            account_free(a);
        a = load(uid, gid, fallback_name);
        a->looked_us = now_us;
        map_put(&accounts->by_uid, uid, a);
    }
    *ret = a->content;
    ret->gid = gid;
}
