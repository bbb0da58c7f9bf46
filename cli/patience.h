/* patience.h - how long a scheduler that does not answer is waited for.
 *
 * One that its supervisor starts again is back within a second, or after PATIENCE_US at the latest;
 * one that nobody started does not come, and that is told at once.
 */
#pragma once
#include "lib/base.h"

/* What ended the scheduler may have ended it before, and then its supervisor pauses for up to 5 s.
 */
#define PATIENCE_US INT64_C(15000000)

struct patience {
    int64_t since_us; // of the first failure; 0: none
    bool told;
};

/* After a failure: wait a moment, and tell the person on stderr after a while unless quiet. False:
 * it was long enough. */
bool patience_wait(struct patience *patience, int64_t enough_us, bool quiet);

/* True if the scheduler at url is that of a `hai up` whose hai-upd lives: it will be started again.
 * from: where the url was found (clientconf.h); NULL: it is the verb's own, nobody is looked for.
 */
bool patience_supervised(const char *url, const char *from);
