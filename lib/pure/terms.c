#include "lib/pure/terms.h"

DEFINE_ENUM(job_state, JOB_STATE, JOB_STATES);
DEFINE_ENUM(desired_phase, DESIRED_PHASE, DESIRED_PHASES);
DEFINE_ENUM(exit_cause, EXIT_CAUSE, EXIT_CAUSES);
