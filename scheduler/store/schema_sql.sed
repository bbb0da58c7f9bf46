# Turns schema.sql into the C header schema_sql.h: one string, without the comments.
s/--.*//
s/["\\]/\\&/g
s/.*/    "&\\n"/
1i static const char SCHEMA_SQL[] =
$a\    ;
