/* jobopts.h - the job options that submit, run and python share, and job specs made of a command
 * line or files.
 */
#pragma once
#include "cli/cli.h"
#include "wire/messages.h"

/* For struct verb's `more`. */
extern const struct option jobopts_table[];

/* Put the options given into a spec, over what a file said. Returns 0, or -EINVAL (told). */
int jobopts_apply(struct cli *cli, struct job_spec *spec);

/* Fill what depends on where a job is submitted: name (from source, a file or command), workdir,
 * the absolute form of relative directories. */
void jobopts_defaults(struct job_spec *spec, const char *source);

/* A spec that runs words as they are. */
void jobopts_of_command(char *const *words, int n_words, struct job_spec *ret);

/* Read every job of a file ("-": standard input, which is read as it comes) and give each to
 * `take`, which owns it from then on. All errors of the file are printed.
 *
 * Returns the number of jobs, -EINVAL (told; take may have been called before), or what take gave.
 */
int jobopts_read_file(struct cli *cli, const char *path,
                      int (*take)(void *context, struct job_spec *spec), void *context);
