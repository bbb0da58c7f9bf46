/* rope.h - the tables of cosines and sines that the rope operator reads.
 *
 * Computed in double with kmath, rounded once to float32: the same bits on every machine.
 */
#pragma once
#include "lib/base.h"

enum rope_scaling {
    ROPE_PLAIN,
    ROPE_LINEAR, // position / factor
    ROPE_LLAMA3, // by wavelength: long ones divided by factor, short ones kept, between
                 // interpolated
    ROPE_YARN,   // by dimension: Peng et al., 2023; and cos, sin times the attention factor
};

/* Fields of other kinds of scaling are not read. */
struct rope_rule {
    enum rope_scaling scaling;
    double theta;
    double factor;
    double original_position; // llama3, yarn
    double low_freq_factor;   // llama3
    double high_freq_factor;  // llama3
    double beta_fast;         // yarn
    double beta_slow;         // yarn
    double attention_factor;  // yarn: what cosines and sines are multiplied with
};

/* cosine and sine [n_positions, d / 2] of positions from 0; d is even. */
void rope_table(const struct rope_rule *rule, int64_t d, int64_t n_positions, float *cosine,
                float *sine);
