/* prefix.h - the prefix cache: full pages of the key-value cache, found again by their token ids.
 *
 * A radix tree whose digits are whole pages: a node is one page of page_tokens ids, and the path to
 * it spells the tokens from position 0 on. As a page is in the tree at most once, a node's number
 * is the number of its page. The tree holds each of its pages once (pages.h); running sequences
 * hold those that they read besides, and pin their nodes.
 *
 * Salt: every path belongs to a 64-bit key, and paths of different keys never meet. The caller
 * gives each tenant a key of its own, so that nobody can learn from the time of his first token
 * what others have asked; tenants who agree to share get the same key. What else the cache's
 * contents depend on (an adapter, say) goes into the key too. Keys are compared whole, not by hash.
 * What remains to be seen across keys is only that the cache is finite: others' use evicts.
 *
 * Eviction: nodes that nobody pins lie in the order in which they were last let go, every node
 * before its parent, so the first one is always a leaf; it goes first.
 *
 * All memory is allocated by prefix_new: about 4 * page_tokens + 72 bytes a page. Calls about one
 * node take constant time (hashing its ids), those along a path constant time a node. The answers
 * do not depend on hash_seed; it keeps outsiders from choosing prompts that collide. One thread at
 * a time. Saving and loading: prefix_file.h.
 */
#pragma once
#include "engine/infer/pages.h"

enum {
    PREFIX_NONE = -1,        // no node: the root of every key
    PREFIX_SIBLINGS_MAX = 32 // of a node's children, the newest are looked at for a partial match
};

struct prefix;

/* A tree over the pages of p (borrowed, outlives it), empty. */
struct prefix *prefix_new(struct pages *p, uint64_t hash_seed);
void prefix_free(struct prefix *t); // lets go of all pages
DEFINE_CLEANUP(struct prefix *, prefix_free)

struct pages *prefix_pages(const struct prefix *t);
int32_t prefix_n_nodes(const struct prefix *t);
int32_t prefix_n_pinned(const struct prefix *t); // in the path of some pin
/* Nodes that prefix_evict can remove, sooner or later: all that are not pinned. */
int32_t prefix_n_evictable(const struct prefix *t);

/* The child of `node` (or a first page, if node is PREFIX_NONE) with exactly these page_tokens ids,
 * or PREFIX_NONE. Neither this nor the next changes the order of eviction. */
int32_t prefix_child(const struct prefix *t, uint64_t key, int32_t node, const int32_t *ids);

/* Of the children of `node`, the one that agrees longest with ids [n_ids], n_ids at most
 * page_tokens. Returns the number of leading ids in common, 0 if none, and with it the child. */
int32_t prefix_part(const struct prefix *t, uint64_t key, int32_t node, const int32_t *ids,
                    int32_t n_ids, int32_t *ret_page);

/* The pages of the path to `node`, n_pages of them, first page first. */
void prefix_path(const struct prefix *t, int32_t node, int32_t *ret_pages, int32_t n_pages);

/* Add a full page below `node`, which the caller has pinned (or PREFIX_NONE). The tree holds the
 * page. If it has these ids there already, nothing is added.
 * Returns the node: `page`, or the one that was there, which the caller may use instead: under
 * row-invariant kernels its bytes are the same, with fast_prefill but for rounding. */
int32_t prefix_add(struct prefix *t, uint64_t key, int32_t node, const int32_t *ids, int32_t page);

/* The same for filling a tree from a file: `node` need not be pinned, and the new node becomes the
 * first that eviction takes. Nodes come parents first, those used last first. */
int32_t prefix_restore(struct prefix *t, uint64_t key, int32_t node, const int32_t *ids,
                       int32_t page);

/* Keep a node and all above it, until prefix_unpin; pins are counted. PREFIX_NONE does nothing.
 * prefix_pin_child moves a pin that the caller has on a node's parent down to the node. */
void prefix_pin(struct prefix *t, int32_t node);
void prefix_pin_child(struct prefix *t, int32_t node);
void prefix_unpin(struct prefix *t, int32_t node);

/* Remove the leaf that was let go longest ago; the tree no longer holds its page.
 * Returns the page, or PREFIX_NONE if every node is pinned. */
int32_t prefix_evict(struct prefix *t);

/* Remove one leaf that nobody pins. */
void prefix_remove(struct prefix *t, int32_t node);

/* All nodes, parents before children: the pinned ones, then the others, last used first. So a first
 * part of the list is a tree as well. ret has room for prefix_n_nodes. */
void prefix_list(const struct prefix *t, int32_t *ret);

/* Parent, key and ids [page_tokens] of a node; the ids are valid until it is removed. */
int32_t prefix_parent(const struct prefix *t, int32_t node);
uint64_t prefix_key(const struct prefix *t, int32_t node);
const int32_t *prefix_ids(const struct prefix *t, int32_t node);

/* Assert what must be true of lists, counts and holders; time of all nodes. For tests. */
void prefix_check(const struct prefix *t);
