/* shim_life.h - what happens to ranks that run: their output is taken in, they are ended, they end.
 * Part of hai-shim. */
#pragma once
#include "agent/shim.h"

/* Take in what has come of a rank's output. Returns false at its end. */
bool shim_life_drain(struct shim *s, int index);

/* A rank ended; code and status as waitid gives them. Once for each. */
void shim_life_ended(struct shim *s, int index, int code, int status);

/* Carry out what an agent ordered, and the lease. */
void shim_life_orders(struct shim *s);
void shim_life_kill(struct shim *s, enum shim_cause cause);
