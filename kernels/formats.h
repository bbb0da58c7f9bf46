/* formats.h - numbers of 16, 12 and 8 bits, to and from float32.
 *
 * Conversions to them round to the nearest, ties to even. bf16 and float16 keep infinities and NaN
 * (above 65,520 float16 is infinite). E4M3 is the OCP format without
 * infinities: 1 sign, 4 exponent bits (bias 7), 3 of fraction, largest 448, saturating, 0x7f and
 * 0xff NaN. E5M2 is float16 cut to 2 bits of fraction: largest 57,344, saturating here.
 * Source: Micikevicius and others, FP8 Formats for Deep Learning, 2022. E5M6 is float16 cut to 6
 * bits of fraction, largest 65,024, saturating: exponent 31 is no number's, NaN has it. Two of them
 * lie in three bytes, the lower bits first. Source: DeepSeek-V3, section 3.3.3.
 */
#pragma once
#include "lib/base.h"

float k_from_bf16(uint16_t bits);
float k_from_f16(uint16_t bits);
float k_from_e4m3(uint8_t bits);
float k_from_e5m2(uint8_t bits);
float k_from_e5m6(uint16_t bits); // the lower 12

uint16_t k_to_bf16(float x);
uint16_t k_to_f16(float x);
uint8_t k_to_e4m3(float x);
uint8_t k_to_e5m2(float x);
uint16_t k_to_e5m6(float x);

/* Number i of packed E5M6. */
static inline uint16_t k_e5m6_get(const uint8_t *data, int64_t i) {
    const uint8_t *pair = data + i / 2 * 3;

    return (uint16_t)(i % 2 ? pair[1] >> 4 | pair[2] << 4 : pair[0] | (pair[1] & 0x0f) << 8);
}

static inline void k_e5m6_put(uint8_t *data, int64_t i, uint16_t bits) {
    uint8_t *pair = data + i / 2 * 3;

    pair[i % 2 ? 2 : 0] = (uint8_t)(i % 2 ? bits >> 4 : bits);
    pair[1] = (uint8_t)(i % 2 ? (pair[1] & 0x0f) | (bits & 0x0f) << 4
                              : (pair[1] & 0xf0) | (bits >> 8 & 0x0f));
}
