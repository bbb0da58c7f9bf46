/* faults.h - what goes wrong in a storm.
 *
 * Every fault has a number and random numbers of its own, so that the others stay what they are
 * when one is left out (minimise.h).
 */
#pragma once
#include "sim/tempest.h"

/* Something breaks: a node, its network, its agent, a shim, a rank. Within a turn. */
void faults_break(struct tempest *t);

/* What a node lacks is given back. Within a turn. */
void faults_mend(struct tempest *t, int node);

/* Somebody says that a node was fenced in an earlier life. Within a turn. */
void faults_fenced(struct tempest *t, int node, int64_t boot);

/* Is the scheduler killed here? Then it has forgotten what it had not committed, or some of it. */
bool faults_kill(struct tempest *t, int64_t once_in, size_t n_committed);

/* It starts again. */
void faults_start(struct tempest *t);

/* For network.h and agents.h. */
bool faults_mishap(void *tempest, int node, enum network_mishap mishap);
enum agents_blow faults_strike(void *tempest, int node, enum agents_point point);
int64_t faults_stall(void *tempest, int node);
bool faults_start_fails(void *tempest, int node, enum exit_cause *ret_cause);
