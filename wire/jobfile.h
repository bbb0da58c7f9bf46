/* jobfile.h - job files: YAML of people into struct job_spec.
 *
 * Driven by the tables of messages.def: what a field is called, its type and its bounds stand
 * there; here stand the liberties that only job files have (durations and sizes with units, a
 * command as text, a priority as a number) and the rules between fields. Every error of a document
 * is collected, so that a person mends a file once. Defaults that depend on where a submission is
 * made (name, workdir) are the caller's; writing job files is jobtext.h's business.
 */
#pragma once
#include "wire/messages.h"

enum { JOBFILE_ERRORS_MAX = 50 }; // kept of one document

/* What is wrong with a document, in the order of the file. Each where is file:line:column. */
struct jobfile_errors {
    struct hai_err *items;
    size_t n;
};

void jobfile_errors_free(struct jobfile_errors *errors);

/* The documents of a file or stream, read one by one. */
struct jobfile;

/* Over a text or a blocking descriptor; neither is owned, and both (and file, which errors name)
 * must stay until jobfile_close. */
struct jobfile *jobfile_of_text(const void *text, size_t n_bytes, const char *file);
struct jobfile *jobfile_of_fd(int fd, const char *file);
void jobfile_close(struct jobfile *jobfile);
DEFINE_CLEANUP(struct jobfile *, jobfile_close)

/* The next job: 1 and a spec for schema_free(job_spec_schema(), ret), or 0 at the end.
 *
 * -EINVAL: a document with errors, appended to `errors`; the next call reads on. Bad YAML also ends
 * the stream (-EBADMSG). ret is untouched then.
 */
int jobfile_next(struct jobfile *jobfile, struct job_spec *ret, struct jobfile_errors *errors);

/* Read one option value the way the file's field is read, e.g. ("resources.nodes", "2"): job
 * options of the command line override files. name is a path of field names of the file, where
 * goes into the error (a flag). -EINVAL as above. */
int jobfile_set(struct job_spec *spec, const char *name, const char *value, const char *where,
                struct hai_err *err);

/* Rules between fields (a command or a train block, ranks and GPUs, ...), for specs that did not
 * come from a file. Returns 0 or -EINVAL with the first one broken. */
int jobfile_check(const struct job_spec *spec, struct hai_err *err);

/* Whether a text may be a job's name: a letter, then [a-z0-9._-], at most JOB_NAME_MAX. */
bool jobfile_name_valid(const char *name);

/* Make a name of anything (a path, a command): base name without extension, what is not allowed
 * becomes `-`. Never empty; the caller frees. */
char *jobfile_name_from(const char *source);
