/* schema_tables.h - field macros that define NAME_schema() for each SCHEMA(...) of a .def file.
 *
 * Included without guard: set, include the .def, then include schema_undef.h.
 */
#define SCHEMA(tag, docs, ...)                                                                     \
    const struct schema *tag##_schema(void) {                                                      \
        typedef struct tag self;                                                                   \
        static const struct schema_field fields[] = {__VA_ARGS__};                                 \
        static const struct schema schema = {                                                      \
            .name = #tag,                                                                          \
            .doc = docs,                                                                           \
            .n_bytes = sizeof(self),                                                               \
            .fields = fields,                                                                      \
            .n_fields = ARRAY_SIZE(fields),                                                        \
        };                                                                                         \
        return &schema;                                                                            \
    }
#define SCHEMA_F_(field, kind, docs, ...)                                                          \
    {.name = #field, .doc = docs, .type = kind, .offset = offsetof(self, field), __VA_ARGS__},
#define F_I64(name, lo, hi, d, doc) SCHEMA_F_(name, SCHEMA_I64, doc, .min = lo, .max = hi, .def = d)
#define F_F64(name, d, doc) SCHEMA_F_(name, SCHEMA_F64, doc, .def = d)
#define F_BOOL(name, d, doc) SCHEMA_F_(name, SCHEMA_BOOL, doc, .max = 1, .def = d)
#define F_ENUM(name, type, d, doc)                                                                 \
    SCHEMA_F_(name, SCHEMA_ENUM, doc, .def = d, .enums = &type##_enum)
#define F_TIME(name, d, doc) SCHEMA_F_(name, SCHEMA_TIME, doc, .max = INT64_MAX - 1, .def = d)
#define F_DURATION(name, lo, hi, d, doc)                                                           \
    SCHEMA_F_(name, SCHEMA_DURATION, doc, .min = lo, .max = hi, .def = d)
#define F_SIZE(name, lo, hi, d, doc)                                                               \
    SCHEMA_F_(name, SCHEMA_SIZE, doc, .min = lo, .max = hi, .def = d)
#define F_STR(name, bytes_max, d, doc) SCHEMA_F_(name, SCHEMA_STR, doc, .max = bytes_max, .def = d)
#define F_BLOB(name, bytes_max, doc)                                                               \
    SCHEMA_F_(name, SCHEMA_BLOB, doc, .max = bytes_max, .def = S_ABSENT)
#define F_SUB(name, type, doc) SCHEMA_F_(name, SCHEMA_SUB, doc, .sub = type##_schema)
#define F_LIST(name, type, count, doc)                                                             \
    SCHEMA_F_(name, SCHEMA_LIST_SUB, doc, .n_max = count, .sub = type##_schema)
#define F_STRS(name, bytes_max, count, doc)                                                        \
    SCHEMA_F_(name, SCHEMA_LIST_STR, doc, .max = bytes_max, .n_max = count)
#define F_I64S(name, lo, hi, count, doc)                                                           \
    SCHEMA_F_(name, SCHEMA_LIST_I64, doc, .min = lo, .max = hi, .n_max = count)
#define F_MAP(name, bytes_max, count, doc)                                                         \
    SCHEMA_F_(name, SCHEMA_LIST_PAIR, doc, .max = bytes_max, .n_max = count)
#define F_JSON(name, bytes_max, doc)                                                               \
    SCHEMA_F_(name, SCHEMA_JSON, doc, .max = bytes_max, .def = S_ABSENT)
