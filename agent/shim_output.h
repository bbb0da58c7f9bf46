/* shim_output.h - a rank's output into its two files. Part of hai-shim.
 *
 * RANK.log holds the newest bytes and RANK.log.BASE those before BASE; offsets count from the first
 * byte ever written, so a reader's place survives a rotation. Every line begins with the time its
 * first byte came: `2026-11-23T13:11:40.102Z text`.
 */
#pragma once
#include "agent/shim.h"

enum { SHIM_OUTPUT_LINE_MAX = 16 * 1024 }; // a longer stretch is cut

/* Make the directories and the rank's file. A failure is told on our stderr; output is then lost,
 * the rank runs. */
void shim_output_open(struct shim *s, struct shim_rank *rank);

/* Bytes of a rank, as they came. */
void shim_output_write(struct shim *s, struct shim_rank *rank, const char *data, size_t n_bytes);

/* Close the last line. */
void shim_output_end(struct shim *s, struct shim_rank *rank);
