/* errline.h - an error as one line for people.
 *
 * "WHERE: TEXT" without saying the same twice: of where "priority" it is "priority is 31; expected
 * ...", of a flag "--nodes is 0; expected ..." in place of the field that the flag sets. Programs
 * that print errors do it here, so that those who make them need not know which of the two is
 * shown.
 */
#pragma once
#include "lib/base.h"

enum { ERRLINE_BYTES = HAI_ERR_WHERE_BYTES + HAI_ERR_TEXT_BYTES + 2 };

/* Returns ret. */
const char *errline_text(const struct hai_err *err, char ret[static ERRLINE_BYTES]);
