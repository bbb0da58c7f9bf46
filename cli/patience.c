#include "cli/patience.h"

#include "cli/local.h"
#include "lib/timefmt.h"
#include <poll.h>
#include <stdio.h>

enum { AGAIN_MS = 100 };
#define TOLD_US INT64_C(1000000) // most are back before anybody wonders

bool patience_wait(struct patience *patience, int64_t enough_us, bool quiet) {
    int64_t now_us = timefmt_monotonic_us();

    if (!patience->since_us)
        patience->since_us = now_us;
    if (now_us - patience->since_us >= enough_us)
        return false;
    if (!patience->told && now_us - patience->since_us >= TOLD_US) {
        if (!quiet)
            fprintf(stderr, "hai: the scheduler is away; waiting for it\n");
        patience->told = true;
    }
    (void)poll(NULL, 0, AGAIN_MS);
    return true;
}

static bool supervised_in(const char *dir, const char *url) {
    int port = local_port(dir);
    _cleanup_free_ char *address = hai_asprintf("http://127.0.0.1:%d", port);
    _cleanup_free_ char *name = hai_asprintf("http://localhost:%d", port);

    return port && (hai_streq(url, address) || hai_streq(url, name)) && local_supervisor(dir) > 0;
}

bool patience_supervised(const char *url, const char *from) {
    const char *slash = from ? strrchr(from, '/') : NULL;

    if (!from) // `hai up` watches what it starts
        return false;
    _cleanup_free_ char *beside = // client.yaml lies in the cluster's directory
        slash ? hai_strndup(from, (size_t)(slash - from)) : NULL;
    if (beside && supervised_in(beside, url))
        return true;
    _cleanup_free_ char *dir = clientconf_up_dir();
    return supervised_in(dir, url);
}
