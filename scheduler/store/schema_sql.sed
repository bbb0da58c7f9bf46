# Turns schema.sql into the C file schema_sql.c: one string, without the comments.
s/--.*//
s/["\\]/\\&/g
s/.*/    "&\\n"/
1i #include "scheduler/store/schema_sql.h"\nconst char schema_sql_text[] =
$a\    ;
