#include "lib/digest.h"
#include "lib/random.h"
#include "tests/unit/test.h"

/* FIPS 180-2 B.1, B.2; RFC 4231 test case 2. */
TEST(sha256_vectors)
{
    static const char *const texts[] = {
        "abc", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", ""};
    static const char *const sums[] = {
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"};
    uint8_t sum[DIGEST_SHA256_BYTES];
    char hex[DIGEST_SHA256_HEX_BYTES];

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        digest_sha256(texts[i], strlen(texts[i]), sum);
        digest_hex(sum, sizeof sum, hex);
        CHECK_STR(hex, sums[i]);
    }
    digest_hmac("Jefe", 4, "what do ya want for nothing?", 28, sum);
    digest_hex(sum, sizeof sum, hex);
    CHECK_STR(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(pieces_give_the_same)
{
    uint8_t data[1000];
    uint8_t whole[DIGEST_SHA256_BYTES];
    uint8_t pieces[DIGEST_SHA256_BYTES];

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31);
    _cleanup_(digest_freep) struct digest *sha = digest_new(DIGEST_SHA256);
    _cleanup_(digest_freep) struct digest *xxh = digest_new(DIGEST_XXH3);
    for (size_t at = 0; at < sizeof data; at += 125) {
        digest_add(sha, data + at, 125);
        digest_add(xxh, data + at, 125);
    }
    digest_sha256(data, sizeof data, whole);
    digest_end_sha256(sha, pieces);
    CHECK(digest_equal(whole, pieces, sizeof whole));
    pieces[31] ^= 1;
    CHECK(!digest_equal(whole, pieces, sizeof whole));
    CHECK(digest_end_xxh3(xxh) == digest_xxh3(data, sizeof data));
    CHECK(digest_xxh3("", 0) == 0x2d06800538d394c2); // the published value, seed 0
}

TEST(hex)
{
    uint8_t bytes[3] = {1, 2, 3};
    char text[7];

    CHECK_EQ(digest_unhex("00fFa9", 3, bytes), 0);
    digest_hex(bytes, 3, text);
    CHECK_STR(text, "00ffa9");
    CHECK_EQ(digest_unhex("00ffa", 3, bytes), -EINVAL);
    CHECK_EQ(digest_unhex("00ffag", 3, bytes), -EINVAL);
    CHECK_EQ(bytes[2], 0xa9, "unchanged on failure");
}

TEST(tokens_differ)
{
    char a[RANDOM_TOKEN_BYTES];
    char b[RANDOM_TOKEN_BYTES];

    random_token(a);
    random_token(b);
    CHECK_EQ(strlen(a), 64);
    CHECK_EQ(strspn(a, "0123456789abcdef"), 64);
    CHECK(strcmp(a, b) != 0);
    CHECK(random_u64() != random_u64());
}
