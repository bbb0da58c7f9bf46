/* rankproto.h - the rank contract on the wire, for the agent and for clients in any language.
 *
 * Lines of words with a line feed at the end, at most RANK_LINE_MAX bytes, over the Unix stream
 * socket $HAI_SOCKET. The agent checks the peer's uid (SO_PEERCRED); the socket belongs to one
 * attempt. Numbers are decimal, binary values hexadecimal.
 *
 *   rank to agent
 *     hello 1 RANK                          first; RANK from the environment
 *     progress KEY=VALUE ...                step steps loss rate unit left_s phase; any of them
 *     phase NAME SECONDS                    train eval save load compile; at most that long
 *     commit STEP DIGEST DIR                record a durable checkpoint; DIR: rest of the line
 *     gather ROUND HEX                      my value in all-gather ROUND ([A-Za-z0-9._-])
 *   agent to rank
 *     welcome 1 JOB ATTEMPT EPOCH SECRET    answer to hello; SECRET: 64 digits, for collectives
 *     commit STEP ok | commit STEP refused REASON
 *     value ROUND RANK HEX                  one rank's value; from all ranks, in any order, then
 *     gathered ROUND N                      ... this
 *     terminate SECONDS | suspend SECONDS   SIGTERM comes now, SIGKILL so much later
 *     error TEXT                            the line before this was refused
 *
 * A rank that lost its connection says hello again and repeats every gather it ever sent (the agent
 * may have forgotten them, and others may still wait) and every commit without an answer. Repeating
 * one does no harm.
 */
#pragma once

enum {
    RANK_PROTO = 1,
    RANK_SECRET_BYTES = 32,
    RANK_VALUE_MAX = 4096, // bytes of one rank's value in an all-gather
    RANK_ROUNDS_MAX = 64,  // all-gathers of one rank's life
    RANK_COMMITS_MAX = 16, // checkpoints without an answer
    RANK_NAME_MAX = 63,    // of a round or a phase
    RANK_LINE_MAX = 16 * 1024,
};
