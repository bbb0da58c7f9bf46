/* dropping.h - which samples token dropping leaves whole, so that a model that was trained with
 * dropping also knows what sequences without are like.
 *
 * What is dropped of the others is k_route_drop's business. Source: DeepSeek-V2 report, section
 * 2.2.4 (about 10 % of the sequences).
 */
#pragma once
#include "lib/base.h"

/* Is nothing dropped of the sample with this global index? True for `share` of all samples, by a
 * draw of (seed, index) alone, so the same in every layout and after every restart. */
bool dropping_spares(uint64_t seed, int64_t index, double share);
