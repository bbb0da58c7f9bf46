/* Linked into hai-schedd-power: its SQLite keeps writes in memory until they are synced. */
#include "tests/unit/power_vfs.h"

__attribute__((constructor)) static void power_on(void) {
    power_vfs_register(true);
}
