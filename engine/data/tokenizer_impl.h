/* tokenizer_impl.h - what tokenizer.c and the reader of its files share. */
#pragma once
#include "engine/data/added.h"
#include "engine/data/bpe.h"
#include "engine/data/nfc.h"
#include "engine/data/split.h"
#include "engine/data/tokenizer.h"
#include "engine/data/vocab.h"

/* ADDED: found by its text alone (added.h); SPECIAL: left out of decoded text. */
enum { TOKENIZER_ADDED = 1, TOKENIZER_SPECIAL = 2 };

enum { TOKENIZER_STEPS_MAX = 16, TOKENIZER_FILE_BYTES_MAX = 64 << 20 };

struct tokenizer {
    char *dir; // where the files are; NULL: bytes, or not from a folder
    struct vocab vocab;
    uint8_t *kinds; // by id: bits below
    int32_t begin, end;
    uint64_t digest;
    struct bpe *bpe;                          // NULL: bytes
    struct nfc *nfc;                          // NULL: text is taken as it is
    struct split *steps[TOKENIZER_STEPS_MAX]; // each cuts what the one before left into words
    int n_steps;
    struct added added;
    struct buf normal, normal_marks; // scratch of tokenizer_encode
};
