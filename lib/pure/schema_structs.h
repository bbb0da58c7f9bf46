/* schema_structs.h - field macros that declare the struct of each SCHEMA(...) of a .def file.
 *
 * Included without guard: set, include the .def, then include schema_undef.h.
 */
#define SCHEMA(name, doc, ...)                                                                     \
    struct name {                                                                                  \
        __VA_ARGS__                                                                                \
    };                                                                                             \
    const struct schema *name##_schema(void);
#define F_I64(name, min, max, def, doc) int64_t name;
#define F_F64(name, def, doc) double name;
#define F_BOOL(name, def, doc) bool name;
#define F_ENUM(name, type, def, doc) enum type name;
#define F_TIME(name, def, doc) int64_t name;
#define F_DURATION(name, min, max, def, doc) int64_t name;
#define F_SIZE(name, min, max, def, doc) int64_t name;
#define F_STR(name, bytes_max, def, doc) char *name;
#define F_BLOB(name, bytes_max, doc) struct schema_blob name;
#define F_SUB(name, type, doc) struct type name;
#define F_LIST(name, type, n_max, doc) SCHEMA_LIST(struct type) name;
#define F_STRS(name, bytes_max, n_max, doc) SCHEMA_LIST(char *) name;
#define F_I64S(name, min, max, n_max, doc) SCHEMA_LIST(int64_t) name;
#define F_MAP(name, bytes_max, n_max, doc) SCHEMA_LIST(struct schema_pair) name;
#define F_JSON(name, bytes_max, doc) char *name;
