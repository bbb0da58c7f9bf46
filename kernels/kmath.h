/* kmath.h - exp, log, sine, cosine, power, tanh and erf in double, the same bits on every machine.
 *
 * glibc picks variants of these by processor, so kernels, tables and initialisation use these. Only
 * additions, multiplications and divisions in a written order; errors are below 2 units in the last
 * place over the ranges stated.
 */
#pragma once

double kmath_exp(double x); // 0 below -745, infinity above 709.78; NaN stays
double kmath_log(double x); // x > 0 and normal; -infinity at 0, NaN below
void kmath_sincos(double x, double *ret_sin, double *ret_cos); // |x| up to 1e6
double kmath_pow(double x, double y);                          // x > 0; exp(y log x)
double kmath_tanh(double x);                                   // any x; NaN stays
double kmath_erf(double x);                                    // any x; NaN stays
double kmath_sqrt(double x); // correctly rounded: the processor's instruction
