/* schema_sql.h - the text of schema.sql in the program; schema_sql.c is made from it by the build.
 */
#pragma once

extern const char schema_sql_text[];
