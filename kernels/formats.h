/* formats.h - numbers of 16 and 8 bits, to and from float32.
 *
 * Conversions to them round to the nearest, ties to even. bf16 and float16 keep infinities and NaN
 * (above 65,520 float16 is infinite). E4M3 is the OCP format without
 * infinities: 1 sign, 4 exponent bits (bias 7), 3 of fraction, largest 448, saturating, 0x7f and
 * 0xff NaN. E5M2 is float16 cut to 2 bits of fraction: largest 57,344, saturating here.
 * Source: Micikevicius and others, FP8 Formats for Deep Learning, 2022.
 */
#pragma once
#include "lib/base.h"

float k_from_bf16(uint16_t bits);
float k_from_f16(uint16_t bits);
float k_from_e4m3(uint8_t bits);
float k_from_e5m2(uint8_t bits);

uint16_t k_to_bf16(float x);
uint16_t k_to_f16(float x);
uint8_t k_to_e4m3(float x);
uint8_t k_to_e5m2(float x);
