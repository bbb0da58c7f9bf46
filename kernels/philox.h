/* philox.h - counter-based random numbers: Philox4x32-10 and draws made of it.
 *
 * Nothing is stateful: a draw depends on the key (a run's or request's seed) and the counter, so no
 * layout, thread count or restart changes it. Counters: purpose, step or position, layer or
 * parameter, element. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
 */
#pragma once
#include <stdint.h>

/* What a draw is for: the first word of the counter, so that no two uses share numbers. */
enum philox_purpose {
    PHILOX_INIT = 1, // (parameter, element)
    PHILOX_SHUFFLE,  // of training data
    PHILOX_SAMPLE,   // of generated tokens: (position)
    PHILOX_MINHASH,  // functions of a signature: (number)
    PHILOX_MIDDLE,   // of documents, to be filled in: (upper, lower half of the number)
    PHILOX_PACKING,  // keys of the sources of samples: (number)
    PHILOX_WHOLE,    // samples that token dropping spares: (upper, lower half of the number)
    PHILOX_DROPOUT,  // (step, layer, element / 4)
};

struct philox_counter {
    uint32_t word[4];
};

/* Ten rounds: four 32-bit words from key and counter. */
void philox_words(uint64_t key, const struct philox_counter *counter, uint32_t ret[4]);

/* Counter of one draw: major is the step or position, minor the layer or parameter, index the
 * element. */
struct philox_counter philox_at(enum philox_purpose purpose, uint32_t major, uint32_t minor,
                                uint32_t index);

/* [0, 1) with 32 bits, and standard normal (Box-Muller, from two words). */
double philox_uniform(uint32_t word);
double philox_normal(uint32_t word_a, uint32_t word_b);
