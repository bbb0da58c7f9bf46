/* messages_doc.h - the list of messages as a page for people: docs/messages.md.
 *
 * Made from messages.def, so the page cannot disagree with the programs; a test compares the page
 * in the tree with this text.
 */
#pragma once
#include "lib/pure/buf.h"

/* Append the page, Markdown. */
void messages_doc(struct buf *ret);
