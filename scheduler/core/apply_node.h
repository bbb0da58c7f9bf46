/* apply_node.h - entries about nodes and what agents report.
 *
 * Pure. Each function applies one kind: 0, or a refusal told in c->reply->err. Reports that come
 * twice, late or in another order change nothing (reply->changed stays false); those of an old
 * epoch are refused with -ESTALE, so that a rank that should not run can be told so.
 */
#pragma once
#include "scheduler/core/mutate.h"

int apply_node_up(struct mutate *c, const struct entry_node_up *in);
int apply_node_lost(struct mutate *c, const struct entry_node_lost *in);
int apply_node_fenced(struct mutate *c, const struct entry_node_fenced *in);
int apply_node_drain(struct mutate *c, const struct entry_node_drain *in);
int apply_node_undrain(struct mutate *c, const struct entry_node_undrain *in);
int apply_node_started(struct mutate *c, const struct entry_ranks_started *in);
int apply_node_exited(struct mutate *c, const struct entry_rank_exited *in);
int apply_node_gone(struct mutate *c, const struct entry_ranks_gone *in);
int apply_node_hung(struct mutate *c, const struct entry_rank_hung *in);
int apply_node_ckpt(struct mutate *c, const struct entry_ckpt_committed *in);

/* Hold what lost nodes hold for a whole lease from now. */
void apply_node_hold_anew(struct mutate *c);

/* A node's timer is due: its lease has surely run out. */
void apply_node_due(struct mutate *c, int node);
