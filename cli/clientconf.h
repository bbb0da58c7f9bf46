/* clientconf.h - which scheduler `hai` talks to, and with which token.
 *
 * The file is $HAI_CONFIG, else ~/.config/hai/config.yaml, else the client.yaml that `hai up` left
 * in its default directory. HAI_SERVER, HAI_TOKEN and HAI_TOKEN_FILE override it, --server
 * overrides all. A file that others may read is refused: it holds a token.
 */
#pragma once
#include "lib/base.h"

struct clientconf {
    char *server;
    char *token; // NULL: none
    char *from;  // where server was found, for messages
};

/* server: of --server, or NULL. -EINVAL: nothing configured, or a bad file; -EACCES: its mode. */
int clientconf_read(const char *server, struct clientconf *ret, struct hai_err *err);
void clientconf_free(struct clientconf *config);

/* The user's own file, and the default directory of `hai up`; the caller frees. The latter is below
 * the calling user's home also under sudo. */
char *clientconf_path(void);
char *clientconf_up_dir(void);

/* The user who called: under sudo the one before it. Returns the uid. */
struct clientconf_user {
    char *name;
    char *home;
    uint32_t uid;
    uint32_t gid;
};
void clientconf_caller(struct clientconf_user *ret);
void clientconf_user_free(struct clientconf_user *user);
