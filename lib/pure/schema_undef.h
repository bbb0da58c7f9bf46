/* schema_undef.h - take the macros of schema_structs.h or schema_tables.h away again.
 *
 * Included without guard, after each of them.
 */
#undef SCHEMA
#undef SCHEMA_F_
#undef F_I64
#undef F_F64
#undef F_BOOL
#undef F_ENUM
#undef F_TIME
#undef F_DURATION
#undef F_SIZE
#undef F_STR
#undef F_BLOB
#undef F_SUB
#undef F_LIST
#undef F_STRS
#undef F_I64S
#undef F_MAP
#undef F_JSON
