/* apply_cluster.h - entries that describe the cluster and its accounts.
 *
 * Pure. Each function applies one kind: 0, or a refusal told in c->reply->err. Payloads may be
 * taken apart.
 */
#pragma once
#include "scheduler/core/mutate.h"

int apply_cluster_set(struct mutate *c, struct entry_cluster_set *in);
int apply_cluster_start(struct mutate *c, const struct entry_sched_start *in);
int apply_cluster_user(struct mutate *c, struct entry_user_set *in);
int apply_cluster_token(struct mutate *c, struct entry_token_create *in);
int apply_cluster_revoke(struct mutate *c, const struct entry_token_revoke *in);
