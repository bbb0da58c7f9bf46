/* jobtext.h - job specs as text: the job file of a spec, and the JSON Schema of job files.
 *
 * Made from the tables of messages.def, like the reader (jobfile.h): what is written here reads
 * back there to the same spec, which a test checks.
 */
#pragma once
#include "lib/pure/buf.h"
#include "wire/messages.h"

/* Append a spec as a job file; fields that have their default are left out. */
void jobtext_write(const struct job_spec *spec, struct buf *ret);

/* Append the JSON Schema (draft 2020-12) of job files: etc/job.schema.json. */
void jobtext_json_schema(struct buf *ret);
