#include "cli/clientconf.h"

#include "lib/fileio.h"
#include "lib/json.h"
#include "lib/yaml.h"
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

enum { FILE_BYTES_MAX = 1 << 16 };

void clientconf_free(struct clientconf *config) {
    free(config->server);
    free(config->token);
    free(config->from);
    *config = (struct clientconf){0};
}

void clientconf_user_free(struct clientconf_user *user) {
    free(user->name);
    free(user->home);
    *user = (struct clientconf_user){0};
}

void clientconf_caller(struct clientconf_user *ret) {
    const char *sudo_uid = getenv("SUDO_UID");
    bool sudo = geteuid() == 0 && sudo_uid && atoi(sudo_uid) > 0;
    uid_t uid = sudo ? (uid_t)atoi(sudo_uid) : geteuid();
    const char *home = getenv("HOME");
    const struct passwd *pw = NULL;

    // The account is looked up only where the environment does not tell: NSS costs milliseconds.
    if (sudo || !home || !home[0] || !getenv("USER"))
        pw = getpwuid(uid);
    ret->uid = uid;
    ret->gid = pw ? pw->pw_gid : getegid();
    ret->name = hai_strdup(pw ? pw->pw_name : getenv("USER"));
    if (!ret->name)
        ret->name = hai_asprintf("user%u", uid);
    ret->home = hai_strdup(pw && (sudo || !home || !home[0]) ? pw->pw_dir : home ? home : "/");
}

char *clientconf_path(void) {
    const char *path = getenv("HAI_CONFIG");
    const char *xdg = getenv("XDG_CONFIG_HOME");

    if (path && path[0])
        return hai_strdup(path);
    if (xdg && xdg[0] == '/')
        return hai_asprintf("%s/hai/config.yaml", xdg);
    const char *home = getenv("HOME");
    return hai_asprintf("%s/.config/hai/config.yaml", home ? home : "");
}

char *clientconf_up_dir(void) {
    struct clientconf_user user = {0};

    clientconf_caller(&user);
    char *dir = hai_asprintf("%s/.local/share/hai", user.home);
    clientconf_user_free(&user);
    return dir;
}

/* A variable that is set and not empty. */
static const char *variable(const char *name) {
    const char *value = getenv(name);

    return value && value[0] ? value : NULL;
}

static int read_token_file(const char *path, char **ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};

    int r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);
    if (r < 0)
        return hai_fail_at(err, r == -EACCES ? -EACCES : -EINVAL, NULL, NULL, NULL,
                           "token file %s: %s", path, strerrordesc_np(-r));
    while (text.n_bytes && strchr("\r\n \t", text.data[text.n_bytes - 1]))
        text.n_bytes--;
    hai_strset(ret, buf_cstr(&text));
    return 0;
}

static int check_mode(const char *path, struct hai_err *err) {
    struct stat st;

    if (stat(path, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode) && (st.st_mode & 077)) {
        char hint[HAI_ERR_HINT_BYTES];
        (void)snprintf(hint, sizeof hint, "chmod 600 %.150s", path);
        return hai_fail_at(err, -EINVAL, "bad_mode", path, hint, "mode is %03o; expected 600",
                           st.st_mode & 0777);
    }
    return 0;
}

static int check_keys(const struct json *tree, const char *path, struct hai_err *err) {
    static const char *const known[] = {"version", "server", "token", "token_file"};

    if (json_kind(tree) != JSON_KIND_OBJECT)
        return hai_fail_at(err, -EINVAL, NULL, path, NULL,
                           "expected `server: URL` and `token: ...`");
    for (const struct json *v = json_first(tree); v; v = json_next(v)) {
        bool found = false;
        for (size_t i = 0; i < ARRAY_SIZE(known); i++)
            found |= strcmp(known[i], json_key(v)) == 0;
        if (!found) {
            char where[HAI_ERR_WHERE_BYTES];
            (void)snprintf(where, sizeof where, "%.200s:%d:%d", path, json_key_line(v),
                           json_key_column(v));
            return hai_fail_at(err, -EINVAL, "unknown_field", where, NULL,
                               "unknown field '%.60s'; expected version, server, token or "
                               "token_file",
                               json_key(v));
        }
    }
    return 0;
}

static int read_file(const char *path, struct clientconf *config, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *tree = NULL;

    int r = check_mode(path, err);
    if (r == 0)
        r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);
    if (r == 0)
        r = yaml_parse(text.data, text.n_bytes, path, &tree, err);
    if (r == 0)
        r = check_keys(tree, path, err);
    if (r < 0)
        return r == -ENOENT || r == -EACCES ? r : -EINVAL;
    hai_strset(&config->server, json_get_string(tree, "server", NULL));
    hai_strset(&config->token, json_get_string(tree, "token", NULL));
    hai_strset(&config->from, path);
    const char *token_file = json_get_string(tree, "token_file", NULL);
    if (token_file && !config->token && !variable("HAI_TOKEN") && !variable("HAI_TOKEN_FILE"))
        return read_token_file(token_file, &config->token, err);
    return 0;
}

static int read_files(struct clientconf *config, struct hai_err *err) {
    _cleanup_free_ char *own = clientconf_path();
    _cleanup_free_ char *up_dir = clientconf_up_dir();
    _cleanup_free_ char *up = hai_asprintf("%s/client.yaml", up_dir);

    int r = read_file(own, config, err);
    if (r != -ENOENT)
        return r;
    if (variable("HAI_CONFIG"))
        return hai_fail_at(err, -EINVAL, NULL, own, NULL, "no such file; HAI_CONFIG names it");
    r = read_file(up, config, err);
    return r == -ENOENT ? 0 : r;
}

int clientconf_read(const char *server, struct clientconf *ret, struct hai_err *err) {
    struct clientconf config = {0};
    const char *env_server = variable("HAI_SERVER");
    const char *env_token = variable("HAI_TOKEN");
    const char *env_token_file = variable("HAI_TOKEN_FILE");
    int r = 0;

    // A file that nothing is taken from may be broken or absent.
    if (!((server || env_server) && (env_token || env_token_file)))
        r = read_files(&config, err);
    if (r == 0 && env_token)
        hai_strset(&config.token, env_token);
    else if (r == 0 && env_token_file)
        r = read_token_file(env_token_file, &config.token, err);
    if (r == 0 && (server || env_server)) {
        hai_strset(&config.server, server ? server : env_server);
        hai_strset(&config.from, server ? "--server" : "HAI_SERVER");
    }
    if (r == 0 && !config.server)
        r = hai_fail_at(err, -EINVAL, "not_configured", NULL,
                        "hai up starts a cluster here; hai init URL uses another",
                        "no cluster is configured");
    if (r < 0)
        clientconf_free(&config);
    else
        *ret = config;
    return r;
}
