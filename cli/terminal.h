/* terminal.h - what `hai` does to the terminal it was called on, and how it leaves on Ctrl-C. */
#pragma once
#include "lib/base.h"

/* End with status 130 at SIGINT, after putting the terminal back and writing message (NULL: none;
 * it must live as long as the program). */
void terminal_catch_interrupt(const char *message);

/* Hand every key to the other side; undone by terminal_restore and at the end of the program. False
 * when stdin is no terminal. */
bool terminal_raw(void);
void terminal_restore(void);

/* Show nothing of what is typed, until terminal_restore. False when stdin is no terminal. */
bool terminal_silent(void);

/* Rows and columns of the terminal on stdout, 0 where it is none. */
void terminal_size(uint16_t *ret_rows, uint16_t *ret_cols);

/* Write a byte into fd when the window changes its size; -1: no more. */
void terminal_watch_size(int fd);
